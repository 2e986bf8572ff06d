// transpose, concat and slice: elements copied to other places.
#include "ops/movement.h"

#include <cstring>

#include "ops/indexing.h"
#include "ops/op.h"

namespace octavo::ops {
namespace {

// out[i...] = in[start + sum i_d * stride_d], any element type.
void gather_strided(const Tensor& in, int64_t start, const Strides& strides, Tensor& out) {
  const size_t size = dtype_size(in.dtype());
  for_each_index<1>(out.dims(), {strides}, [&](size_t i, const auto& at) {
    copy_element(in, start + at[0], out, static_cast<int64_t>(i), size);
  });
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
  Strides strides;
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

// What of the four lists is known; steps are 1 and axes 0, 1, … unless given.
struct Lists {
  std::optional<Ints> starts, ends, axes, steps;
};
Lists lists_of(const Node& node) {
  Lists lists{known_ints(node, "starts"), known_ints(node, "ends"), known_ints(node, "axes"),
              known_ints(node, "steps")};
  const auto length = static_cast<size_t>(list_length(node, "starts"));
  if (lists.axes && lists.axes->empty())
    for (size_t i = 0; i < length; ++i) lists.axes->push_back(static_cast<int64_t>(i));
  if (lists.steps && lists.steps->empty()) lists.steps->assign(length, 1);
  for (const auto* list : {&lists.starts, &lists.ends, &lists.axes, &lists.steps})
    require(node, !*list || (*list)->size() == length,
            "starts, ends, axes and steps must have one length");
  if (lists.axes)
    for (int64_t& axis : *lists.axes)
      axis = normalize_axis(axis, node.input(0)->shape().rank(), node.where());
  return lists;
}

std::vector<TensorType> infer_slice(const Node& node) {
  TensorType y = node.input(0)->type();
  const Lists lists = lists_of(node);
  if (!lists.axes) {
    y.shape.assign(y.shape.size(), Dim::unknown());
    return {y};
  }
  for (size_t i = 0; i < lists.axes->size(); ++i) {
    const auto axis = static_cast<size_t>((*lists.axes)[i]);
    const Dim& dim = node.input(0)->shape()[axis];
    const bool known = lists.starts && lists.ends && lists.steps;
    if (known && dim.is_static())
      y.shape[axis] =
          range_of(node, dim.value(), (*lists.starts)[i], (*lists.ends)[i], (*lists.steps)[i])
              .count;
    else if (!known ||
             !((*lists.starts)[i] == 0 && (*lists.ends)[i] >= INT32_MAX && (*lists.steps)[i] == 1))
      y.shape[axis] = Dim::unknown();
  }
  return {y};
}

void reference_slice(const Node& node, std::span<const Tensor* const> in, std::span<Tensor> out) {
  const StridedView view = slice_view(node, in[0]->dims());
  gather_strided(*in[0], view.start, view.steps, out[0]);
}

constexpr const char* slice_lists[] = {"starts", "ends", "axes", "steps"};

std::vector<Value*> import_slice(OnnxNodeReader& reader) {
  std::vector<Value*> inputs{inputs_of(reader)[0]};
  Attributes attributes;
  if (reader.opset() < 10) {
    for (const char* name : {"starts", "ends", "axes"})
      attributes[name] = reader.integers(name, {});
  } else {
    inputs_of(reader, 3);
    for (size_t i = 0; i < 4; ++i)
      import_parameter(reader, i + 1, "slice", slice_lists[i], attributes, inputs);
  }
  return {reader.apply("slice", std::move(inputs), std::move(attributes))};
}

// Split: one slice per output.
std::vector<Value*> import_split(OnnxNodeReader& reader) {
  Value* input = inputs_of(reader)[0];
  const Shape& x = input->shape();
  int64_t axis = reader.integer("axis", 0);
  if (axis < -x.rank() || axis >= x.rank()) reader.invalid("axis is outside the rank");
  if (axis < 0) axis += x.rank();
  const auto part_of = [&](int64_t start, int64_t end) {
    return reader.apply("slice", {input},
                        {{"starts", Ints{start}}, {"ends", Ints{end}}, {"axes", Ints{axis}}});
  };
  std::vector<Value*> outputs;
  if (reader.opset() >= 13 && reader.input(1) && !reader.constant(1)) {
    // Sizes known at run time: each part starts where the sum of those before it ends.
    Value* ends = reader.apply("cumsum", {reader.input(1)});
    Value* zero = reader.constant_value(Tensor::from(Dims{1}, Ints{0}));
    Value* start = zero;
    for (size_t i = 0; i < reader.output_count(); ++i) {
      const auto at = static_cast<int64_t>(i);
      Value* end = reader.apply("slice", {ends},
                                {{"starts", Ints{at}}, {"ends", Ints{at + 1}}, {"axes", Ints{0}}});
      Value* axes = reader.constant_value(Tensor::from(Dims{1}, Ints{axis}));
      outputs.push_back(reader.apply("slice", {input, start, end, axes}));
      start = end;
    }
    return outputs;
  }
  Ints sizes = reader.integers("split", {});
  if (reader.opset() >= 13)
    if (const auto given = reader.constant_ints(1, "split")) sizes = *given;
  if (sizes.empty()) {
    const Dim& dim = x[static_cast<size_t>(axis)];
    if (!dim.is_static()) reader.unsupported("equal parts of a dynamic dimension");
    const int64_t parts =
        reader.integer("num_outputs", static_cast<int64_t>(reader.output_count()));
    if (parts < 1 || parts > (1 << 20)) reader.invalid("num_outputs is out of range");
    const int64_t part = (dim.value() + parts - 1) / parts;
    for (int64_t i = 0; i < parts; ++i)
      sizes.push_back(std::clamp<int64_t>(dim.value() - i * part, 0, part));
  }
  if (sizes.size() != reader.output_count())
    reader.invalid("the number of parts is not that of the outputs");
  int64_t start = 0;
  for (int64_t size : sizes) {
    if (size < 0 || size > (int64_t{1} << 40)) reader.invalid("a part is negative or too large");
    outputs.push_back(part_of(start, start + size));
    start += size;
  }
  if (const Dim& dim = x[static_cast<size_t>(axis)]; dim.is_static() && dim.value() != start)
    reader.invalid(fmt::format("the parts add up to {}, the axis has {}", start, dim.value()));
  return outputs;
}

void write_slice(const Node& node, OnnxNodeWriter& writer) {
  std::vector<std::string> inputs{writer.value_name(node.input(0))};
  const Lists lists = lists_of(node);
  const std::optional<Ints>* known[] = {&lists.starts, &lists.ends, &lists.axes, &lists.steps};
  for (size_t i = 0; i < 4; ++i)
    inputs.push_back(
        *known[i] ? writer.initializer(
                        slice_lists[i],
                        Tensor::from(Dims{static_cast<int64_t>((*known[i])->size())}, **known[i]))
                  : writer.value_name(node.input(i + 1)));
  writer.node("Slice", std::move(inputs), {writer.value_name(node.output())});
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
  const Strides from = strides_of(x);
  StridedView view{0, from};
  const Lists lists = lists_of(node);
  for (size_t i = 0; i < lists.axes->size(); ++i) {
    const auto axis = static_cast<size_t>((*lists.axes)[i]);
    const Range r =
        range_of(node, x[axis], (*lists.starts)[i], (*lists.ends)[i], (*lists.steps)[i]);
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

const OpImpl op_slice{
    .doc = "x[start:end:step] along each of `axes` (none: 0, 1, …), as NumPy clamps and counts.",
    .max_inputs = 5,
    .attributes = {{"starts", AttributeKind::integers, false, Ints{}},
                   {"ends", AttributeKind::integers, false, Ints{}},
                   {"axes", AttributeKind::integers, false, Ints{}},
                   {"steps", AttributeKind::integers, false, Ints{}}},
    .parameters = {{"starts", 1}, {"ends", 2}, {"axes", 3}, {"steps", 4}},
    .infer = infer_slice,
    .reference = reference_slice,
    .onnx_import = slice_import,
    .onnx_export = &slice_export};

}  // namespace octavo::ops
