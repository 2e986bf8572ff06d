#include "ops/op.h"

namespace octavo::ops {

void fail(const Node& node, const std::string& message) {
  throw UserError(ErrorKind::value, node.where(), message);
}

void require(const Node& node, bool condition, const char* message) {
  if (!condition) fail(node, message);
}

const TensorType& float_input(const Node& node, size_t i) {
  const TensorType& type = node.input(i)->type();
  if (!is_float(type.dtype))
    fail(node, fmt::format("input {} is {}, not floating point", i, type.str()));
  return type;
}

const TensorType& number_input(const Node& node, size_t i) {
  const TensorType& type = node.input(i)->type();
  if (type.dtype == DType::boolean)
    fail(node, fmt::format("input {} is {}, not a number", i, type.str()));
  return type;
}

void require_one_dtype(const Node& node) {
  for (const Value* input : node.inputs())
    if (input && input->dtype() != node.input(0)->dtype())
      fail(node, fmt::format("the inputs differ in element type: {} and {}",
                             dtype_name(node.input(0)->dtype()), dtype_name(input->dtype())));
}

size_t axis_of(const Node& node) {
  return static_cast<size_t>(
      normalize_axis(node.integer("axis"), node.input(0)->shape().rank(), node.where()));
}

std::vector<double> doubles(const Tensor& tensor) { return tensor.to_doubles(); }

void store_doubles(std::span<const double> values, Tensor& out) {
  OCTAVO_CHECK(values.size() == static_cast<size_t>(out.size()));
  visit_dtype(out.dtype(), [&](auto tag) {
    using T = decltype(tag);
    auto y = mutable_elements<T>(out);
    for (size_t i = 0; i < y.size(); ++i) y[i] = store_element<T>(values[i]);
  });
}

std::vector<Value*> inputs_of(OnnxNodeReader& reader, size_t least) {
  std::vector<Value*> inputs;
  for (size_t i = 0; i < reader.input_count(); ++i) inputs.push_back(reader.input(i));
  for (size_t i = 0; i < least; ++i)
    if (i >= inputs.size() || !inputs[i]) reader.invalid(fmt::format("input {} is missing", i));
  return inputs;
}

void need_opset(const Node& node, const OnnxNodeWriter& writer, int64_t since) {
  if (writer.opset() < since)
    throw UserError(ErrorKind::unsupported, node.where(),
                    fmt::format("has no ONNX form before opset {}", since),
                    fmt::format("export with opset {} or later", since));
}

void write_as(const Node& node, OnnxNodeWriter& writer, std::string_view op_type,
              const Attributes& attributes, int64_t since, std::string_view domain) {
  need_opset(node, writer, since);
  std::vector<std::string> inputs, outputs;
  for (const Value* input : node.inputs()) inputs.push_back(writer.value_name(input));
  while (!inputs.empty() && inputs.back().empty()) inputs.pop_back();
  for (const Value* output : node.outputs()) outputs.push_back(writer.value_name(output));
  writer.node(op_type, std::move(inputs), std::move(outputs), attributes, domain);
}

}  // namespace octavo::ops
