#include "quantize/apply.h"

#include <unordered_map>
#include <unordered_set>

#include "graph/op_def.h"
#include "quantize/integer_bias.h"
#include "support/error.h"

namespace octavo {
namespace {

class Applier {
 public:
  Applier(const Graph& graph, const Placement& placement,
          const std::map<std::string, ActivationParams>& activations,
          const std::map<std::string, WeightParams>& weights)
      : placement_(placement), activations_(activations), weights_(weights), graph_(graph.clone()) {
    for (const PlacedWeights& w : placement_.weights) products_.emplace(w.node->name(), &w);
  }

  Graph run() {
    for (const PlacedActivation& placed : placement_.activations) insert(placed);
    graph_.for_each([&](Node& node) {
      if (const auto it = products_.find(node.name());
          it != products_.end() && node.op().quant == QuantTrait::weighted)
        replace_weights(node, *it->second);
    });
    graph_.remove_dead();
    graph_.stage = Stage::quantized;
    return std::move(graph_);
  }

 private:
  Value* constant(const std::string& name, Tensor tensor) {
    return graph_.add_constant(name, std::move(tensor));
  }

  Value* zero_point(const std::string& name, DType dtype, int32_t value) {
    return dtype == DType::u8 ? constant(name, Tensor::scalar(static_cast<uint8_t>(value)))
                              : constant(name, Tensor::scalar(static_cast<int8_t>(value)));
  }

  // Weights and biases of products, and whom the placement names.
  bool keeps_float(const PlacedActivation& placed, const Use& use) const {
    if (use.index != 0 && products_.contains(use.node->name())) return true;
    for (const Use& reader : placed.float_readers)
      if (reader.index == use.index && reader.node->name() == use.node->name() &&
          reader.node->output()->name() == use.node->output()->name())
        return true;
    return false;
  }

  void insert(const PlacedActivation& placed) {
    const std::string& name = placed.value->name();
    Value* value = graph_.find_value(name);
    const auto it = activations_.find(name);
    OCTAVO_CHECK(value && it != activations_.end());
    const ActivationParams& p = it->second;
    const std::vector<Use> uses = value->uses();
    // Right behind the definition.
    Node* before = value->producer() ? value->producer()->next() : graph_.first();
    Value* scale = constant(name + "/scale", Tensor::scalar(p.scale));
    Value* zero = zero_point(name + "/zero_point", p.dtype, p.zero_point);
    Value* q = graph_.apply("quantize", {value, scale, zero}, {}, name + "/quantized", before);
    Value* dq = graph_.apply("dequantize", {q, scale, zero}, {}, dequantized_name(name), before);
    for (const Use& use : uses)
      if (!keeps_float(placed, use)) use.node->set_input(use.index, dq);
    scales_[dq] = p.scale;
    // A placed output: the file's reader gets what the integers say, under the same name.
    for (size_t i = 0; i < graph_.outputs().size(); ++i) {
      if (graph_.outputs()[i] != value) continue;
      graph_.set_output(i, dq);
      graph_.rename(value, name + "/float");
      graph_.rename(dq, name);
    }
  }

  void replace_weights(Node& node, const PlacedWeights& placed) {
    const auto it = weights_.find(node.name());
    OCTAVO_CHECK(it != weights_.end());
    const WeightParams& p = it->second;
    const auto channels = static_cast<int64_t>(p.scales.size());
    const std::string name = node.input(1)->name();
    const auto dequantized = [&](const std::string& of, const Tensor& values,
                                 const std::vector<float>& scales, auto zero, int64_t axis) {
      const std::vector<decltype(zero)> zeros(scales.size(), zero);
      Tensor scale = Tensor::from(Dims{channels}, scales),
             zero_points = Tensor::from(Dims{channels}, zeros);
      if (placed.per_tensor) scale = Tensor::scalar(scales[0]), zero_points = Tensor::scalar(zero);
      return graph_.apply("dequantize",
                          {constant(of + "/quantized", values), constant(of + "/scale", scale),
                           constant(of + "/zero_point", zero_points)},
                          {{"axis", axis}}, of + "/dequantized", &node);
    };
    node.set_input(1, dequantized(name, p.values, p.scales, int8_t{0}, placed.axis));
    const auto x = scales_.find(node.input(0));
    if (!p.bias || x == scales_.end()) return;
    if (node.is("matmul")) return add_behind(node, p.bias);
    if (!placement_.integer_bias) {
      node.set_input(2, constant(bias_name(node) + "/corrected", p.bias));
      return;
    }
    // So that a reader of the file sees what the kernels add.
    const auto [values, steps] = integer_bias(p.bias.values<float>(), x->second, p.scales);
    node.set_input(2, dequantized(bias_name(node), Tensor::from(Dims{channels}, values), steps,
                                  int32_t{0}, 0));
  }

  static std::string bias_name(const Node& node) {
    return node.input(2) ? node.input(2)->name() : node.name() + "/bias";
  }

  // A matmul has no bias of its own: the addition of a constant behind it takes it, or a new one.
  void add_behind(Node& node, const Tensor& bias) {
    Value* out = node.output();
    const std::vector<Use> uses = out->uses();
    Node* user = uses.size() == 1 && !graph_.is_output(out) ? uses[0].node : nullptr;
    if (user && user->is("add")) {
      const size_t other = uses[0].index == 0 ? 1 : 0;
      Value* constant_bias = user->input(other);
      if (constant_bias->is_constant() && constant_bias->shape() == Shape(bias.dims())) {
        Tensor sum(DType::f32, bias.dims());
        const auto a = constant_bias->constant().values<float>(), b = bias.values<float>();
        for (size_t c = 0; c < a.size(); ++c) sum.mutable_values<float>()[c] = a[c] + b[c];
        user->set_input(other, constant(constant_bias->name() + "/corrected", std::move(sum)));
        return;
      }
    }
    Value* sum = graph_.apply("add", {out, constant(node.name() + "/bias", bias)}, {},
                              out->name() + "/corrected", node.next());
    for (const Use& use : uses) use.node->set_input(use.index, sum);
    for (size_t i = 0; i < graph_.outputs().size(); ++i)
      if (graph_.outputs()[i] == out) graph_.set_output(i, sum);
  }

  const Placement& placement_;
  const std::map<std::string, ActivationParams>& activations_;
  const std::map<std::string, WeightParams>& weights_;
  std::unordered_map<std::string, const PlacedWeights*> products_;
  std::unordered_map<const Value*, float> scales_;  // of dequantized activations
  Graph graph_;
};

}  // namespace

std::string dequantized_name(const std::string& value) { return value + "/dequantized"; }

Graph apply_quantization(const Graph& graph, const Placement& placement,
                         const std::map<std::string, ActivationParams>& activations,
                         const std::map<std::string, WeightParams>& weights) {
  return Applier(graph, placement, activations, weights).run();
}

}  // namespace octavo
