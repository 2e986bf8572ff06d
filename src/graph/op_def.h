// What Octavo knows of an op. The rows of src/ops/ops.def, joined with each op's own file.
#pragma once
#include <span>
#include <string_view>
#include <vector>

#include "graph/graph.h"

namespace octavo {

// What an op does to the elements; passes ask this, never a list of names.
enum class OpKind {
  pointwise,     // output[i] depends on input[i] after broadcasting
  compute,       // multiplies and accumulates: convolution, matrix product
  reduction,     // many to one along axes or windows
  movement,      // copies elements: reshape, transpose, concat, slice, …
  quantization,  // quantize, dequantize, fake_quantize
  fused,         // a kernel of the lowered stage
  shape,         // reads the shape of its input only
};

// How INT8 treats an op. Placement and lowering read this.
enum class QuantTrait {
  weighted,    // integer accumulation; input 0 per tensor, constant input 1 per channel
  same_scale,  // output elements are input elements (or their maximum): scale and zero point pass
  requantize,  // integer in, integer out, output with its own scale
  float_only,  // runs in float
  none,        // quantization nodes and fused kernels: already decided
};

struct AttributeSpec {
  std::string_view name;
  AttributeKind kind;
  bool required = false;
  Attribute fallback = {};  // when not required
};

// An attribute that may come as an input instead; then the output types are known only once that
// input is constant (or at run time: see codegen/stages.h). A constant input becomes the attribute.
struct ParameterSpec {
  std::string_view attribute;
  size_t input;
};

struct OnnxImportRule;  // ops/onnx_rules.h
struct OnnxExportRule;

// What an op's own file provides.
struct OpImpl {
  std::string_view doc;                   // one or two lines: the formula, the shapes
  size_t min_inputs = 1, max_inputs = 1;  // inputs min..max may be null or absent; max may be huge
  size_t outputs = 1;
  std::vector<AttributeSpec> attributes = {};
  std::vector<ParameterSpec> parameters = {};
  // Output types; throws UserError (where = node.where()) on shapes, dtypes or attributes that do
  // not fit. May use constants of the inputs.
  std::vector<TensorType> (*infer)(const Node& node) = nullptr;
  // The plain definition. `in[i]` is null where the input is left out; `out` tensors are allocated
  // with the inferred types, whose dims are all known. Float ops accumulate in float64.
  void (*reference)(const Node& node, std::span<const Tensor* const> in,
                    std::span<Tensor> out) = nullptr;
  std::span<const OnnxImportRule> onnx_import = {};
  const OnnxExportRule* onnx_export = nullptr;
};

struct OpDef {
  std::string_view name;
  OpKind kind;
  Stage stage;  // first stage in which it may appear (canonical, quantized or lowered)
  QuantTrait quant;
  const OpImpl* impl;
  const AttributeSpec* attribute(std::string_view attribute_name) const;
};

// Defined by src/ops/registry.cpp over ops.def.
const OpDef* find_op(std::string_view name);  // null if there is none
std::span<const OpDef> all_ops();

}  // namespace octavo
