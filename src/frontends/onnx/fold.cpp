#include "frontends/onnx/fold.h"

#include "backends/reference/interpreter.h"
#include "graph/op_def.h"
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
    case OpKind::shape:
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
  if (!is_cheap(node) || !node.op().impl->reference) return std::nullopt;
  std::vector<const Tensor*> inputs;
  bool tagged = false;
  for (const Value* input : node.inputs()) {
    if (input && (!input->is_constant() || !is_small(input->type()))) return std::nullopt;
    inputs.push_back(input ? &input->constant() : nullptr);
    tagged = tagged || (input && has_tags(input->constant()));
  }
  for (const Value* output : node.outputs())
    if (!is_small(output->type())) return std::nullopt;
  if (tagged && node.op().kind != OpKind::movement) {
    auto made = tags.make_all(node.output()->type());
    if (!made || node.outputs().size() != 1) return std::nullopt;
    return std::vector<Tensor>{*made};
  }
  try {
    return interpret_node(node, inputs);
  } catch (const UserError&) {  // no kernel for this element type: it stays a node
    return std::nullopt;
  }
}

}  // namespace octavo::onnx_import
