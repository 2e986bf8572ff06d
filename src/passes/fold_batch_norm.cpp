#include <cmath>

#include "graph/op_def.h"
#include "passes/match.h"
#include "passes/passes.h"

namespace octavo {
namespace {

// y = x * scale[c] + shift[c]
struct Affine {
  std::vector<double> scale, shift;
};

std::optional<Affine> affine_of(const Node& node) {
  for (size_t i = 1; i < 5; ++i)
    if (!node.input(i) || !node.input(i)->is_constant()) return std::nullopt;
  const auto gamma = node.input(1)->constant().to_doubles(),
             beta = node.input(2)->constant().to_doubles();
  const auto mean = node.input(3)->constant().to_doubles(),
             variance = node.input(4)->constant().to_doubles();
  Affine a{gamma, beta};
  for (size_t c = 0; c < gamma.size(); ++c) {
    a.scale[c] = gamma[c] / std::sqrt(variance[c] + node.real("epsilon"));
    a.shift[c] = beta[c] - mean[c] * a.scale[c];
  }
  return a;
}

// Which axis of the producer's weights is the output channel; none if it cannot take the affine.
std::optional<size_t> output_axis(const Graph& graph, const Node& producer, const Value* value) {
  if (!only_user(graph, value)) return std::nullopt;
  if (!producer.input(1) || !producer.input(1)->is_constant() ||
      producer.input(1)->dtype() != DType::f32)
    return std::nullopt;
  if (producer.input(2) && !producer.input(2)->is_constant()) return std::nullopt;
  if (producer.is("conv")) return 0;
  if (producer.is("conv_transpose"))
    return producer.integer("group") == 1 ? std::optional<size_t>(1) : std::nullopt;
  if (producer.is("gemm") && producer.real("alpha") == 1 && producer.real("beta") == 1 &&
      producer.integer("trans_a") == 0)
    return producer.integer("trans_b") ? 0 : 1;
  return std::nullopt;
}

void fold_into(Graph& graph, Node& producer, size_t axis, const Affine& affine) {
  const Tensor& w = producer.input(1)->constant();
  const auto channels = static_cast<size_t>(w.dims()[axis]);
  size_t inner = 1;
  for (size_t i = axis + 1; i < w.dims().size(); ++i) inner *= static_cast<size_t>(w.dims()[i]);
  Tensor scaled(DType::f32, w.dims());
  const auto from = w.values<float>();
  auto to = scaled.mutable_values<float>();
  for (size_t row = 0; row * inner < from.size(); ++row) {
    const double scale = affine.scale[row % channels];
    for (size_t i = row * inner; i < (row + 1) * inner; ++i)
      to[i] = static_cast<float>(from[i] * scale);
  }
  std::vector<double> old_bias(channels, 0.0);
  if (producer.input(2)) {
    const auto given = producer.input(2)->constant().to_doubles();
    for (size_t c = 0; c < channels; ++c) old_bias[c] = given.size() == 1 ? given[0] : given[c];
  }
  std::vector<float> bias(channels);
  for (size_t c = 0; c < channels; ++c)
    bias[c] = static_cast<float>(old_bias[c] * affine.scale[c] + affine.shift[c]);
  const std::string name = producer.name();
  producer.set_input(1,
                     graph.add_constant(producer.input(1)->name() + "/folded", std::move(scaled)));
  producer.set_input(
      2,
      graph.add_constant(name + "/bias", Tensor::from(Dims{static_cast<int64_t>(channels)}, bias)));
}

Value* per_channel(Graph& graph, const std::string& name, const std::vector<double>& values,
                   int64_t rank) {
  Dims dims(static_cast<size_t>(rank), 1);
  dims[1] = static_cast<int64_t>(values.size());
  return graph.add_constant(name,
                            Tensor::from(dims, std::vector<float>(values.begin(), values.end())));
}

// With parameters that are computed: (x - mean) / sqrt(variance + epsilon) * scale + bias.
void expand(Graph& graph, Node& node) {
  Value *x = node.input(0), *y = node.output();
  Ints column(static_cast<size_t>(x->shape().rank()) - 1, 1);
  column[0] = -1;
  const auto apply = [&](std::string_view op, std::vector<Value*> inputs, Attributes a = {}) {
    return graph.apply(op, std::move(inputs), std::move(a), fmt::format("{}/{}", node.name(), op),
                       &node);
  };
  const auto parameter = [&](size_t i) {
    Value* p = apply("reshape", {node.input(i)}, {{"shape", column}});
    if (p->dtype() == x->dtype()) return p;
    return apply("cast", {p}, {{"to", std::string(dtype_name(x->dtype()))}});
  };
  Value* epsilon = graph.add_constant(node.name() + "/epsilon",
                                      convert(Tensor::scalar(node.real("epsilon")), x->dtype()));
  Value* deviation = apply("sqrt", {apply("add", {parameter(4), epsilon})});
  Value* scale = apply("div", {parameter(1), deviation});
  Value* centred = apply("sub", {x, parameter(3)});
  Value* result = apply("add", {apply("mul", {centred, scale}), parameter(2)});
  graph.replace_all_uses(y, result);
  const std::string name = y->name();
  graph.erase(&node);
  graph.rename(result, name);
}

// Into the product before, if there is one with constant weights.
bool fold(Graph& graph, Node& node) {
  const auto affine = affine_of(node);
  if (!affine || node.input(0)->dtype() != DType::f32) return false;
  Value *x = node.input(0), *y = node.output();
  Node* producer = x->producer();
  const auto axis = producer ? output_axis(graph, *producer, x) : std::nullopt;
  if (!axis) return false;
  fold_into(graph, *producer, *axis, *affine);
  graph.replace_all_uses(y, x);
  const std::string name = y->name();
  graph.erase(&node);
  graph.rename(x, name);  // the value that the file's reader knows
  return true;
}

}  // namespace

void fold_batch_norm_into_products(Graph& graph) {
  graph.for_each([&](Node& node) {
    if (node.is("batch_norm")) fold(graph, node);
  });
}

void fold_batch_norm(Graph& graph) {
  graph.for_each([&](Node& node) {
    if (!node.is("batch_norm") || fold(graph, node)) return;
    const auto affine = affine_of(node);
    if (!affine || node.input(0)->dtype() != DType::f32) return expand(graph, node);
    Value *x = node.input(0), *y = node.output();
    const int64_t rank = x->shape().rank();
    Value* product =
        graph.apply("mul", {x, per_channel(graph, node.name() + "/scale", affine->scale, rank)}, {},
                    node.name() + "/mul", &node);
    Value* sum = graph.apply(
        "add", {product, per_channel(graph, node.name() + "/shift", affine->shift, rank)}, {},
        node.name() + "/add", &node);
    graph.replace_all_uses(y, sum);
    const std::string name = y->name();
    graph.erase(&node);
    graph.rename(sum, name);
  });
}

}  // namespace octavo
