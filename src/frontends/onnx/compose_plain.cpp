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

// Coordinates from -1 to 1 of a grid of theta's targets, the last axis first.
std::vector<Value*> import_affine_grid(OnnxNodeReader& reader) {
  Composer make(reader);
  Value *theta = make.input(0), *size = make.input(1);
  const int64_t rank = make.known_size(theta, 1, "a rank");
  const bool corners = reader.integer("align_corners", 0) != 0;
  std::vector<Value*> lengths, columns;
  for (int64_t i = 0; i < rank; ++i) lengths.push_back(make.slice(size, 0, i + 2, i + 3));
  Value* grid = make.concat(lengths, 0);
  for (int64_t i = rank; i-- > 0;) {
    Value* count = make.cast(lengths[static_cast<size_t>(i)], theta->dtype());
    Value* index =
        make.cast(make("range", {make.ints({0}), lengths[static_cast<size_t>(i)], make.ints({1})}),
                  theta->dtype());
    Value *one = make.number(1, theta), *two = make.number(2, theta);
    Value* at = make("mul", {index, two});
    at = corners ? make("div", {at, make("sub", {count, one})})
                 : make("div", {make("add", {at, one}), count});
    Ints shape(static_cast<size_t>(rank), 1);
    shape[static_cast<size_t>(i)] = -1;
    at = make("expand", {make.reshape(make("sub", {at, one}), shape), grid});
    columns.push_back(make.reshape(at, {1, -1, 1}));
  }
  columns.push_back(
      make("add", {make("mul", {columns[0], make.number(0, theta)}), make.number(1, theta)}));
  Value* points = make("matmul", {make.concat(columns, 2), make.transpose(theta, {0, 2, 1})});
  Value* shape = make.concat({make.size(theta, 0), grid, make.ints({rank})}, 0);
  return {make("reshape", {points, shape})};
}

constexpr OnnxImportRule rules[] = {
    {.op_type = "AffineGrid", .since = 20, .import = import_affine_grid},
    {.op_type = "Dropout", .import = import_dropout},
    {.op_type = "EyeLike", .since = 9, .import = import_eye},
    {.op_type = "MeanVarianceNormalization", .since = 9, .import = import_mean_variance},
    {.op_type = "SwiGLU", .import = import_swiglu}};

}  // namespace

std::span<const OnnxImportRule> plain_rules() { return rules; }

}  // namespace octavo::onnx_import
