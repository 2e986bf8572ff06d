#include "frontends/onnx/import.h"

#include <google/protobuf/io/coded_stream.h>

#include <cmath>
#include <filesystem>
#include <limits>

#include "frontends/onnx/control.h"
#include "frontends/onnx/model.h"
#include "frontends/onnx/reader.h"
#include "graph/op_def.h"
#include "support/error.h"
#include "support/file.h"

namespace octavo {
namespace {

using namespace onnx_import;  // NOLINT(google-build-using-namespace): this file's own parts

constexpr int64_t most_steps = 2'000'000;

class Importer {
 public:
  Importer(::onnx::ModelProto& proto, const std::string& folder) : model_(proto), files_(folder) {}

  Graph run() {
    graph_.name = model_.graph().name().empty() ? "graph" : model_.graph().name();
    for (const auto* input : model_.inputs()) add_input(*input);
    add_nodes(model_);
    for (const auto& output : model_.graph().output()) add_output(output);
    graph_.remove_dead();
    name_the_rest();
    set_stage();
    return std::move(graph_);
  }

 private:
  void add_input(const ::onnx::ValueInfoProto& input) {
    const std::string where = fmt::format("graph input '{}'", input.name());
    if (!input.type().has_tensor_type())
      throw UserError(ErrorKind::unsupported, where, "only tensors are supported",
                      "let the model take the tensors themselves");
    const auto& tensor = input.type().tensor_type();
    if (!tensor.has_shape())
      throw UserError(ErrorKind::unsupported, where, "a shape of unknown rank is not supported",
                      "give the input a shape, with named dimensions where they vary");
    TensorType type{read_dtype(tensor.elem_type(), where), {}};
    for (const auto& dim : tensor.shape().dim()) {
      // Paddle's converter writes -1 and "?" for dimensions that vary, each by itself.
      if (dim.dim_value() == -1 || dim.dim_param() == "?") {
        type.shape.push_back(Dim::unknown());
      } else if (dim.has_dim_value()) {
        if (dim.dim_value() < 0)
          throw UserError(ErrorKind::file, where,
                          fmt::format("dimension {} is negative", dim.dim_value()),
                          "give a dimension that varies a name (dim_param)");
        type.shape.emplace_back(dim.dim_value());
        check_size(type, where);
      } else {
        type.shape.push_back(dim.dim_param().empty() ? Dim::unknown()
                                                     : Dim::symbol(symbol(dim.dim_param())));
      }
    }
    Value* value = graph_.add_input(input.name(), std::move(type));
    if (const int bits = narrow_bits(tensor.elem_type())) tags_.note_narrow(value, bits);
    scopes_.back().values[input.name()] = value;
  }

  // Symbols are identifiers in the text form; a file may name a dimension "batch size" or "2*N".
  const std::string& symbol(const std::string& param) {
    auto [it, fresh] = symbols_.emplace(param, param);
    if (!fresh) return it->second;
    std::string& name = it->second;
    for (char& c : name)
      if (!std::isalnum(static_cast<unsigned char>(c)) && c != '_') c = '_';
    if (std::isdigit(static_cast<unsigned char>(name[0]))) name = "_" + name;
    while (name != param && !symbol_names_.insert(name).second) name += '_';
    symbol_names_.insert(name);
    return name;
  }

  // The innermost scope first.
  Value* value(const std::string& name) {
    if (name.empty()) return nullptr;
    for (auto scope = scopes_.rbegin(); scope != scopes_.rend(); ++scope) {
      if (const auto it = scope->values.find(name); it != scope->values.end()) return it->second;
      if (const auto it = scope->missing_outputs.find(name); it != scope->missing_outputs.end())
        throw UserError(ErrorKind::unsupported, it->second,
                        fmt::format("its output '{}' is not supported", name), cut_hint);
      auto* tensor = scope->model ? scope->model->initializer(name) : nullptr;
      if (!tensor) continue;
      const std::string where = fmt::format("initializer '{}'", name);
      Value* constant = graph_.add_constant(name, take_tensor(*tensor, files_, where));
      if (const int bits = narrow_bits(tensor->data_type())) tags_.note_narrow(constant, bits);
      return scope->values[name] = constant;
    }
    throw InternalError("Model has seen that every name is defined");
  }

  bool defined(const std::string& name) const {
    return std::any_of(scopes_.begin(), scopes_.end(), [&](const Scope& scope) {
      return scope.values.contains(name) || (scope.model && scope.model->initializer(name));
    });
  }

  void add_nodes(Model& model) {
    scopes_.back().model = &model;
    for (const Step& step : model.steps()) {
      if (++steps_ > most_steps)
        throw UserError(ErrorKind::unsupported, node_where(*step.node, step.opset),
                        "the loops of the model unroll to too many nodes",
                        "export it with fewer steps, or the body alone");
      add_node(model, step);
    }
  }

