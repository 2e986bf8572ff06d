// ONNX ops that are made of several of ours: one file per family, compose_*.cpp.
#pragma once
#include <span>

#include "ops/onnx_rules.h"

namespace octavo::onnx_import {

std::span<const OnnxImportRule> attention_rules();
std::span<const OnnxImportRule> loss_rules();
std::span<const OnnxImportRule> quantized_rules();
std::span<const OnnxImportRule> plain_rules();
std::span<const OnnxImportRule> state_rules();
std::span<const OnnxImportRule> signal_rules();

// All of these.
std::span<const std::span<const OnnxImportRule>> composed_rules();

// Shorthand for rules that build small graphs.
class Composer {
 public:
  explicit Composer(OnnxNodeReader& reader) : reader_(reader) {}
  Value* operator()(std::string_view op, std::vector<Value*> inputs, Attributes a = {}) {
    return reader_.apply(op, std::move(inputs), std::move(a));
  }
  // A number of `like`'s element type.
  Value* number(double value, const Value* like) {
    return reader_.constant_value(convert(Tensor::scalar(value), like->dtype()));
  }
  Value* ints(const Ints& values) {
    const auto count = static_cast<int64_t>(values.size());
    return reader_.constant_value(Tensor::from(Dims{count}, values));
  }
  Value* cast(Value* x, DType to) {
    return x->dtype() == to ? x : (*this)("cast", {x}, {{"to", std::string(dtype_name(to))}});
  }
  Value* reshape(Value* x, Ints shape) {
    return (*this)("reshape", {x}, {{"shape", std::move(shape)}});
  }
  Value* transpose(Value* x, Ints perm) {
    return (*this)("transpose", {x}, {{"perm", std::move(perm)}});
  }
  Value* slice(Value* x, int64_t axis, int64_t start, int64_t end) {
    return (*this)("slice", {x},
                   {{"starts", Ints{start}}, {"ends", Ints{end}}, {"axes", Ints{axis}}});
  }
  Value* concat(std::vector<Value*> parts, int64_t axis) {
    return (*this)("concat", std::move(parts), {{"axis", axis}});
  }
  // Size of an axis as an i64 vector of one; a constant if it is known.
  Value* size(Value* x, int64_t axis) {
    return (*this)("shape", {x}, {{"start", axis}, {"end", axis == -1 ? INT64_MAX : axis + 1}});
  }
  // The number of an axis that must be known.
  int64_t known_size(const Value* x, int64_t axis, const char* what) {
    const Dim& dim = x->shape()[static_cast<size_t>(axis < 0 ? axis + x->shape().rank() : axis)];
    if (!dim.is_static()) reader_.unsupported(fmt::format("{} that is not known", what));
    return dim.value();
  }
  Value* input(size_t i) {
    if (!reader_.input(i)) reader_.invalid(fmt::format("input {} is missing", i));
    return reader_.input(i);
  }
  OnnxNodeReader& reader() { return reader_; }

 private:
  OnnxNodeReader& reader_;
};

}  // namespace octavo::onnx_import
