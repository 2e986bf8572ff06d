// Attention as one op, see passes.h. The integer parameters, one rounding each from float64:
//   score_multiplier = q_scale * k_scale * scale * log2(e), y_multiplier = v_scale / y_scale
#include <algorithm>
#include <cmath>
#include <numbers>

#include "graph/op_def.h"
#include "passes/attention.h"
#include "passes/layout.h"
#include "passes/match.h"
#include "passes/passes.h"

namespace octavo {
namespace {

bool is_batched_product(const Node* node) {
  return node && node->is("matmul") && node->input(0)->shape().rank() == 4 &&
         node->input(1)->shape().rank() == 4 && node->output()->dtype() == DType::f32;
}

// Not certainly different: before shapes are bound placement asks too.
bool may_equal(const Dim& a, const Dim& b) { return a == b || !a.is_static() || !b.is_static(); }

// fused_attention broadcasts neither batch nor heads.
bool same_batch(const Value* a, const Value* b) {
  return may_equal(a->shape()[0], b->shape()[0]) && may_equal(a->shape()[1], b->shape()[1]);
}

double rounded(double value) { return static_cast<double>(static_cast<float>(value)); }

class Fuser {
 public:
  Fuser(Graph& graph, const Attention& attention) : graph_(graph), a_(attention) {}

  void run() {
    const Node *q = byte_dequantize(a_.q), *k = byte_dequantize(a_.k), *v = byte_dequantize(a_.v);
    const bool integer = q && k && v;
    before_ = a_.values;
    Attributes attributes{{"score_multiplier", a_.scale}};
    if (integer) {
      const QuantInfo qi = *quant_info(*q), ki = *quant_info(*k), vi = *quant_info(*v);
      double y_scale = 1;
      if (Node* quantize = only_byte_quantize(graph_, a_.values->output())) {
        const QuantInfo y = *quant_info(*quantize);
        const double least = y.dtype == DType::u8 ? 0 : -128;
        attributes["clamp_lo"] = least - y.zero_point();
        attributes["clamp_hi"] = least + 255 - y.zero_point();
        attributes["y_zero_point"] = int64_t{y.zero_point()};
        attributes["output"] = std::string(dtype_name(y.dtype));
        y_scale = y.scale();
        before_ = quantize;
      }
      attributes["score_multiplier"] =
          rounded(static_cast<double>(qi.scale()) * ki.scale() * a_.scale * std::numbers::log2e);
      attributes["y_multiplier"] = rounded(vi.scale() / y_scale);
      attributes["q_zero_point"] = int64_t{qi.zero_point()};
      attributes["v_zero_point"] = int64_t{vi.zero_point()};
    }
    const Ints swap{0, 2, 1, 3};  // heads and positions
    Value* y =
        graph_.apply("fused_attention",
                     {transposed(graph_, integer ? q->input(0) : a_.q, swap, before_),
                      transposed(graph_, integer ? k->input(0) : a_.k, {0, 3, 1, 2}, before_),
                      transposed(graph_, integer ? v->input(0) : a_.v, swap, before_), mask()},
                     std::move(attributes), a_.values->name(), before_);
    take_over(graph_, before_, transposed(graph_, y, swap, before_));
  }

 private:
  Value* mask() {
    if (!a_.mask) return nullptr;
    Dims dims = a_.mask->shape().dims();
    if (dims.size() == 4) return a_.mask;
    dims.insert(dims.begin(), 4 - dims.size(), 1);
    return graph_.apply("reshape", {a_.mask}, {{"shape", Ints(dims.begin(), dims.end())}}, "",
                        before_);
  }

  Graph& graph_;
  const Attention& a_;
  Node* before_ = nullptr;
};

// A product of two activations, or one times constants.
bool scaled_product(const Value* value) {
  const Node* node = value->producer();
  while (node && (node->is("mul") || node->is("div"))) {
    const size_t side = scalar_constant(node->input(1)) ? 0 : 1;
    if (!scalar_constant(node->input(1 - side))) return false;
    node = node->input(side)->producer();
  }
  return is_batched_product(node);
}

// Whether `mask` is whole along the keys of `scores` and adds nothing to its shape.
bool fits(const Value* mask, const Value* scores) {
  const Shape &m = mask->shape(), &s = scores->shape();
  if (s.rank() != 4 || mask->dtype() != DType::f32 || m.rank() < 1 || m.rank() > 4 ||
      !may_equal(m.back(), s[3]))
    return false;
  for (size_t i = 2; i <= m.size(); ++i)
    if (!(m[m.size() - i] == Dim(1)) && !may_equal(m[m.size() - i], s[4 - i])) return false;
  return true;
}

}  // namespace

std::optional<Attention> attention_of(const Graph& graph, Node& values) {
  if (!is_batched_product(&values)) return std::nullopt;
  Attention a{nullptr, values.input(0)->producer(), &values, nullptr, nullptr, values.input(1), 1,
              nullptr};
  if (!a.softmax || !a.softmax->is("softmax") || !only_user(graph, values.input(0)) ||
      normalize_axis(a.softmax->integer("axis"), 4, a.softmax->where()) != 3)
    return std::nullopt;
  bool scaled = false;
  Value* at = a.softmax->input(0);
  for (;;) {
    Node* node = at->producer();
    if (!node || !only_user(graph, at)) return std::nullopt;
    if (is_batched_product(node)) {
      a.scores = node;
      break;
    }
    if (node->is("add") && !a.mask && !scaled) {
      // A mask behind the scale; one before it would be scaled too.
      const size_t side = scaled_product(node->input(0)) ? 0 : 1;
      a.mask = node->input(1 - side);
      if (!fits(a.mask, node->input(side))) return std::nullopt;
      at = node->input(side);
    } else if (node->is("mul") || node->is("div")) {
      const size_t side = scalar_constant(node->input(1)) ? 1 : 0;
      const auto factor = scalar_constant(node->input(side));
      if (!factor || (node->is("div") && (side == 0 || *factor == 0))) return std::nullopt;
      a.scale = node->is("mul") ? a.scale * *factor : a.scale / *factor;
      scaled = true;
      at = node->input(1 - side);
    } else {
      return std::nullopt;
    }
  }
  a.q = a.scores->input(0), a.k = a.scores->input(1);
  if (!same_batch(a.q, a.k) || !same_batch(a.q, a.v)) return std::nullopt;
  return a;
}

void fuse_attention(Graph& graph) {
  std::vector<Node*> last;  // fusing erases nodes that come later
  graph.for_each([&](Node& node) {
    if (attention_of(graph, node)) last.push_back(&node);
  });
  for (Node* node : last)
    if (const auto attention = attention_of(graph, *node)) Fuser(graph, *attention).run();
}

}  // namespace octavo