  void add_node(Model& model, const Step& step) {
    const std::string where = node_where(*step.node, step.opset);
    try {
      std::vector<Value*> inputs;
      for (const std::string& input : step.node->input()) inputs.push_back(value(input));
      Reader reader(graph_, *step.node, step.opset, std::move(inputs), files_, tags_);
      Node* before = graph_.last();
      if (step.control) {
        Control control(reader, *step.node,
                        [&](::onnx::GraphProto& body, const std::vector<Value*>& args) {
                          return add_subgraph(model, reader, body, args);
                        });
        define_outputs(reader, control.run(), *step.node);
      } else {
        define_outputs(reader, read(reader, step), *step.node);
      }
      check_values(reader, before ? before->next() : graph_.first());
      name_nodes(before ? before->next() : graph_.first(), *step.node);
    } catch (const UserError& e) {  // of a shape function, say: name the file's node
      if (e.kind() != ErrorKind::value) throw;
      throw UserError(ErrorKind::file, where, e.message(), e.or_hint(unsound_hint).hint());
    }
  }

  // The nodes of a subgraph become nodes of the graph; returns its outputs.
  std::vector<Value*> add_subgraph(const Model& parent, const Reader& reader,
                                   ::onnx::GraphProto& body, const std::vector<Value*>& args) {
    if (body.input_size() != static_cast<int>(args.size()))
      reader.invalid(
          fmt::format("its subgraph takes {} inputs, not {}", body.input_size(), args.size()));
    scopes_.emplace_back();
    for (int i = 0; i < body.input_size(); ++i)
      scopes_.back().values[body.input(i).name()] = args[static_cast<size_t>(i)];
    Model model(body, parent, [&](const std::string& name) { return defined(name); });
    add_nodes(model);
    std::vector<Value*> outputs;
    for (const auto& output : body.output()) outputs.push_back(value(output.name()));
    scopes_.pop_back();
    return outputs;
  }

  static std::vector<Value*> read(Reader& reader, const Step& step) {
    std::vector<Value*> results;
    if (step.builtin) results = step.builtin(reader);
    if (results.empty()) {
      if (!step.rule) reader.unsupported("only constants and sizes are supported here");
      results = step.rule->import(reader);
    }
    if (const int bits = kept_bits(reader, *step.node)) reader.narrow(results[0], bits);
    return results;
  }

  // Integers of 2 and 4 bits that an op only moves, or repeats, have as many afterwards.
  static int kept_bits(const Reader& reader, const ::onnx::NodeProto& node) {
    static const std::set<std::string_view> moves{"Flatten", "Identity",  "Pad",      "Reshape",
                                                  "Squeeze", "Transpose", "Unsqueeze"};
    if (moves.contains(node.op_type())) return reader.narrow_bits(0);
    if (node.op_type() != "Constant" && node.op_type() != "ConstantOfShape") return 0;
    for (const auto& attribute : node.attribute())
      if (attribute.name() == "value") return narrow_bits(attribute.t().data_type());
    return 0;
  }

  void define_outputs(const Reader& reader, const std::vector<Value*>& results,
                      const ::onnx::NodeProto& node) {
    for (int i = 0; i < node.output_size(); ++i) {
      const std::string& name = node.output(i);
      Value* result =
          static_cast<size_t>(i) < results.size() ? results[static_cast<size_t>(i)] : nullptr;
      if (name.empty()) continue;
      if (!result) {
        scopes_.back().missing_outputs.emplace(name, reader.where());
        continue;
      }
      scopes_.back().values[name] = result;
      if (result->name().empty()) graph_.rename(result, name);
    }
  }

  // Sizes that no machine holds end here, before later shapes overflow on them.
  static void check_size(const TensorType& type, const std::string& where) {
    Dims known;
    for (const Dim& dim : type.shape)
      if (dim.is_static()) known.push_back(dim.value());
    try {
      element_count(known);
    } catch (const UserError& e) {
      throw UserError(ErrorKind::file, where, e.message(),
                      "give the input the sizes that it has at run time");
    }
  }

  static void check_quantization(const Reader& reader, const Node& node) {
    const Value* scale = node.input(1);
    if (!scale || !scale->is_constant()) return;
    for (const double s : scale->constant().to_doubles())
      if (!(s > 0 && std::isfinite(s)))
        reader.invalid(fmt::format("the scale {} is not positive and finite", s));
  }

  static void check_values(const Reader& reader, const Node* first) {
    for (const Node* node = first; node; node = node->next()) {
      for (const Value* output : node->outputs()) check_size(output->type(), reader.where());
      if (node->op().kind == OpKind::quantization) check_quantization(reader, *node);
    }
  }

