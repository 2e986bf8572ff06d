// Channels last: the lowered stage computes on [N, H, W, C] while the file speaks [N, C, H, W].
#pragma once
#include "graph/graph.h"

namespace octavo {

inline const Ints to_nhwc{0, 2, 3, 1}, to_nchw{0, 3, 1, 2};

inline Value* transposed(Graph& graph, Value* x, const Ints& perm, Node* before) {
  return graph.apply("transpose", {x}, {{"perm", perm}}, "", before);
}
// A line [N, C, L] is an image [N, C, 1, L].
inline Value* as_image(Graph& graph, Value* x, Node* before) {
  if (x->shape().rank() != 3) return x;
  const Dims d = x->shape().dims();
  return graph.apply("reshape", {x}, {{"shape", Ints{d[0], d[1], 1, d[2]}}}, "", before);
}
// The attributes of a window that slides along a line, for the image.
inline void widen_window(Attributes& a) {
  for (const char* name : {"kernel", "strides", "dilations"})
    if (const auto it = a.find(name); it != a.end())
      if (auto& values = std::get<Ints>(it->second); values.size() == 1)
        values.insert(values.begin(), 1);
  if (const auto it = a.find("pads"); it != a.end())
    if (auto& pads = std::get<Ints>(it->second); pads.size() == 2) pads = {0, pads[0], 0, pads[1]};
}

inline bool is_transpose(const Node* node, const Ints& perm) {
  return node && node->is("transpose") && node->integers("perm") == perm;
}

// Replaces `old` (the output of `tail`) by `fresh` everywhere, erases tail and hands its name on.
// Nodes before tail that nobody reads any more are left for remove_dead.
inline void take_over(Graph& graph, Node* tail, Value* fresh) {
  const std::string name = tail->output()->name();
  graph.replace_all_uses(tail->output(), fresh);
  graph.erase(tail);
  if (!name.empty() && fresh->producer()) graph.rename(fresh, name);
}

}  // namespace octavo
