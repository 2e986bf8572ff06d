// ONNX ops that a few of ours spell out.
#include "frontends/onnx/compose.h"

namespace octavo::onnx_import {
namespace {

std::vector<Value*> import_dropout(OnnxNodeReader& reader) {
  Composer make(reader);
  Value* x = make.input(0);
  const auto training = reader.constant_ints(2, "training_mode");
  if (training && !training->empty() && training->front() != 0) {
    const Tensor* ratio = reader.constant(1);
    if (!ratio || ratio->size() != 1 || ratio->to_doubles()[0] != 0)
      reader.unsupported("training_mode 1: it draws random numbers");
  }
  if (reader.output_count() < 2) return {x};
  Value* yes = reader.constant_value(Tensor::scalar(true));
  return {x, make("expand", {yes, make("shape", {x})})};
}

// Ones on diagonal k.
std::vector<Value*> import_eye(OnnxNodeReader& reader) {
  Composer make(reader);
  Value* x = make.input(0);
  const int64_t rows = make.known_size(x, 0, "a size"), columns = make.known_size(x, 1, "a size");
  const int64_t k = reader.integer("k", 0);
  Value* row =
      make("range", {make.number(0, make.ints({})), reader.constant_value(Tensor::scalar(rows)),
                     make.number(1, make.ints({}))});
  Value* column = make(
      "range",
      {make.number(0, row), reader.constant_value(Tensor::scalar(columns)), make.number(1, row)});
  Value* shifted =
      make("add", {make.reshape(row, {-1, 1}), make.number(static_cast<double>(k), row)});
  Value* equal = make("equal", {shifted, make.reshape(column, {1, -1})});
  const DType to =
      reader.has("dtype") ? reader.element_type(reader.integer("dtype", 1)) : x->dtype();
  return {make.cast(equal, to)};
}

// Zero mean and unit variance over the axes.
std::vector<Value*> import_mean_variance(OnnxNodeReader& reader) {
  Composer make(reader);
  Value* x = make.input(0);
  const Attributes over{{"axes", reader.integers("axes", {0, 2, 3})}, {"keepdims", int64_t{1}}};
  Value* centred = make("sub", {x, make("reduce_mean", {x}, over)});
  Value* variance = make("reduce_mean", {make("mul", {centred, centred})}, over);
  Value* deviation = make("sqrt", {variance});
  return {make("div", {centred, make("add", {deviation, make.number(1e-9, x)})})};
}

std::vector<Value*> import_swiglu(OnnxNodeReader& reader) {
  Composer make(reader);
  Value* gate = make("swish", {make.input(0)}, {{"alpha", reader.real("alpha", 1)}});
  return {make("mul", {gate, make.input(1)})};
}

constexpr OnnxImportRule rules[] = {
    {.op_type = "Dropout", .import = import_dropout},
    {.op_type = "EyeLike", .since = 9, .import = import_eye},
    {.op_type = "MeanVarianceNormalization", .since = 9, .import = import_mean_variance},
    {.op_type = "SwiGLU", .import = import_swiglu}};

}  // namespace

std::span<const OnnxImportRule> plain_rules() { return rules; }

}  // namespace octavo::onnx_import