  // The node that makes the first output takes the name, the others a longer one.
  static void name_nodes(Node* first, const ::onnx::NodeProto& proto) {
    for (Node* node = first; node; node = node->next()) {
      if (!node->name().empty()) continue;
      const bool main = proto.output_size() > 0 && node->output()->name() == proto.output(0);
      const std::string& label = node_label(proto);
      node->set_name(main || (node == first && !node->next())
                         ? label
                         : fmt::format("{}/{}", label, node->op_name()));
    }
  }

  void add_output(const ::onnx::ValueInfoProto& output) {
    const std::string where = fmt::format("graph output '{}'", output.name());
    Value* result = value(output.name());
    // A node without effect was read away: the value takes the output's name where it is free to.
    if (result->name() != output.name()) {
      if (result->producer() && !graph_.is_output(result)) {
        graph_.rename(result, output.name());
      } else if (find_op("identity")) {
        result = graph_.apply("identity", {result}, {}, output.name());
      }
    }
    if (output.type().has_tensor_type() && output.type().tensor_type().elem_type() != 0) {
      const int32_t type = output.type().tensor_type().elem_type();
      const std::string declared = type_text(read_dtype(type, where), narrow_bits(type)),
                        computed = type_text(result->dtype(), tags_.narrow_bits(result));
      if (declared != computed)
        throw UserError(ErrorKind::file, where,
                        fmt::format("is declared as {} but computed as {}", declared, computed),
                        "declare the output's type as computed, or add a Cast");
    }
    graph_.add_output(result);
  }

  // Values that rules made on the way, after the file has taken its names.
  void name_the_rest() {
    for (Node* node = graph_.first(); node; node = node->next()) {
      for (Value* output : node->outputs())
        if (output->name().empty()) graph_.rename(output, node->name());
      for (size_t i = 0; i < node->inputs().size(); ++i)
        if (Value* input = node->input(i); input && input->name().empty())
          graph_.rename(input, fmt::format("{}:in{}", node->name(), i));
    }
  }

  // One op of the captured stage (BatchNorm, say) makes a captured graph, quantized or not.
  void set_stage() {
    graph_.stage = Stage::canonical;
    for (Node* node = graph_.first(); node; node = node->next()) {
      if (node->op().stage == Stage::captured) {
        graph_.stage = Stage::captured;
        return;
      }
      graph_.stage = std::max(graph_.stage, node->op().stage);
    }
  }

  Model model_;
  ExternalFiles files_;
  Tags tags_;
  Graph graph_;
  // The file's names, of the graph and of the subgraphs that are being read.
  struct Scope {
    std::unordered_map<std::string, Value*> values;
    std::unordered_map<std::string, std::string> missing_outputs;  // name to the node's `where`
    Model* model = nullptr;
  };
  std::vector<Scope> scopes_{1};
  int64_t steps_ = 0;
  std::unordered_map<std::string, std::string> symbols_;
  std::set<std::string> symbol_names_;
};

Graph import_bytes(std::span<const std::byte> bytes, const std::string& folder) {
  if (bytes.empty())
    throw UserError(ErrorKind::file, "", "the file is empty, not an ONNX model",
                    "write or download it again");
  if (bytes.size() > std::numeric_limits<int>::max())
    throw UserError(ErrorKind::file, "", "larger than 2 GB, the most that an ONNX file can be",
                    "save it with external data");
  ::onnx::ModelProto proto;
  google::protobuf::io::CodedInputStream stream(reinterpret_cast<const uint8_t*>(bytes.data()),
                                                static_cast<int>(bytes.size()));
  stream.SetRecursionLimit(64);  // subgraphs are not supported, so a sound file needs few
  if (!proto.ParseFromCodedStream(&stream) || !stream.ConsumedEntireMessage())
    throw UserError(ErrorKind::file, "", "not an ONNX model, or truncated or corrupted",
                    "write or download it again; other formats must be exported to ONNX first");
  return Importer(proto, folder).run();
}

}  // namespace

Graph load_onnx_bytes(std::span<const std::byte> bytes, const std::string& folder) {
  try {
    return import_bytes(bytes, folder);
  } catch (const std::bad_alloc&) {
    throw UserError(ErrorKind::file, "", "the model does not fit into memory",
                    "save it with external data, which is mapped and not copied");
  }
}

Graph load_onnx(const std::string& path) {
  const auto file = MappedFile::open(path);
  const std::string folder = std::filesystem::path(path).parent_path().string();
  try {
    return load_onnx_bytes({file->data(), file->size()}, folder.empty() ? "." : folder);
  } catch (const UserError& e) {
    const std::string where = e.where().empty() ? path : fmt::format("{}: {}", path, e.where());
    throw UserError(e.kind(), where, e.message(), e.hint());
  }
}

}  // namespace octavo
