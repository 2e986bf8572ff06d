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

constexpr uint64_t most_metadata = uint64_t{1} << 28;  // constants are not in it
constexpr size_t most_dims = 64;

// The schema's enums are ours, number by number.
static_assert(static_cast<int>(fb::DType::MAX) + 1 == dtype_count);
static_assert(static_cast<int>(fb::DType::boolean) == static_cast<int>(DType::boolean));
static_assert(static_cast<int>(fb::DType::u16) == static_cast<int>(DType::u16));
static_assert(static_cast<int>(fb::Stage::MAX) == static_cast<int>(Stage::lowered));
static_assert(static_cast<int>(fb::AttributeKind::MAX) == static_cast<int>(AttributeKind::tensor));

class Reader {
 public:
  explicit Reader(const std::string& path) : path_(path), mapping_(MappedFile::open(path)) {}

  OctavoFile read() {
    check_header();
    const fb::File& file = verified_metadata();
    OctavoFile result;
    if (file.graphs()->size() != 1)
      damaged(fmt::format("it holds {} graphs", file.graphs()->size()));
    read_graph(*file.graphs()->Get(0));
    result.graph = std::move(graph_);
    for (const fb::Section* section : list(file.sections())) {
      spend(section->key()->size());
      result.sections.push_back({section->key()->str(), section->version(),
                                 bytes(section->offset(), section->size(), "section")});
    }
    return result;
  }

 private:
  [[noreturn]] void damaged(const std::string& message) const {
    throw UserError(ErrorKind::file, path_, "damaged .octavo file: " + message,
                    "write it again from its source");
  }

  void check_header() {
    if (mapping_->size() < octavo_magic.size() ||
        std::memcmp(mapping_->data(), octavo_magic.data(), octavo_magic.size()) != 0)
      throw UserError(ErrorKind::file, path_, "not an .octavo file");
    if (mapping_->size() < sizeof header_) damaged("it ends within its header");
    std::memcpy(&header_, mapping_->data(), sizeof header_);
    if (header_.version > octavo_file_version)
      throw UserError(ErrorKind::file, path_,
                      fmt::format("its format is version {}, this Octavo reads up to {}",
                                  header_.version, octavo_file_version),
                      "update Octavo, or save the file with this version");
    if (header_.version == 0 || header_.header_size != sizeof header_)
      damaged("its header makes no sense");
    if (header_.metadata_size > most_metadata) damaged("its metadata exceed 256 MB");
    const uint64_t size = mapping_->size();
    if (header_.data_offset != align_up(sizeof header_ + header_.metadata_size) ||
        header_.data_offset > size || header_.data_size != size - header_.data_offset)
      damaged(fmt::format("its parts do not add up to its {} bytes; it may be truncated", size));
    metadata_ = {mapping_->data() + sizeof header_, header_.metadata_size};
    if (checksum(header_, metadata_) != header_.checksum) damaged("its checksum does not match");
    data_ = {mapping_->data() + header_.data_offset, header_.data_size};
  }

  // Nothing of the FlatBuffer may be touched before this.
  const fb::File& verified_metadata() {
    constexpr flatbuffers::uoffset_t most_depth = 16, most_tables = 1u << 24;
    const auto* buffer = reinterpret_cast<const uint8_t*>(metadata_.data());
    flatbuffers::Verifier verifier(buffer, metadata_.size(), most_depth, most_tables);
    if (metadata_.size() < 8 || !fb::VerifyFileBuffer(verifier))
      damaged("its metadata are not sound");
    // Parts may lie on top of each other, so that little metadata could describe a huge graph; no
    // honest file repeats its bytes, names of symbols excepted, anywhere near this often.
    budget_ = 64 * metadata_.size() + (1u << 20);
    return *fb::GetFile(buffer);
  }

  void spend(uint64_t amount) {
    if (amount > budget_) damaged("its metadata repeat themselves");
    budget_ -= amount;
  }

  // A vector as a span; absent is empty.
  template <class T>
  std::vector<const T*> list(const flatbuffers::Vector<flatbuffers::Offset<T>>* vector) {
    std::vector<const T*> items;
    if (!vector) return items;
    spend(vector->size() * sizeof(void*));
    for (flatbuffers::uoffset_t i = 0; i < vector->size(); ++i) items.push_back(vector->Get(i));
    return items;
  }

