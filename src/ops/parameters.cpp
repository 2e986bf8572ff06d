#include "ops/parameters.h"

#include "ops/op.h"

namespace octavo::ops {
namespace {

const ParameterSpec& spec_of(const OpDef& op, std::string_view name) {
  for (const ParameterSpec& spec : op.impl->parameters)
    if (spec.attribute == name) return spec;
  throw InternalError(fmt::format("{} has no parameter '{}'", op.name, name));
}

const Value* input_of(const Node& node, std::string_view name) {
  return node.input(spec_of(node.op(), name).input);
}

AttributeKind kind_of(const OpDef& op, std::string_view name) {
  const AttributeSpec* spec = op.attribute(name);
  OCTAVO_CHECK(spec);
  return spec->kind;
}

void check_list(const Node& node, const Value& input, std::string_view name) {
  if (input.shape().rank() > 1)
    fail(node, fmt::format("{} must be a vector, not {}", name, input.type().str()));
}

// A tensor as the kind of attribute that a parameter has; none if it does not fit.
std::optional<Attribute> as_attribute(AttributeKind kind, const Tensor& tensor) {
  if (tensor.rank() > 1 || tensor.size() > (1 << 20)) return std::nullopt;
  switch (kind) {
    case AttributeKind::integers:
      if (is_float(tensor.dtype())) return std::nullopt;
      return tensor.to_ints();
    case AttributeKind::integer:
      if (is_float(tensor.dtype()) || tensor.size() != 1) return std::nullopt;
      return tensor.to_ints()[0];
    case AttributeKind::reals:
      if (!is_float(tensor.dtype())) return std::nullopt;
      return tensor.to_doubles();
    case AttributeKind::real:
      if (!is_float(tensor.dtype()) || tensor.size() != 1) return std::nullopt;
      return tensor.to_doubles()[0];
    default:
      return std::nullopt;
  }
}

}  // namespace

std::optional<Ints> known_ints(const Node& node, std::string_view name) {
  const Value* input = input_of(node, name);
  if (!input) return node.integers(name);
  check_list(node, *input, name);
  if (is_float(input->dtype())) fail(node, fmt::format("{} must hold integers", name));
  if (!input->is_constant()) return std::nullopt;
  return input->constant().to_ints();
}

std::optional<Floats> known_reals(const Node& node, std::string_view name) {
  const Value* input = input_of(node, name);
  if (!input) return node.reals(name);
  check_list(node, *input, name);
  if (!input->is_constant()) return std::nullopt;
  return input->constant().to_doubles();
}

std::optional<int64_t> known_integer(const Node& node, std::string_view name) {
  const Value* input = input_of(node, name);
  if (!input) return node.integer(name);
  check_list(node, *input, name);
  if (is_float(input->dtype())) fail(node, fmt::format("{} must be an integer", name));
  if (!input->is_constant()) return std::nullopt;
  if (input->constant().size() != 1) fail(node, fmt::format("{} must be one number", name));
  return input->constant().to_ints()[0];
}

Ints ints_of(const Node& node, std::string_view name) {
  auto known = known_ints(node, name);
  OCTAVO_CHECK(known);
  return std::move(*known);
}

int64_t integer_of(const Node& node, std::string_view name) {
  const auto known = known_integer(node, name);
  OCTAVO_CHECK(known);
  return *known;
}

int64_t list_length(const Node& node, std::string_view name) {
  const Value* input = input_of(node, name);
  if (!input) return static_cast<int64_t>(node.integers(name).size());
  check_list(node, *input, name);
  if (input->shape().rank() == 0) return 1;
  if (!input->shape()[0].is_static())
    fail(node, fmt::format("the length of {} is not known, nor is the output's rank", name));
  constexpr int64_t most_axes = 1024;
  if (input->shape()[0].value() > most_axes) fail(node, fmt::format("{} is too long", name));
  return input->shape()[0].value();
}

void import_parameter(OnnxNodeReader& reader, size_t i, std::string_view op, std::string_view name,
                      Attributes& attributes, std::vector<Value*>& inputs) {
  Value* input = reader.input(i);
  if (!input) return;
  const OpDef& def = *find_op(op);
  const AttributeKind kind = kind_of(def, name);
  if (kind == AttributeKind::integers)
    if (const auto known = reader.known_ints(i)) {
      if (input->shape().rank() > 1) reader.invalid(fmt::format("{} must be a vector", name));
      attributes.insert_or_assign(std::string(name), *known);
      return;
    }
  if (const Tensor* constant = reader.constant(i)) {
    auto attribute = as_attribute(kind, *constant);
    if (!attribute)
      reader.invalid(fmt::format("{} (input {}) is of the wrong type or shape", name, i));
    attributes.insert_or_assign(std::string(name), std::move(*attribute));
    return;
  }
  const size_t at = spec_of(def, name).input;
  if (inputs.size() <= at) inputs.resize(at + 1, nullptr);
  inputs[at] = input;
}

std::string parameter_name(const Node& node, std::string_view name, OnnxNodeWriter& writer) {
  if (const Value* input = input_of(node, name)) return writer.value_name(input);
  switch (kind_of(node.op(), name)) {
    case AttributeKind::integers: {
      const Ints& values = node.integers(name);
      return writer.initializer(std::string(name),
                                Tensor::from(Dims{static_cast<int64_t>(values.size())}, values));
    }
    case AttributeKind::integer:
      return writer.initializer(std::string(name), Tensor::from(Dims{1}, Ints{node.integer(name)}));
    default: {
      std::vector<float> values;
      for (const double v : node.reals(name)) values.push_back(static_cast<float>(v));
      return writer.initializer(std::string(name),
                                Tensor::from(Dims{static_cast<int64_t>(values.size())}, values));
    }
  }
}

}  // namespace octavo::ops

namespace octavo {

bool absorb_parameters(Node& node) {
  bool any = false;
  for (const ParameterSpec& spec : node.op().impl->parameters) {
    const Value* input = node.input(spec.input);
    if (!input || !input->is_constant()) continue;
    auto attribute = ops::as_attribute(ops::kind_of(node.op(), spec.attribute), input->constant());
    if (!attribute) continue;
    node.set(std::string(spec.attribute), std::move(*attribute));
    node.set_input(spec.input, nullptr);
    any = true;
  }
  if (any) node.trim_inputs();
  return any;
}

}  // namespace octavo
