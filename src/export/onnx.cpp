#include "export/onnx.h"

#include <filesystem>

#include "export/onnx_writer.h"
#include "support/error.h"
#include "support/file.h"

namespace octavo {
namespace {

using onnx_export::Writer;

constexpr int64_t oldest_opset = 13, usual_opset = 17, newest_opset = 22;
constexpr size_t most_inside = 1'800'000'000;
constexpr size_t page = 4096;   // external tensors start on a page, so that readers can map them
constexpr size_t small = 1024;  // smaller ones stay inside: shapes, scales

int64_t default_ir_version(int64_t opset) {
  if (opset < 15) return 7;
  if (opset < 19) return 8;
  return opset < 21 ? 9 : 10;
}

// Cheap to try: a writer holds the graph's own tensors.
Writer write_nodes(const Graph& graph, int64_t opset) {
  Writer writer(graph, opset);
  writer.write_graph();
  return writer;
}

Writer write_at_least_opset(const Graph& graph) {
  for (int64_t opset = usual_opset; opset < newest_opset; ++opset) {
    try {
      return write_nodes(graph, opset);
    } catch (const UserError& error) {
      if (error.kind() != ErrorKind::unsupported) throw;
    }
  }
  return write_nodes(graph, newest_opset);
}

Writer write_model(const Graph& graph, const OnnxExportOptions& options) {
  if (graph.stage == Stage::lowered)
    throw UserError(ErrorKind::unsupported, graph.name,
                    "a lowered graph consists of Octavo's own kernels and has no ONNX form",
                    "export the graph from before it was compiled");
  if (options.opset != 0 && (options.opset < oldest_opset || options.opset > newest_opset))
    throw UserError(
        ErrorKind::value, "opset",
        fmt::format("{} is outside {} to {}", options.opset, oldest_opset, newest_opset),
        "leave it out for the least that suffices");
  Writer writer =
      options.opset == 0 ? write_at_least_opset(graph) : write_nodes(graph, options.opset);
  const int64_t least = default_ir_version(writer.opset());
  if (options.ir_version != 0 && options.ir_version < least)
    throw UserError(ErrorKind::value, "ir_version",
                    fmt::format("opset {} needs at least IR version {}, not {}", writer.opset(),
                                least, options.ir_version),
                    "leave it out for the least that the opset allows");
  writer.model().set_ir_version(options.ir_version ? options.ir_version : least);
  writer.model().set_producer_name(options.producer);
  return writer;
}

size_t weight_bytes(const Writer& writer) {
  size_t bytes = 0;
  for (const Tensor& tensor : writer.tensors()) bytes += tensor.bytes();
  return bytes;
}

void store_inside(const Tensor& tensor, ::onnx::TensorProto& proto) {
  proto.set_raw_data(tensor.data(), tensor.bytes());
}

void check_size(const Writer& writer) {
  if (weight_bytes(writer) > most_inside)
    throw UserError(ErrorKind::value, "external_data",
                    "the weights exceed 1.8 GB and an ONNX file cannot be larger than 2 GB",
                    "allow external data");
}

void serialize(const ::onnx::ModelProto& model, std::ostream& out) {
  if (!model.SerializeToOstream(&out)) out.setstate(std::ios::badbit);
}

// Gives each large tensor its place in the data file; returns which they are.
std::vector<std::pair<size_t, const Tensor*>> place_outside(Writer& writer,
                                                            const std::string& location) {
  std::vector<std::pair<size_t, const Tensor*>> places;
  size_t offset = 0;
  for (size_t i = 0; i < writer.tensors().size(); ++i) {
    const Tensor& tensor = writer.tensors()[i];
    auto& proto = *writer.model().mutable_graph()->mutable_initializer(static_cast<int>(i));
    if (tensor.bytes() < small) {
      store_inside(tensor, proto);
      continue;
    }
    const auto set = [&](const char* key, std::string value) {
      auto* entry = proto.add_external_data();
      entry->set_key(key);
      entry->set_value(std::move(value));
    };
    proto.set_data_location(::onnx::TensorProto::EXTERNAL);
    set("location", location);
    set("offset", std::to_string(offset));
    set("length", std::to_string(tensor.bytes()));
    places.emplace_back(offset, &tensor);
    offset = (offset + tensor.bytes() + page - 1) / page * page;
  }
  return places;
}

void write_data(const std::vector<std::pair<size_t, const Tensor*>>& places, std::ostream& out) {
  size_t position = 0;
  const std::vector<char> zeros(page);
  for (const auto& [offset, tensor] : places) {
    out.write(zeros.data(), static_cast<std::streamsize>(offset - position));
    out.write(reinterpret_cast<const char*>(tensor->data()),
              static_cast<std::streamsize>(tensor->bytes()));
    position = offset + tensor->bytes();
  }
}

}  // namespace

std::string onnx_bytes(const Graph& graph, const OnnxExportOptions& options) {
  Writer writer = write_model(graph, options);
  check_size(writer);
  for (size_t i = 0; i < writer.tensors().size(); ++i)
    store_inside(writer.tensors()[i],
                 *writer.model().mutable_graph()->mutable_initializer(static_cast<int>(i)));
  return writer.model().SerializeAsString();
}

void export_onnx(const Graph& graph, const std::string& path, const OnnxExportOptions& options) {
  Writer writer = write_model(graph, options);
  const bool outside =
      options.external_data == ExternalData::always ||
      (options.external_data == ExternalData::automatic && weight_bytes(writer) > most_inside);
  if (outside) {
    const std::string data_path = path + ".data";
    const auto places = place_outside(writer, std::filesystem::path(data_path).filename().string());
    // The data file gets its name once the model is written but for its own name.
    write_file_atomically(path, [&](std::ostream& out) {
      serialize(writer.model(), out);
      if (out.flush())
        write_file_atomically(data_path, [&](std::ostream& data) { write_data(places, data); });
    });
    return;
  }
  check_size(writer);
  for (size_t i = 0; i < writer.tensors().size(); ++i)
    store_inside(writer.tensors()[i],
                 *writer.model().mutable_graph()->mutable_initializer(static_cast<int>(i)));
  write_file_atomically(path, [&](std::ostream& out) { serialize(writer.model(), out); });
}

}  // namespace octavo