  template <class T>
  std::vector<T> numbers(const flatbuffers::Vector<T>* vector) {
    if (!vector) return {};
    spend(vector->size() * sizeof(T));
    // A forged file may place them at any address: the verifier aligns only their count.
    std::vector<T> values(vector->size());
    if (!values.empty()) std::memcpy(values.data(), vector->Data(), values.size() * sizeof(T));
    return values;
  }

  std::string text(const flatbuffers::String* string) {
    if (!string) return "";
    spend(string->size());
    return string->str();
  }

  // A name that no value has yet.
  std::string value_name(const flatbuffers::String* string) {
    std::string name = text(string);
    if (!name.empty() && graph_.find_value(name))
      damaged(fmt::format("two values are named '{}'", name));
    return name;
  }

  DType dtype(fb::DType value) {
    if (value > fb::DType::MAX)
      damaged(fmt::format("there is no element type {}", static_cast<int>(value)));
    return static_cast<DType>(value);
  }

  std::shared_ptr<Buffer> bytes(uint64_t offset, uint64_t size, const std::string& what) {
    if (offset % octavo_alignment != 0 || size > data_.size() || offset > data_.size() - size)
      damaged(fmt::format("{}: {} bytes at {} are outside the data section", what, size, offset));
    return Buffer::view(data_.data() + offset, size, mapping_);
  }

  Tensor tensor(const fb::Tensor& t, const std::string& what) {
    const DType type = dtype(t.dtype());
    Dims dims = numbers(t.dims());
    if (dims.size() > most_dims) damaged(fmt::format("{}: {} dimensions", what, dims.size()));
    try {
      const uint64_t size = static_cast<uint64_t>(element_count(dims)) * dtype_size(type);
      auto buffer = bytes(t.offset(), size, what);
      if (type == DType::boolean)  // other bytes than 0 and 1 are no bool in C++
        for (size_t i = 0; i < size; ++i)
          if (buffer->data()[i] > std::byte{1})
            damaged(what + ": not all elements are true or false");
      return {type, std::move(dims), std::move(buffer)};
    } catch (const UserError& e) {
      if (e.kind() == ErrorKind::file) throw;
      damaged(fmt::format("{}: {}", what, e.message()));
    }
  }

  TensorType type(const fb::Type& t, const std::string& what) {
    TensorType result{dtype(t.dtype()), {}};
    const Dims dims = numbers(t.dims());
    if (dims.size() > most_dims) damaged(fmt::format("{}: {} dimensions", what, dims.size()));
    Dims known;
    for (const int64_t dim : dims) {
      if (dim >= 0) {
        known.push_back(dim);
        result.shape.emplace_back(dim);
      } else if (dim == -1) {
        result.shape.push_back(Dim::unknown());
      } else {
        const auto symbol = static_cast<uint64_t>(-(dim + 2));
        if (symbol >= symbols_.size()) damaged(fmt::format("{}: a dimension is {}", what, dim));
        spend(symbols_[symbol].size());
        result.shape.push_back(Dim::symbol(symbols_[symbol]));
      }
    }
    try {
      element_count(known);
    } catch (const UserError& e) {
      damaged(fmt::format("{}: {}", what, e.message()));
    }
    return result;
  }

  void read_graph(const fb::Graph& g) {
    graph_.name = text(g.name());
    if (g.stage() > fb::Stage::MAX)
      damaged(fmt::format("there is no stage {}", static_cast<int>(g.stage())));
    graph_.stage = static_cast<Stage>(g.stage());
    for (const flatbuffers::String* symbol : list(g.symbols())) {
      symbols_.push_back(text(symbol));
      if (symbols_.back().empty() || symbols_.back() == "?") damaged("a symbol has no name");
    }
    for (const fb::Value* input : list(g.inputs())) {
      std::string name = value_name(input->name());
      TensorType t = type(*input->type(), fmt::format("input '{}'", name));
      values_.push_back(graph_.add_input(std::move(name), std::move(t)));
    }
    for (const fb::Constant* constant : list(g.constants())) {
      std::string name = value_name(constant->name());
      Tensor t = tensor(*constant->tensor(), fmt::format("constant '{}'", name));
      values_.push_back(graph_.add_constant(std::move(name), std::move(t)));
    }
    for (const fb::Node* node : list(g.nodes())) read_node(*node);
    for (const int32_t output : numbers(g.outputs())) {
      Value* value = output >= 0 ? value_at(output, "graph output") : nullptr;
      if (!value) damaged("a graph output is missing");
      graph_.add_output(value);
    }
    const std::vector<std::string> found = violations(graph_, graph_.stage);
    if (!found.empty()) damaged(found[0]);
  }

