#include "export/onnx_writer.h"

#include <algorithm>

#include "backends/reference/interpreter.h"
#include "graph/op_def.h"
#include "ops/op.h"
#include "ops/packed.h"
#include "support/error.h"

namespace octavo::onnx_export {
namespace {

using ::onnx::AttributeProto;
using ::onnx::TensorProto;

// `wanted`, or with a suffix where that is taken.
std::string claim(std::set<std::string>& taken, const std::string& wanted) {
  std::string name = wanted;
  for (int i = 1; !taken.insert(name).second; ++i) name = fmt::format("{}_{}", wanted, i);
  return name;
}

void set_type(const std::string& name, const TensorType& type, ::onnx::ValueInfoProto& info) {
  info.set_name(name);
  auto* tensor = info.mutable_type()->mutable_tensor_type();
  tensor->set_elem_type(onnx_dtype(type.dtype));
  auto* shape = tensor->mutable_shape();  // an empty one is a scalar's
  for (const Dim& dim : type.shape) {
    auto* out = shape->add_dim();
    if (dim.is_static()) {
      out->set_dim_value(dim.value());
    } else if (!dim.is_unknown()) {
      out->set_dim_param(dim.symbol());
    }
  }
}

void set_header(const Tensor& tensor, TensorProto& proto) {
  proto.set_data_type(onnx_dtype(tensor.dtype()));
  for (const int64_t dim : tensor.dims()) proto.add_dims(dim);
}

void set_attribute(const Attribute& value, AttributeProto& out) {
  if (const auto* integer = std::get_if<int64_t>(&value)) {
    out.set_type(AttributeProto::INT);
    out.set_i(*integer);
  } else if (const auto* real = std::get_if<double>(&value)) {
    out.set_type(AttributeProto::FLOAT);
    out.set_f(static_cast<float>(*real));
  } else if (const auto* text = std::get_if<std::string>(&value)) {
    out.set_type(AttributeProto::STRING);
    out.set_s(*text);
  } else if (const auto* integers = std::get_if<Ints>(&value)) {
    out.set_type(AttributeProto::INTS);
    out.mutable_ints()->Add(integers->begin(), integers->end());
  } else if (const auto* reals = std::get_if<Floats>(&value)) {
    out.set_type(AttributeProto::FLOATS);
    for (const double element : *reals) out.add_floats(static_cast<float>(element));
  } else if (const auto* tensor = std::get_if<Tensor>(&value)) {
    out.set_type(AttributeProto::TENSOR);
    set_header(*tensor, *out.mutable_t());
    out.mutable_t()->set_raw_data(tensor->data(), tensor->bytes());
  }
}

// What opset 22 changed: these take bfloat16 from then on, and nothing else.
constexpr std::string_view bfloat16_since_22[] = {"Acos",
                                                  "Acosh",
                                                  "Asin",
                                                  "Asinh",
                                                  "Atan",
                                                  "Atanh",
                                                  "AveragePool",
                                                  "Conv",
                                                  "ConvTranspose",
                                                  "Cos",
                                                  "Cosh",
                                                  "DeformConv",
                                                  "Elu",
                                                  "EyeLike",
                                                  "GRU",
                                                  "GlobalAveragePool",
                                                  "GlobalMaxPool",
                                                  "GridSample",
                                                  "HardSigmoid",
                                                  "HardSwish",
                                                  "InstanceNormalization",
                                                  "LSTM",
                                                  "LpNormalization",
                                                  "LpPool",
                                                  "MaxPool",
                                                  "Mish",
                                                  "RNN",
                                                  "RoiAlign",
                                                  "Round",
                                                  "Selu",
                                                  "Sin",
                                                  "Sinh",
                                                  "Softplus",
                                                  "Softsign",
                                                  "Tan",
                                                  "ThresholdedRelu"};

bool has_bfloat16(const Node& node) {
  const auto is = [](const Value* value) { return value && value->dtype() == DType::bf16; };
  return std::any_of(node.inputs().begin(), node.inputs().end(), is) ||
         std::any_of(node.outputs().begin(), node.outputs().end(), is);
}

// Of `quantize` whose inputs are all constant, the integers.
std::optional<Tensor> stored_integers(const Node& node) {
  if (!node.is("quantize")) return std::nullopt;
  std::vector<const Tensor*> inputs;
  for (const Value* input : node.inputs()) {
    if (input && !input->is_constant()) return std::nullopt;
    inputs.push_back(input ? &input->constant() : nullptr);
  }
  return interpret_node(node, inputs).front();
}

}  // namespace

int32_t onnx_dtype(DType dtype) {
  switch (dtype) {
    case DType::f32:
      return TensorProto::FLOAT;
    case DType::f64:
      return TensorProto::DOUBLE;
    case DType::f16:
      return TensorProto::FLOAT16;
    case DType::bf16:
      return TensorProto::BFLOAT16;
    case DType::i8:
      return TensorProto::INT8;
    case DType::u8:
      return TensorProto::UINT8;
    case DType::i16:
      return TensorProto::INT16;
    case DType::u16:
      return TensorProto::UINT16;
    case DType::i32:
      return TensorProto::INT32;
    case DType::u32:
      return TensorProto::UINT32;
    case DType::i64:
      return TensorProto::INT64;
    case DType::u64:
      return TensorProto::UINT64;
    case DType::boolean:
      return TensorProto::BOOL;
  }
  throw InternalError("unknown dtype");
}

Writer::Writer(const Graph& graph, int64_t opset) : graph_(graph), opset_(opset) {
  // The graph's own names are unique; they go first, so that made ones give way to them.
  for (const Value* input : graph.inputs()) taken_.insert(input->name());
  for (const Value* constant : graph.constants()) taken_.insert(constant->name());
  for (const Node* node = graph.first(); node; node = node->next()) {
    for (const Value* output : node->outputs()) taken_.insert(output->name());
    node_names_.insert(node->name());
  }
  taken_.insert("");
}

std::string Writer::value_name(const Value* value) {
  if (!value) return "";
  if (const auto it = names_.find(value); it != names_.end()) return it->second;
  std::string name = value->name();
  // An output's name belongs to the copy that write_outputs() makes of a constant.
  if (name.empty() || (value->is_constant() && graph_.is_output(value)))
    name = claim(taken_, name.empty() ? "value" : name);
  if (value->is_constant()) add_initializer(name, value->constant());
  return names_[value] = name;
}

std::string Writer::add_initializer(std::string name, const Tensor& tensor) {
  auto* proto = model_.mutable_graph()->add_initializer();
  proto->set_name(name);
  set_header(tensor, *proto);
  tensors_.push_back(tensor);
  return name;
}

std::string Writer::initializer(const std::string& hint, const Tensor& tensor) {
  return add_initializer(claim(taken_, hint), tensor);
}

std::string Writer::four_bit_initializer(const std::string& hint, const Tensor& tensor) {
  std::string name = claim(taken_, hint.empty() ? "integers" : hint);
  auto* proto = model_.mutable_graph()->add_initializer();
  proto->set_name(name);
  set_header(tensor, *proto);
  proto->set_data_type(tensor.dtype() == DType::i8 ? TensorProto::INT4 : TensorProto::UINT4);
  // The file packs over the end of a row.
  tensors_.push_back(pack_nibbles(tensor.reshaped({tensor.size()}), name));
  return name;
}

std::string Writer::temporary(const std::string& hint) { return claim(taken_, hint); }

void Writer::node(std::string_view op_type, std::vector<std::string> inputs,
                  std::vector<std::string> outputs, const Attributes& attributes,
                  std::string_view domain) {
  if (current_ && domain.empty() && has_bfloat16(*current_) &&
      std::ranges::find(bfloat16_since_22, op_type) != std::end(bfloat16_since_22))
    ops::need_opset(*current_, *this, 22);
  auto* proto = model_.mutable_graph()->add_node();
  proto->set_op_type(std::string(op_type));
  if (!domain.empty()) {
    proto->set_domain(std::string(domain));
    auto& imports = *model_.mutable_opset_import();
    if (std::none_of(imports.begin(), imports.end(),
                     [&](const auto& i) { return i.domain() == domain; })) {
      auto* import = imports.Add();
      import->set_domain(std::string(domain));
      import->set_version(1);
    }
  }
  // The node that makes the value has the name; helpers beside it a longer one.
  if (current_) {
    const std::string result = value_name(current_->output());
    const std::string& label = current_->name().empty() ? result : current_->name();
    const bool main = std::find(outputs.begin(), outputs.end(), result) != outputs.end();
    // Nodes of a graph may share a name (slices of one Split); ONNX Runtime refuses that.
    const bool free = main && written_.insert(label).second;
    const std::string longer = fmt::format("{}/{}", label, op_type);
    proto->set_name(free ? label : claim(node_names_, main ? label : longer));
  }
  for (std::string& input : inputs) proto->add_input(std::move(input));
  for (std::string& output : outputs) proto->add_output(std::move(output));
  for (const auto& [name, value] : attributes) {
    auto* attribute = proto->add_attribute();
    attribute->set_name(name);
    set_attribute(value, *attribute);
  }
}

// A newer opset has more forms.
constexpr const char* no_form_hint =
    "ask for a newer opset if you asked for one, or save as .octavo, which holds every graph";

void Writer::check_rules() const {
  std::set<std::string> missing;
  for (const Node* node = graph_.first(); node; node = node->next())
    if (!node->op().impl->onnx_export)
      missing.insert(fmt::format("{} (node '{}')", node->op_name(), node->name()));
  if (!missing.empty())
    throw UserError(ErrorKind::unsupported, graph_.name,
                    fmt::format("has nodes without ONNX form: {}", fmt::join(missing, ", ")),
                    no_form_hint);
}

void Writer::write_node(const Node& node) {
  if (const auto integers = stored_integers(node)) {
    const Value* output = node.output();
    const bool is_output = output->name().empty() || graph_.is_output(output);
    const std::string name = is_output ? claim(taken_, "integers") : output->name();
    names_[output] = add_initializer(name, *integers);
    return;
  }
  current_ = &node;
  try {
    node.op().impl->onnx_export->write(node, *this);
  } catch (const UserError& e) {
    throw e.or_hint(no_form_hint);
  }
  current_ = nullptr;
}

// An output is made by a node and has a name of its own; what is not so in the graph is copied.
void Writer::write_outputs() {
  std::set<std::string> written;
  for (const Value* output : graph_.outputs()) {
    const std::string source = value_name(output);
    std::string name = source;
    if (!output->producer() || source != output->name() || written.contains(source)) {
      const bool free = !output->name().empty() && output->name() != source;
      name = free && !written.contains(output->name()) ? output->name()
                                                       : claim(taken_, source + "_out");
      node("Identity", {source}, {name});
    }
    written.insert(name);
    set_type(name, output->type(), *model_.mutable_graph()->add_output());
  }
}

void Writer::write_graph() {
  check_rules();
  auto* import = model_.add_opset_import();
  import->set_domain("");
  import->set_version(opset_);
  model_.mutable_graph()->set_name(graph_.name.empty() ? "graph" : graph_.name);
  for (const Value* input : graph_.inputs())
    set_type(value_name(input), input->type(), *model_.mutable_graph()->add_input());
  for (const Node* node = graph_.first(); node; node = node->next()) write_node(*node);
  write_outputs();
}

}  // namespace octavo::onnx_export
