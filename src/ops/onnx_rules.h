// How an op reads from and writes to ONNX, without protobuf: the importer and the exporter
// implement these interfaces, each op's file holds the rules.
#pragma once
#include <limits>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "graph/graph.h"

namespace octavo {

// One ONNX node as an import rule sees it. Errors name the file's node, op, domain and version.
// "i8", or "i4" of an i8 that the file has as 4 bits.
inline std::string type_text(DType dtype, int narrow_bits) {
  return narrow_bits == 0 ? dtype_name(dtype)
                          : fmt::format("{}{}", *dtype_name(dtype), narrow_bits);
}

class OnnxNodeReader {
 public:
  virtual ~OnnxNodeReader() = default;
  virtual const std::string& name() const = 0;  // never empty: the node's, else its first output's
  virtual std::string_view op_type() const = 0;
  virtual int64_t opset() const = 0;  // of the node's domain
  virtual size_t input_count() const = 0;
  virtual size_t output_count() const = 0;
  virtual Value* input(size_t i) const = 0;            // null if left out
  virtual const Tensor* constant(size_t i) const = 0;  // null if left out or not constant
  // 2 or 4 where input i is of INT2, UINT2, INT4 or UINT4, which are i8 or u8 here; otherwise 0.
  virtual int narrow_bits(size_t i) const = 0;
  // Input i as a constant; fails if it is given but not constant; empty if it is left out.
  virtual std::optional<Ints> constant_ints(size_t i, std::string_view what) const = 0;
  // Input i as integers if they are known now; the target of a Reshape may know dynamic dims.
  virtual std::optional<Ints> known_ints(size_t i) const = 0;
  // Attributes with ONNX's defaults supplied by the rule.
  virtual bool has(std::string_view attribute) const = 0;
  virtual int64_t integer(std::string_view attribute, int64_t fallback) const = 0;
  virtual double real(std::string_view attribute, double fallback) const = 0;
  // A string, or a list of them with commas between.
  virtual std::string text(std::string_view attribute, std::string fallback) const = 0;
  virtual Ints integers(std::string_view attribute, Ints fallback) const = 0;
  virtual Floats reals(std::string_view attribute, Floats fallback) const = 0;
  virtual const Tensor* tensor(std::string_view attribute) const = 0;
  // ONNX's number of an element type as ours; unsupported if Octavo lacks it.
  virtual DType element_type(int64_t onnx_type) const = 0;
  virtual int element_bits(int64_t onnx_type) const = 0;  // as narrow_bits, of a type
  // Notes that `value`, whose elements fit them, has integers of so many bits in the file.
  virtual Value* narrow(Value* value, int bits) = 0;
  virtual Graph& graph() const = 0;
  // Adds a node to the graph; named after this ONNX node.
  virtual Value* apply(std::string_view op, std::vector<Value*> inputs,
                       Attributes attributes = {}) = 0;
  // All outputs of a node that has several.
  virtual std::vector<Value*> apply_all(std::string_view op, std::vector<Value*> inputs,
                                        Attributes attributes = {}) = 0;
  virtual Value* constant_value(Tensor tensor) = 0;
  // Throws UserError (unsupported) naming this node.
  [[noreturn]] virtual void unsupported(const std::string& message) const = 0;
  [[noreturn]] virtual void invalid(const std::string& message) const = 0;
};

struct OnnxImportRule {
  std::string_view op_type;
  int64_t since = 1;  // first opset the rule covers
  int64_t until = std::numeric_limits<int64_t>::max();
  // Values of the ONNX node's outputs, in order; may be fewer if the rest are optional and unused.
  std::vector<Value*> (*import)(OnnxNodeReader& reader) = nullptr;
  std::string_view domain = "";  // "" is ai.onnx
};

// Writes nodes of one ONNX file.
class OnnxNodeWriter {
 public:
  virtual ~OnnxNodeWriter() = default;
  virtual int64_t opset() const = 0;
  // The ONNX name of a value ("" for null). Constants become initializers when first named.
  virtual std::string value_name(const Value* value) = 0;
  // A new initializer; returns its name.
  virtual std::string initializer(const std::string& hint, const Tensor& tensor) = 0;
  // One of INT4 or UINT4 from i8 or u8; UserError for values outside 4 bits.
  virtual std::string four_bit_initializer(const std::string& hint, const Tensor& tensor) = 0;
  virtual std::string temporary(const std::string& hint) = 0;  // a fresh value name
  virtual void node(std::string_view op_type, std::vector<std::string> inputs,
                    std::vector<std::string> outputs, const Attributes& attributes = {},
                    std::string_view domain = "") = 0;
};

struct OnnxExportRule {
  void (*write)(const Node& node, OnnxNodeWriter& writer) = nullptr;
};

}  // namespace octavo