  Value* value_at(int32_t index, const std::string& what) {
    if (index == -1) return nullptr;
    if (index < 0 || static_cast<size_t>(index) >= values_.size())
      damaged(fmt::format("{}: value {} is not defined before", what, index));
    return values_[static_cast<size_t>(index)];
  }

  void read_node(const fb::Node& n) {
    const std::string op = text(n.op()), name = text(n.name());
    const std::string where = fmt::format("{} '{}'", op, name);
    if (!find_op(op))
      throw UserError(ErrorKind::file, path_,
                      fmt::format("node '{}' is a '{}', which this Octavo does not know", name, op),
                      "update Octavo, or save the file with this version");
    std::vector<Value*> inputs;
    for (const int32_t index : numbers(n.inputs())) inputs.push_back(value_at(index, where));
    Attributes attributes;
    for (const fb::Attribute* a : list(n.attributes())) {
      std::string key = text(a->name());
      if (attributes.contains(key))
        damaged(fmt::format("{}: attribute '{}' is given twice", where, key));
      attributes.emplace(key, attribute(*a, where + " attribute " + key));
    }
    Node* node = add(op, std::move(inputs), std::move(attributes), where);
    const auto outputs = list(n.outputs());
    if (outputs.size() != node->outputs().size())
      damaged(fmt::format("{} has {} outputs instead of {}", where, outputs.size(),
                          node->outputs().size()));
    for (size_t i = 0; i < outputs.size(); ++i) {
      Value* value = node->output(i);
      if (value->shape().size() > most_dims)
        damaged(fmt::format("{}: {} dimensions", where, value->shape().size()));
      const TensorType stored = type(*outputs[i]->type(), where);
      if (!compatible(stored, value->type()))
        damaged(fmt::format("{}: output {} is {}, not {}", where, i, value->type().str(),
                            stored.str()));
      graph_.rename(value, value_name(outputs[i]->name()));
      values_.push_back(value);
    }
    node->set_name(name);
  }

  // Shape functions are the first to look at what a hostile file says; whatever they object to,
  // the file is at fault.
  Node* add(const std::string& op, std::vector<Value*> inputs, Attributes attributes,
            const std::string& where) {
    try {
      return graph_.add(op, std::move(inputs), std::move(attributes));
    } catch (const UserError& e) {
      damaged(fmt::format("{}: {}", where, e.message()));
    } catch (const InternalError& e) {
      damaged(fmt::format("{}: {}", where, e.what()));
    }
  }

  // A later version may infer more than the one that wrote the file, but nothing else.
  static bool compatible(const TensorType& stored, const TensorType& inferred) {
    if (stored.dtype != inferred.dtype || stored.shape.size() != inferred.shape.size())
      return false;
    for (size_t i = 0; i < stored.shape.size(); ++i) {
      const Dim &a = stored.shape[i], &b = inferred.shape[i];
      if (a.is_static() && b.is_static() && a.value() != b.value()) return false;
    }
    return true;
  }

  Attribute attribute(const fb::Attribute& a, const std::string& where) {
    const auto one = [&](const auto& values) {
      if (values.size() != 1) damaged(where + " is not one number");
      return values[0];
    };
    switch (a.kind()) {
      case fb::AttributeKind::integer:
        return one(numbers(a.integers()));
      case fb::AttributeKind::real:
        return one(numbers(a.reals()));
      case fb::AttributeKind::text:
        return text(a.text());
      case fb::AttributeKind::integers:
        return numbers(a.integers());
      case fb::AttributeKind::reals:
        return numbers(a.reals());
      case fb::AttributeKind::tensor:
        if (!a.tensor()) damaged(where + " has no elements");
        return tensor(*a.tensor(), where);
    }
    damaged(where + " is of an unknown kind");
  }

  const std::string& path_;
  std::shared_ptr<MappedFile> mapping_;
  OctavoHeader header_{};
  std::span<const std::byte> metadata_, data_;
  uint64_t budget_ = 0;
  Graph graph_;
  std::vector<std::string> symbols_;
  std::vector<Value*> values_;
};

}  // namespace

OctavoFile load_octavo_file(const std::string& path) { return Reader(path).read(); }
Graph load_octavo(const std::string& path) { return std::move(load_octavo_file(path).graph); }

bool is_octavo_file(const std::string& path) {
  const auto file = MappedFile::open(path);
  return file->size() >= octavo_magic.size() &&
         std::memcmp(file->data(), octavo_magic.data(), octavo_magic.size()) == 0;
}

}  // namespace octavo
