// conv_transpose as a conv that computes all s x s outputs between two inputs as channels of their
// own, and depth_to_space. Along one axis, with stride s, kernel positions k (dilated, 0 to K - 1),
// and o' = o + pad = q s + r:
//   y[o] = sum over t of x[q - t] w[r + t s],  0 <= r + t s < K
// so phase r is a conv over x with ceil(K / s) weights, w[r + t s] at place M - 1 - t.
#include <cstring>

#include "graph/op_def.h"
#include "ops/window.h"
#include "passes/layout.h"
#include "passes/match.h"
#include "passes/passes.h"

namespace octavo {
namespace {

// One axis.
struct Phases {
  int64_t stride, reach, taps;  // reach: K; taps: M
  int64_t pad_before, pad_after;
  int64_t count, skipped;  // positions q; outputs of the first one that the padding takes away
  int64_t size;            // outputs that stay
};

std::optional<std::vector<Phases>> phases_of(const Node& node, const Dims& w) {
  const ops::Window window = ops::window_of(node, {w[2], w[3]});
  const Dims x = node.input(0)->shape().dims(), y = node.output()->shape().dims();
  std::vector<Phases> axes;
  for (size_t i = 0; i < 2; ++i) {
    Phases p{};
    p.stride = window.strides[i];
    p.reach = (window.kernel[i] - 1) * window.dilations[i] + 1;
    p.taps = (p.reach + p.stride - 1) / p.stride;
    p.size = y[i + 2];
    if (p.size == 0) return std::nullopt;
    const int64_t first = window.pads[i] / p.stride,
                  last = (window.pads[i] + p.size - 1) / p.stride;
    p.pad_before = p.taps - 1 - first;
    p.pad_after = last + 1 - x[i + 2];
    p.count = last + 1 - first;
    p.skipped = window.pads[i] % p.stride;
    if (p.pad_before < 0 || p.pad_after < 0) return std::nullopt;
    axes.push_back(p);
  }
  if (axes[0].stride != axes[1].stride) return std::nullopt;
  return axes;
}

// Output channel of the conv: the block first, or last where groups need their channels together.
struct Channels {
  int64_t group, per_group, blocks;
  int64_t at(int64_t channel, int64_t block) const {
    return group == 1 ? block * per_group + channel : channel * blocks + block;
  }
  int64_t count() const { return group * per_group * blocks; }
};

// [C_in, C_out / group, kh, kw] to [C_out s s, C_in / group, M_h, M_w], zeros where no weight is.
Tensor phase_weights(const Tensor& w, const std::vector<Phases>& axes, const Ints& dilations,
                     const Channels& channels) {
  const Dims& d = w.dims();
  const int64_t s = axes[0].stride, in_per_group = d[0] / channels.group;
  Tensor out(w.dtype(), {channels.count(), in_per_group, axes[0].taps, axes[1].taps});
  std::memset(out.mutable_data(), 0, out.bytes());
  const size_t size = dtype_size(w.dtype());
  const auto place = [&](int64_t axis, int64_t k) {  // phase, and place in its kernel
    const Phases& p = axes[static_cast<size_t>(axis)];
    const int64_t at = k * dilations[static_cast<size_t>(axis)];
    return std::pair{at % s, p.taps - 1 - at / s};
  };
  for (int64_t c = 0; c < d[0]; ++c)
    for (int64_t o = 0; o < d[1]; ++o)
      for (int64_t kh = 0; kh < d[2]; ++kh)
        for (int64_t kw = 0; kw < d[3]; ++kw) {
          const auto [rh, th] = place(0, kh);
          const auto [rw, tw] = place(1, kw);
          const int64_t channel = channels.at(c / in_per_group * d[1] + o, rh * s + rw);
          const int64_t to =
              ((channel * in_per_group + c % in_per_group) * axes[0].taps + th) * axes[1].taps + tw;
          const int64_t from = ((c * d[1] + o) * d[2] + kh) * d[3] + kw;
          std::memcpy(out.mutable_data() + static_cast<size_t>(to) * size,
                      w.data() + static_cast<size_t>(from) * size, size);
        }
  return out;
}

// One number per output channel for each block; `per` of them repeat over the groups.
Tensor repeated(const Tensor& t, const Channels& channels) {
  Tensor out(t.dtype(), {channels.count()});
  const size_t size = dtype_size(t.dtype());
  for (int64_t c = 0; c < channels.group * channels.per_group; ++c)
    for (int64_t b = 0; b < channels.blocks; ++b)
      std::memcpy(out.mutable_data() + static_cast<size_t>(channels.at(c, b)) * size,
                  t.data() + static_cast<size_t>(c % t.size()) * size, size);
  return out;
}

// The weights of the conv: a constant, or a dequantized one; null if they are neither.
Value* conv_weights(Graph& graph, Node& node, const std::vector<Phases>& axes,
                    const Channels& channels) {
  const Ints dilations =
      ops::window_of(node, {node.input(1)->shape()[2].value(), node.input(1)->shape()[3].value()})
          .dilations;
  Value* w = node.input(1);
  const std::string name = node.name() + "/phases";
  if (w->is_constant())
    return graph.add_constant(name, phase_weights(w->constant(), axes, dilations, channels));
  Node* dequantize = w->producer();
  if (!dequantize || !dequantize->is("dequantize") || !dequantize->input(0)->is_constant())
    return nullptr;
  const auto info = quant_info(*dequantize);
  if (!info || (!info->per_tensor() && info->axis != 1)) return nullptr;
  for (const int32_t z : info->zero_points)
    if (z != 0) return nullptr;  // no weight is 0
  std::vector<Value*> inputs{graph.add_constant(
      name, phase_weights(dequantize->input(0)->constant(), axes, dilations, channels))};
  for (size_t i = 1; i < dequantize->inputs().size(); ++i) {
    Value* p = dequantize->input(i);
    if (p && p->constant().size() > 1)
      p = graph.add_constant(p->name() + "/phases", repeated(p->constant(), channels));
    inputs.push_back(p);
  }
  Attributes attributes = dequantize->attributes();
  if (!info->per_tensor()) attributes["axis"] = int64_t{0};
  return graph.apply("dequantize", inputs, std::move(attributes), dequantize->name(), &node);
}

// Of float values or integers of one scale: these may as well come before elements are moved.
bool is_elementwise(const Graph& graph, const Node* node, const Value* x) {
  if (!node || node->inputs().empty() || node->input(0) != x) return false;
  return clamp_bounds(*node) || only_byte_quantize(graph, x) == node;
}

void lower_one(Graph& graph, Node& node) {
  if (node.output()->shape().rank() != 4 || !node.input(0)->shape().is_static()) return;
  const Dims w = node.input(1)->shape().dims();
  const auto axes = phases_of(node, w);
  const Tensor bias = node.input(2) ? float_constant(node.input(2)) : Tensor();
  if (!axes || (node.input(2) && !bias)) return;
  const int64_t s = (*axes)[0].stride, group = node.integer("group");
  const Channels channels{group, w[1], s * s};
  Value* weights = conv_weights(graph, node, *axes, channels);
  if (!weights) return;
  std::vector<Value*> inputs{node.input(0), weights};
  if (bias) inputs.push_back(graph.add_constant(node.name() + "/bias", repeated(bias, channels)));
  const Ints pads{(*axes)[0].pad_before, (*axes)[1].pad_before, (*axes)[0].pad_after,
                  (*axes)[1].pad_after};
  Node* tail = &node;
  Value* y = graph.apply("conv", inputs, {{"group", group}, {"pads", pads}}, node.name(), &node);
  for (Node* next = only_user(graph, tail->output()); is_elementwise(graph, next, tail->output());
       next = only_user(graph, tail->output())) {
    std::vector<Value*> rest(next->inputs().begin(), next->inputs().end());
    rest[0] = y;
    y = graph.apply(next->op_name(), rest, next->attributes(), next->name(), next);
    tail = next;
  }
  if (s > 1)
    y = graph.apply("depth_to_space", {y},
                    {{"block", s}, {"mode", std::string(group == 1 ? "dcr" : "crd")}}, "", tail);
  Ints starts, ends;
  for (const Phases& p : *axes) {
    starts.push_back(p.skipped);
    ends.push_back(p.skipped + p.size);
  }
  y = graph.apply("slice", {y},
                  {{"starts", starts}, {"ends", ends}, {"axes", Ints{2, 3}}, {"steps", Ints{1, 1}}},
                  "", tail);
  take_over(graph, tail, y);
}

}  // namespace

void lower_conv_transpose(Graph& graph) {
  std::vector<Node*> nodes;  // first, for nodes behind them are erased
  graph.for_each([&](Node& node) {
    if (node.is("conv_transpose")) nodes.push_back(&node);
  });
  for (Node* node : nodes) lower_one(graph, *node);
}

}  // namespace octavo
