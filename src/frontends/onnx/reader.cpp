#include "frontends/onnx/reader.h"

#include "frontends/onnx/fold.h"
#include "support/error.h"

namespace octavo::onnx_import {

using ::onnx::AttributeProto;

std::string_view canonical_domain(std::string_view domain) {
  return domain == "ai.onnx" ? "" : domain;
}

const std::string& node_label(const ::onnx::NodeProto& node) {
  if (!node.name().empty()) return node.name();
  for (const std::string& output : node.output())
    if (!output.empty()) return output;
  return node.op_type();
}

std::string node_where(const ::onnx::NodeProto& node, int64_t opset) {
  const std::string_view domain = canonical_domain(node.domain());
  return fmt::format("{} '{}' (domain {}, opset {})", node.op_type(), node_label(node),
                     domain.empty() ? "ai.onnx" : domain, opset);
}

Reader::Reader(Graph& graph, ::onnx::NodeProto& node, int64_t opset, std::vector<Value*> inputs,
               ExternalFiles& files, Tags& tags)
    : graph_(graph),
      node_(node),
      opset_(opset),
      inputs_(std::move(inputs)),
      files_(files),
      tags_(tags),
      where_(node_where(node, opset)) {}

const Tensor* Reader::constant(size_t i) const {
  const Value* value = input(i);
  return value && value->is_constant() ? &value->constant() : nullptr;
}

std::optional<Ints> Reader::known_ints(size_t i) const {
  const Value* value = input(i);
  const Tensor* tensor = value ? tags_.known(value) : nullptr;
  if (!tensor) return std::nullopt;
  if (!is_integer(tensor->dtype()) && tensor->dtype() != DType::boolean)
    invalid(fmt::format("input {} must hold integers, not {}", i, dtype_name(tensor->dtype())));
  if (!has_tags(*tensor)) return tensor->to_ints();
  if (op_type() == "Reshape" && i == 1 && input(0)) return tags_.reshape_target(input(0), *tensor);
  return std::nullopt;
}

std::optional<Ints> Reader::constant_ints(size_t i, std::string_view what) const {
  if (!input(i)) return std::nullopt;
  if (auto known = known_ints(i)) return known;
  throw UserError(ErrorKind::unsupported, where_,
                  fmt::format("{} (input {}) is computed; it must be a constant", what, i),
                  "make it an initializer, or give the model's inputs the sizes it follows from");
}

bool Reader::has(std::string_view attribute) const {
  for (const AttributeProto& candidate : node_.attribute())
    if (candidate.name() == attribute) return true;
  return false;
}

const AttributeProto* Reader::find(std::string_view attribute,
                                   ::onnx::AttributeProto_AttributeType type) const {
  for (const AttributeProto& candidate : node_.attribute()) {
    if (candidate.name() != attribute) continue;
    if (candidate.type() != type)
      invalid(fmt::format("attribute '{}' is of type {}, not {}", attribute,
                          ::onnx::AttributeProto_AttributeType_Name(candidate.type()),
                          ::onnx::AttributeProto_AttributeType_Name(type)));
    return &candidate;
  }
  return nullptr;
}

int64_t Reader::integer(std::string_view attribute, int64_t fallback) const {
  const auto* found = find(attribute, AttributeProto::INT);
  return found ? found->i() : fallback;
}

double Reader::real(std::string_view attribute, double fallback) const {
  const auto* found = find(attribute, AttributeProto::FLOAT);
  return found ? found->f() : static_cast<float>(fallback);  // ONNX's defaults are float32 too
}

std::string Reader::text(std::string_view attribute, std::string fallback) const {
  for (const AttributeProto& candidate : node_.attribute()) {
    if (candidate.name() != attribute || candidate.type() != AttributeProto::STRINGS) continue;
    std::string joined;
    for (int i = 0; i < candidate.strings_size(); ++i)
      joined += (i ? "," : "") + candidate.strings(i);
    return joined;
  }
  const auto* found = find(attribute, AttributeProto::STRING);
  return found ? found->s() : fallback;
}

Ints Reader::integers(std::string_view attribute, Ints fallback) const {
  const auto* found = find(attribute, AttributeProto::INTS);
  return found ? Ints(found->ints().begin(), found->ints().end()) : fallback;
}

Floats Reader::reals(std::string_view attribute, Floats fallback) const {
  const auto* found = find(attribute, AttributeProto::FLOATS);
  return found ? Floats(found->floats().begin(), found->floats().end()) : fallback;
}

const Tensor* Reader::tensor(std::string_view attribute) const {
  if (const auto it = tensors_.find(attribute); it != tensors_.end()) return &it->second;
  if (!find(attribute, AttributeProto::TENSOR)) return nullptr;
  for (AttributeProto& candidate : *node_.mutable_attribute())
    if (candidate.name() == attribute)
      return &tensors_
                  .emplace(attribute,
                           take_tensor(*candidate.mutable_t(), files_,
                                       fmt::format("{}: attribute '{}'", where_, attribute)))
                  .first->second;
  return nullptr;
}

// Unnamed for now: a name made here could take one that the file uses further on.
DType Reader::element_type(int64_t onnx_type) const {
  return read_dtype(static_cast<int32_t>(onnx_type), where_);
}

int Reader::element_bits(int64_t onnx_type) const {
  return onnx_import::narrow_bits(static_cast<int32_t>(onnx_type));
}

Value* Reader::narrow(Value* value, int bits) {
  tags_.note_narrow(value, bits);
  return value;
}

std::vector<Value*> Reader::apply_all(std::string_view op, std::vector<Value*> inputs,
                                      Attributes attributes) {
  Node* node = graph_.add(op, std::move(inputs), std::move(attributes));
  std::vector<Value*> values(node->outputs().begin(), node->outputs().end());
  auto outputs = fold(*node, tags_);
  if (!outputs) return values;
  if (std::any_of(outputs->begin(), outputs->end(), has_tags)) {
    for (size_t i = 0; i < values.size(); ++i) tags_.note(values[i], std::move((*outputs)[i]));
    return values;
  }
  graph_.erase(node);
  std::vector<Value*> constants;
  for (Tensor& output : *outputs) constants.push_back(graph_.add_constant("", std::move(output)));
  return constants;
}

Value* Reader::apply(std::string_view op, std::vector<Value*> inputs, Attributes attributes) {
  return apply_all(op, std::move(inputs), std::move(attributes)).front();
}

Value* Reader::constant_value(Tensor tensor) { return graph_.add_constant("", std::move(tensor)); }

void Reader::unsupported(const std::string& message) const {
  throw UserError(ErrorKind::unsupported, where_, message, cut_hint);
}

void Reader::invalid(const std::string& message) const {
  throw UserError(ErrorKind::file, where_, message, unsound_hint);
}

}  // namespace octavo::onnx_import
