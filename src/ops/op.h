// What the ops' own files share: how a file declares its part of ops.def's row, the small checks of
// shape functions, access to elements of any type, and the plainest of ONNX rules.
#pragma once
#include <string>
#include <vector>

#include "graph/element.h"
#include "graph/op_def.h"
#include "ops/onnx_rules.h"
#include "ops/parameters.h"
#include "support/error.h"

namespace octavo::ops {

// One declaration per row: extern const OpImpl conv; …
#define OP(name, kind, stage, quant) extern const OpImpl op_##name;
#include "ops/ops.def"
#undef OP

// Throws UserError (value) at the node.
[[noreturn]] void fail(const Node& node, const std::string& message);
void require(const Node& node, bool condition, const char* message);
// Input i's type, checked to be floating point.
const TensorType& float_input(const Node& node, size_t i = 0);
// Input i's type, checked to be a number (no bool).
const TensorType& number_input(const Node& node, size_t i = 0);
// All inputs from 1 on have input 0's element type.
void require_one_dtype(const Node& node);
// The attribute "axis" within the rank of input 0.
size_t axis_of(const Node& node);

// Calls f(T{}) for the C++ type of `dtype` if the predicate holds for it; UserError otherwise.
template <class F>
void visit_floats(const Node& node, DType dtype, F f) {
  visit_dtype(dtype, [&](auto tag) {
    if constexpr (is_float_element<decltype(tag)>)
      f(tag);
    else
      fail(node, fmt::format("no kernel for {}", dtype_name(dtype)));
  });
}

// Reference kernels of floats compute in double: all elements at once, rounded once at the end.
std::vector<double> doubles(const Tensor& tensor);
void store_doubles(std::span<const double> values, Tensor& out);

// Bytes: copies element `from` of one tensor to element `to` of another of the same type.
inline void copy_element(const Tensor& in, int64_t from, Tensor& out, int64_t to, size_t size) {
  const std::byte* source = in.data() + static_cast<size_t>(from) * size;
  std::copy(source, source + size, out.mutable_data() + static_cast<size_t>(to) * size);
}

// ONNX's node has the same inputs: all that are given, at least `least`.
std::vector<Value*> inputs_of(OnnxNodeReader& reader, size_t least = 1);
// Writes `op_type` with the node's inputs and outputs as they are; UserError before opset `since`.
void write_as(const Node& node, OnnxNodeWriter& writer, std::string_view op_type,
              const Attributes& attributes = {}, int64_t since = 1, std::string_view domain = "");
void need_opset(const Node& node, const OnnxNodeWriter& writer, int64_t since);

}  // namespace octavo::ops
