// transpose, concat and slice: elements copied to other places.
#include "ops/movement.h"

#include <cstring>

#include "ops/op.h"

namespace octavo::ops {
namespace {

std::vector<int64_t> strides_of(const Dims& dims) {
  std::vector<int64_t> strides(dims.size(), 1);
  for (size_t i = dims.size(); i-- > 1;) strides[i - 1] = strides[i] * dims[i];
  return strides;
}

// out[i...] = in[start + sum i_d * stride_d], any element type.
void gather_strided(const Tensor& in, int64_t start, const std::vector<int64_t>& strides,
                    Tensor& out) {
  const size_t size = dtype_size(in.dtype());
  const Dims& dims = out.dims();
  for (int64_t i = 0; i < out.size(); ++i) {
    int64_t rest = i, at = start;
    for (size_t d = dims.size(); d-- > 0; rest /= dims[d]) at += rest % dims[d] * strides[d];
    std::memcpy(out.mutable_data() + static_cast<size_t>(i) * size,
                in.data() + static_cast<size_t>(at) * size, size);
  }
}

// ---- transpose

std::vector<TensorType> infer_transpose(const Node& node) {
  const TensorType& x = node.input(0)->type();
  const Ints& perm = node.integers("perm");
  Ints sorted = perm;
  std::sort(sorted.begin(), sorted.end());
  bool valid = perm.size() == x.shape.size();
  for (size_t i = 0; valid && i < sorted.size(); ++i) valid = sorted[i] == static_cast<int64_t>(i);
  require(node, valid, "perm must name each axis once");
  Shape y;
  for (int64_t axis : perm) y.push_back(x.shape[static_cast<size_t>(axis)]);
  return {{x.dtype, y}};
}

void reference_transpose(const Node& node, std::span<const Tensor* const> in,
                         std::span<Tensor> out) {
  const auto from = strides_of(in[0]->dims());
  std::vector<int64_t> strides;
  for (int64_t axis : node.integers("perm")) strides.push_back(from[static_cast<size_t>(axis)]);
  gather_strided(*in[0], 0, strides, out[0]);
}

std::vector<Value*> import_transpose(OnnxNodeReader& reader) {
  if (!reader.input(0)) reader.invalid("needs an input");
  Ints reversed;
  for (int64_t i = reader.input(0)->shape().rank(); i-- > 0;) reversed.push_back(i);
  return {
      reader.apply("transpose", {reader.input(0)}, {{"perm", reader.integers("perm", reversed)}})};
}

// ---- concat

std::vector<TensorType> infer_concat(const Node& node) {
  const TensorType& first = node.input(0)->type();
  const auto axis =
      static_cast<size_t>(normalize_axis(node.integer("axis"), first.shape.rank(), node.where()));
  TensorType y = first;
  for (size_t i = 1; i < node.inputs().size(); ++i) {
    require(node, node.input(i) != nullptr, "an input is missing");
    const TensorType& x = node.input(i)->type();
    require(node, x.dtype == y.dtype && x.shape.rank() == y.shape.rank(),
            "the inputs differ in type or rank");
    for (size_t d = 0; d < x.shape.size(); ++d) {
      const Dim &a = y.shape[d], &b = x.shape[d];
      if (d == axis)
        y.shape[d] = a.is_static() && b.is_static() ? Dim(a.value() + b.value()) : Dim::unknown();
      else if (a.is_static() && b.is_static() && !(a == b))
        fail(node, fmt::format("{} and {} differ outside axis {}", first.shape.str(), x.shape.str(),
                               axis));
      else if (b.is_static())
        y.shape[d] = b;
    }
  }
  return {y};
}

void reference_concat(const Node& node, std::span<const Tensor* const> in, std::span<Tensor> out) {
  const auto axis =
      static_cast<size_t>(normalize_axis(node.integer("axis"), out[0].rank(), node.where()));
  size_t outer = 1, inner = dtype_size(out[0].dtype());
  for (size_t i = 0; i < out[0].dims().size(); ++i)
    (i < axis ? outer : inner) *= i == axis ? 1 : static_cast<size_t>(out[0].dims()[i]);
  const size_t row = inner * static_cast<size_t>(out[0].dims()[axis]);
  size_t offset = 0;
  for (const Tensor* x : in) {
    const size_t piece = inner * static_cast<size_t>(x->dims()[axis]);
    for (size_t o = 0; o < outer; ++o)
      std::memcpy(out[0].mutable_data() + o * row + offset, x->data() + o * piece, piece);
    offset += piece;
  }
}

std::vector<Value*> import_concat(OnnxNodeReader& reader) {
  std::vector<Value*> inputs;
  for (size_t i = 0; i < reader.input_count(); ++i) {
    if (!reader.input(i)) reader.invalid("an input is missing");
    inputs.push_back(reader.input(i));
  }
  if (inputs.empty()) reader.invalid("needs an input");
  return {reader.apply("concat", std::move(inputs), {{"axis", reader.integer("axis", 1)}})};
}

// ---- slice

struct Range {
  int64_t start, step, count;
};

// ONNX's clamping of start and end.
Range range_of(const Node& node, int64_t size, int64_t start, int64_t end, int64_t step) {
  require(node, step != 0 && step > INT32_MIN && step < INT32_MAX, "a step is 0 or out of range");
  if (start < 0) start += size;
  if (end < 0) end = end < -size ? -1 : end + size;  // -1 here: before the first
  if (step > 0) {
    start = std::clamp<int64_t>(start, 0, size), end = std::clamp<int64_t>(end, 0, size);
    return {start, step, start < end ? (end - start + step - 1) / step : 0};
  }
  start = std::clamp<int64_t>(start, 0, std::max<int64_t>(size - 1, 0)),
  end = std::clamp<int64_t>(end, -1, size - 1);
  return {start, step, size > 0 && start > end ? (start - end - step - 1) / -step : 0};
}

std::vector<TensorType> infer_slice(const Node& node) {
  TensorType y = node.input(0)->type();
  const Ints &starts = node.integers("starts"), &ends = node.integers("ends"),
             &axes = node.integers("axes"), &steps = node.integers("steps");
  require(
      node,
      starts.size() == ends.size() && starts.size() == axes.size() && starts.size() == steps.size(),
      "starts, ends, axes and steps must have one length");
  for (size_t i = 0; i < axes.size(); ++i) {
    const auto axis = static_cast<size_t>(normalize_axis(axes[i], y.shape.rank(), node.where()));
    const Dim& dim = node.input(0)->shape()[axis];
    if (dim.is_static())
      y.shape[axis] = range_of(node, dim.value(), starts[i], ends[i], steps[i]).count;
    else if (!(starts[i] == 0 && ends[i] >= INT32_MAX && steps[i] == 1))
      y.shape[axis] = Dim::unknown();
  }
  return {y};
}

void reference_slice(const Node& node, std::span<const Tensor* const> in, std::span<Tensor> out) {
  const StridedView view = slice_view(node, in[0]->dims());
  gather_strided(*in[0], view.start, view.steps, out[0]);
}

std::vector<Value*> import_slice(OnnxNodeReader& reader) {
  if (!reader.input(0)) reader.invalid("needs an input");
  const bool inputs = reader.opset() >= 10;
  const auto get = [&](size_t i, const char* name) -> std::optional<Ints> {
    if (inputs) return reader.constant_ints(i, name);
    return reader.has(name) ? std::optional<Ints>(reader.integers(name, {})) : std::nullopt;
  };
  const auto starts = get(1, "starts"), ends = get(2, "ends"), axes = get(3, "axes");
  const auto steps = inputs ? reader.constant_ints(4, "steps") : std::nullopt;
  if (!starts || !ends) reader.invalid("needs starts and ends");
  Ints all;
  for (size_t i = 0; i < starts->size(); ++i) all.push_back(static_cast<int64_t>(i));
  return {reader.apply("slice", {reader.input(0)},
                       {{"starts", *starts},
                        {"ends", *ends},
                        {"axes", axes ? *axes : all},
                        {"steps", steps ? *steps : Ints(starts->size(), 1)}})};
}

// Split: one slice per output.
std::vector<Value*> import_split(OnnxNodeReader& reader) {
  if (!reader.input(0)) reader.invalid("needs an input");
  const Shape& x = reader.input(0)->shape();
  int64_t axis = reader.integer("axis", 0);
  if (axis < -x.rank() || axis >= x.rank()) reader.invalid("axis is outside the rank");
  if (axis < 0) axis += x.rank();
  Ints sizes = reader.integers("split", {});
  if (reader.opset() >= 13)
    if (const auto given = reader.constant_ints(1, "split")) sizes = *given;
  if (sizes.empty()) {
    const Dim& dim = x[static_cast<size_t>(axis)];
    if (!dim.is_static()) reader.unsupported("equal parts of a dynamic dimension");
    const auto parts = static_cast<int64_t>(reader.output_count());
    const int64_t part = (dim.value() + parts - 1) / parts;
    for (int64_t i = 0; i < parts; ++i) sizes.push_back(std::min(part, dim.value() - i * part));
  }
  if (sizes.size() != reader.output_count())
    reader.invalid("the number of parts is not that of the outputs");
  std::vector<Value*> outputs;
  int64_t start = 0;
  for (int64_t size : sizes) {
    if (size < 0 || size > (int64_t{1} << 40)) reader.invalid("a part is negative or too large");
    outputs.push_back(reader.apply("slice", {reader.input(0)},
                                   {{"starts", Ints{start}},
                                    {"ends", Ints{start + size}},
                                    {"axes", Ints{axis}},
                                    {"steps", Ints{1}}}));
    start += size;
  }
  if (const Dim& dim = x[static_cast<size_t>(axis)]; dim.is_static() && dim.value() != start)
    reader.invalid(fmt::format("the parts add up to {}, the axis has {}", start, dim.value()));
  return outputs;
}

void write_slice(const Node& node, OnnxNodeWriter& writer) {
  const auto list = [&](const char* name) {
    const Ints& values = node.integers(name);
    return writer.initializer(name,
                              Tensor::from(Dims{static_cast<int64_t>(values.size())}, values));
  };
  writer.node(
      "Slice",
      {writer.value_name(node.input(0)), list("starts"), list("ends"), list("axes"), list("steps")},
      {writer.value_name(node.output())});
}

constexpr OnnxImportRule transpose_import[] = {
    {.op_type = "Transpose", .import = import_transpose}};
constexpr OnnxImportRule concat_import[] = {{.op_type = "Concat", .import = import_concat}};
constexpr OnnxImportRule slice_import[] = {{.op_type = "Slice", .import = import_slice},
                                           {.op_type = "Split", .import = import_split}};
constexpr OnnxExportRule transpose_export{[](const Node& node, OnnxNodeWriter& writer) {
  writer.node("Transpose", {writer.value_name(node.input(0))}, {writer.value_name(node.output())},
              {{"perm", node.integers("perm")}});
}};
constexpr OnnxExportRule concat_export{[](const Node& node, OnnxNodeWriter& writer) {
  std::vector<std::string> inputs;
  for (const Value* input : node.inputs()) inputs.push_back(writer.value_name(input));
  writer.node("Concat", std::move(inputs), {writer.value_name(node.output())},
              {{"axis", node.integer("axis")}});
}};
constexpr OnnxExportRule slice_export{write_slice};

}  // namespace

StridedView slice_view(const Node& node, const Dims& x) {
  const auto from = strides_of(x);
  StridedView view{0, from};
  for (size_t i = 0; i < node.integers("axes").size(); ++i) {
    const auto axis = static_cast<size_t>(
        normalize_axis(node.integers("axes")[i], static_cast<int64_t>(x.size()), node.where()));
    const Range r = range_of(node, x[axis], node.integers("starts")[i], node.integers("ends")[i],
                             node.integers("steps")[i]);
    view.start += r.start * from[axis];
    view.steps[axis] = r.step * from[axis];
  }
  return view;
}

const OpImpl op_transpose{.doc = "Axis i of y is axis perm[i] of x.",
                          .attributes = {{"perm", AttributeKind::integers, true}},
                          .infer = infer_transpose,
                          .reference = reference_transpose,
                          .onnx_import = transpose_import,
                          .onnx_export = &transpose_export};

const OpImpl op_concat{.doc = "The inputs one behind the other along `axis`.",
                       .max_inputs = 100000,
                       .attributes = {{"axis", AttributeKind::integer, true}},
                       .infer = infer_concat,
                       .reference = reference_concat,
                       .onnx_import = concat_import,
                       .onnx_export = &concat_export};

const OpImpl op_slice{.doc = "x[start:end:step] along each of `axes`, as NumPy clamps and counts.",
                      .attributes = {{"starts", AttributeKind::integers, true},
                                     {"ends", AttributeKind::integers, true},
                                     {"axes", AttributeKind::integers, true},
                                     {"steps", AttributeKind::integers, true}},
                      .infer = infer_slice,
                      .reference = reference_slice,
                      .onnx_import = slice_import,
                      .onnx_export = &slice_export};

}  // namespace octavo::ops
