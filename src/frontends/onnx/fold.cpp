#include "frontends/onnx/fold.h"

#include "backends/reference/interpreter.h"
#include "graph/op_def.h"
#include "ops/shape.h"
#include "support/error.h"

namespace octavo::onnx_import {
namespace {

constexpr int64_t most_elements = 4096;

bool is_small(const TensorType& type) {
  return type.shape.is_static() && element_count(type.shape.dims()) <= most_elements;
}

// Cheap whatever the attributes are, in the types that sizes are computed in and the kernels have.
// Pools are reductions too, of floats and bytes: their windows can be huge. Quantization stays
// visible in the graph.
bool is_cheap(const Node& node) {
  const DType dtype = node.output()->dtype();
  const bool is_int = dtype == DType::i64 || dtype == DType::i32;
  switch (node.op().kind) {
    case OpKind::movement:
      return true;
    case OpKind::pointwise:
      return is_int || dtype == DType::f32;
    case OpKind::reduction:
      return is_int;
    default:
      return false;
  }
}

}  // namespace

std::optional<std::vector<Tensor>> fold(const Node& node, Tags& tags) {
  if (node.op().kind == OpKind::shape) {
    Ints dims = ops::shape_axes(node);
    for (int64_t& axis : dims) axis = tags.of(node.input(0), static_cast<size_t>(axis));
    return std::vector<Tensor>{Tensor::from(Dims{static_cast<int64_t>(dims.size())}, dims)};
  }
  if (!is_cheap(node) || !node.op().impl->reference) return std::nullopt;
  std::vector<const Tensor*> inputs;
  bool tagged = false;
  for (const Value* input : node.inputs()) {
    const Tensor* known = input ? tags.known(input) : nullptr;
    if (input && (!known || !is_small(known->type()))) return std::nullopt;
    inputs.push_back(known);
    const bool tags_here = known && has_tags(*known);
    if (tags_here && inputs.size() > 1 && !node.is("concat")) return std::nullopt;  // an index, say
    tagged = tagged || tags_here;
  }
  if (inputs.empty()) return std::nullopt;
  if (tagged && node.op().kind != OpKind::movement) {
    auto made = tags.make_all(node.output()->type());
    if (!made || node.outputs().size() != 1) return std::nullopt;
    return std::vector<Tensor>{*made};
  }
  try {
    return fold_node(node, inputs, most_elements);
  } catch (const UserError& e) {
    if (e.kind() != ErrorKind::unsupported) throw;  // a wrong index, say
    return std::nullopt;
  }
}

}  // namespace octavo::onnx_import
