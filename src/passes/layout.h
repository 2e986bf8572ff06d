// Channels last: the lowered stage computes on [N, H, W, C] while the file speaks [N, C, H, W].
#pragma once
#include "graph/graph.h"

namespace octavo {

inline const Ints to_nhwc{0, 2, 3, 1}, to_nchw{0, 3, 1, 2};

inline Value* transposed(Graph& graph, Value* x, const Ints& perm, Node* before) {
  return graph.apply("transpose", {x}, {{"perm", perm}}, "", before);
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
