#include <flatbuffers/flatbuffers.h>

#include "graph/octavo_file.h"
#include "graph/octavo_header.h"
#include "graph/op_def.h"
#include "graph/verify.h"
#include "octavo_generated.h"
#include "support/error.h"
#include "support/file.h"

namespace octavo {
namespace {

template <class T>
using Offset = flatbuffers::Offset<T>;
using Text = Offset<flatbuffers::String>;

class Writer {
 public:
  void add(const Graph& graph) {
    std::vector<Offset<fb::Value>> inputs;
    for (const Value* input : graph.inputs()) inputs.push_back(value(*number(input)));
    std::vector<Offset<fb::Constant>> constants;
    for (const Value* constant : graph.constants()) {
      number(constant);
      constants.push_back(
          fb::CreateConstant(builder_, text(constant->name()), tensor(constant->constant())));
    }
    std::vector<Offset<fb::Node>> nodes;
    graph.for_each([&](const Node& n) { nodes.push_back(node(n)); });
    std::vector<int32_t> outputs;
    for (const Value* output : graph.outputs()) outputs.push_back(numbers_.at(output));
    const auto symbols = builder_.CreateVector(symbols_);
    graphs_.push_back(
        fb::CreateGraph(builder_, text(graph.name), static_cast<fb::Stage>(graph.stage), symbols,
                        builder_.CreateVector(inputs), builder_.CreateVector(constants),
                        builder_.CreateVector(nodes), builder_.CreateVector(outputs)));
  }

  void add(const PackedSection& section) {
    const size_t size = section.bytes->size();
    sections_.push_back(fb::CreateSection(builder_, text(section.key), section.version,
                                          place(section.bytes->data(), size), size));
  }

  void write(const std::string& path) {
    const auto graphs = builder_.CreateVector(graphs_);
    const auto sections = builder_.CreateVector(sections_);
    builder_.Finish(fb::CreateFile(builder_, text("octavo"), graphs, sections),
                    fb::FileIdentifier());
    const auto metadata = std::as_bytes(std::span(builder_.GetBufferPointer(), builder_.GetSize()));
    OctavoHeader header{};
    std::copy(octavo_magic.begin(), octavo_magic.end(), header.magic.begin());
    header.version = octavo_file_version;
    header.header_size = sizeof header;
    header.metadata_size = metadata.size();
    header.data_offset = align_up(sizeof header + metadata.size());
    header.data_size = data_size_;
    header.checksum = checksum(header, metadata);
    write_file_atomically(path, [&](std::ostream& out) {
      const auto put = [&](std::span<const std::byte> bytes) {
        static constexpr char zeros[octavo_alignment] = {};
        out.write(reinterpret_cast<const char*>(bytes.data()),
                  static_cast<std::streamsize>(bytes.size()));
        out.write(zeros, static_cast<std::streamsize>(align_up(bytes.size()) - bytes.size()));
      };
      put(std::as_bytes(std::span(&header, 1)));
      put(metadata);
      for (const auto& blob : blobs_) put(blob);
    });
  }

 private:
  // Equal texts, such as names of ops, are stored once.
  Text text(std::string_view value) {
    return builder_.CreateSharedString(value.data(), value.size());
  }

  const Value* number(const Value* value) {
    numbers_.emplace(value, static_cast<int32_t>(numbers_.size()));
    return value;
  }

  // Memory that several constants share is stored once.
  uint64_t place(const std::byte* data, size_t size) {
    const auto [it, fresh] = placed_.emplace(std::pair(data, size), data_size_);
    if (fresh) {
      blobs_.emplace_back(data, size);
      data_size_ += align_up(size);
    }
    return it->second;
  }

  int64_t dim(const Dim& d) {
    if (d.is_static()) return d.value();
    if (d.is_unknown()) return -1;
    const auto [it, fresh] = symbol_numbers_.emplace(d.symbol(), symbols_.size());
    if (fresh) symbols_.push_back(text(d.symbol()));
    return -2 - static_cast<int64_t>(it->second);
  }

  Offset<fb::Value> value(const Value& v) {
    std::vector<int64_t> dims;
    for (const Dim& d : v.shape()) dims.push_back(dim(d));
    const auto type =
        fb::CreateType(builder_, static_cast<fb::DType>(v.dtype()), builder_.CreateVector(dims));
    return fb::CreateValue(builder_, text(v.name()), type);
  }

  Offset<fb::Tensor> tensor(const Tensor& t) {
    return fb::CreateTensor(builder_, static_cast<fb::DType>(t.dtype()),
                            builder_.CreateVector(t.dims()), place(t.data(), t.bytes()));
  }

  Offset<fb::Attribute> attribute(const std::string& name, const Attribute& a) {
    Offset<flatbuffers::Vector<int64_t>> integers;
    Offset<flatbuffers::Vector<double>> reals;
    Text words;
    Offset<fb::Tensor> elements;
    if (const auto* i = std::get_if<int64_t>(&a)) integers = builder_.CreateVector(i, 1);
    if (const auto* i = std::get_if<Ints>(&a)) integers = builder_.CreateVector(*i);
    if (const auto* r = std::get_if<double>(&a)) reals = builder_.CreateVector(r, 1);
    if (const auto* r = std::get_if<Floats>(&a)) reals = builder_.CreateVector(*r);
    if (const auto* t = std::get_if<std::string>(&a)) words = text(*t);
    if (const auto* t = std::get_if<Tensor>(&a)) elements = tensor(*t);
    return fb::CreateAttribute(builder_, text(name), static_cast<fb::AttributeKind>(a.index()),
                               integers, reals, words, elements);
  }

  Offset<fb::Node> node(const Node& n) {
    std::vector<int32_t> inputs;
    for (const Value* input : n.inputs()) inputs.push_back(input ? numbers_.at(input) : -1);
    std::vector<Offset<fb::Value>> outputs;
    for (const Value* output : n.outputs()) outputs.push_back(value(*number(output)));
    std::vector<Offset<fb::Attribute>> attributes;
    for (const auto& [name, a] : n.attributes()) attributes.push_back(attribute(name, a));
    return fb::CreateNode(builder_, text(n.op_name()), text(n.name()),
                          builder_.CreateVector(inputs), builder_.CreateVector(outputs),
                          builder_.CreateVector(attributes));
  }

  flatbuffers::FlatBufferBuilder builder_;
  std::vector<Offset<fb::Graph>> graphs_;
  std::vector<Offset<fb::Section>> sections_;
  std::unordered_map<const Value*, int32_t> numbers_;
  std::vector<Text> symbols_;
  std::unordered_map<std::string, size_t> symbol_numbers_;
  std::map<std::pair<const std::byte*, size_t>, uint64_t> placed_;
  std::vector<std::span<const std::byte>> blobs_;
  uint64_t data_size_ = 0;
};

}  // namespace

void save_octavo(const Graph& graph, const std::string& path,
                 std::span<const PackedSection> sections) {
  verify(graph);
  Writer writer;
  writer.add(graph);
  for (const PackedSection& section : sections) writer.add(section);
  writer.write(path);
}

}  // namespace octavo
