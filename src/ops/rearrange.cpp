// Movement by a fixed pattern: depth_to_space, space_to_depth, triangle, reverse_sequence.
#include "ops/indexing.h"
#include "ops/op.h"

namespace octavo::ops {
namespace {

// ---- depth_to_space and space_to_depth: [N, C, H, W]

std::vector<TensorType> infer_block(const Node& node) {
  const TensorType& x = node.input(0)->type();
  const int64_t b = node.integer("block");
  require(node, x.shape.rank() == 4, "the input must be [N, C, H, W]");
  require(node, b >= 1 && b <= (1 << 20), "block is out of range");
  const auto times = [&](const Dim& dim, int64_t by) -> Dim {
    return dim.is_static() ? Dim(element_count({dim.value(), by})) : Dim::unknown();
  };
  const auto over = [&](const Dim& dim, int64_t by) -> Dim {
    if (!dim.is_static()) return Dim::unknown();
    require(node, dim.value() % by == 0, "the block does not divide the shape");
    return dim.value() / by;
  };
  if (node.is("depth_to_space"))
    return {{x.dtype,
             {x.shape[0], over(x.shape[1], b * b), times(x.shape[2], b), times(x.shape[3], b)}}};
  return {
      {x.dtype, {x.shape[0], times(x.shape[1], b * b), over(x.shape[2], b), over(x.shape[3], b)}}};
}

void reference_block(const Node& node, std::span<const Tensor* const> in, std::span<Tensor> out) {
  const bool to_space = node.is("depth_to_space");
  const int64_t b = node.integer("block");
  const Dims &deep = to_space ? in[0]->dims() : out[0].dims(),
             &wide = to_space ? out[0].dims() : in[0]->dims();
  const int64_t channels = wide[1];
  // Which of the deep channels (c, i, j) is: the block first (DCR) or last (CRD).
  const bool crd = to_space && node.text("mode") == "crd";
  const size_t size = dtype_size(out[0].dtype());
  int64_t at = 0;
  for (int64_t n = 0; n < wide[0]; ++n)
    for (int64_t c = 0; c < channels; ++c)
      for (int64_t h = 0; h < wide[2]; ++h)
        for (int64_t w = 0; w < wide[3]; ++w, ++at) {
          const int64_t block = (h % b) * b + w % b;
          const int64_t channel = crd ? c * b * b + block : block * channels + c;
          const int64_t other = ((n * deep[1] + channel) * deep[2] + h / b) * deep[3] + w / b;
          copy_element(*in[0], to_space ? other : at, out[0], to_space ? at : other, size);
        }
}

constexpr OnnxImportRule to_space_import[] = {
    {.op_type = "DepthToSpace", .import = [](OnnxNodeReader& r) -> std::vector<Value*> {
       const std::string mode = r.text("mode", "DCR");
       if (mode != "DCR" && mode != "CRD") r.invalid("mode must be DCR or CRD");
       return {r.apply("depth_to_space", {inputs_of(r)[0]},
                       {{"block", r.integer("blocksize", 0)},
                        {"mode", std::string(mode == "DCR" ? "dcr" : "crd")}})};
     }}};
constexpr OnnxExportRule to_space_export{[](const Node& node, OnnxNodeWriter& writer) {
  write_as(node, writer, "DepthToSpace",
           {{"blocksize", node.integer("block")},
            {"mode", std::string(node.text("mode") == "crd" ? "CRD" : "DCR")}});
}};
constexpr OnnxImportRule to_depth_import[] = {
    {.op_type = "SpaceToDepth", .import = [](OnnxNodeReader& r) -> std::vector<Value*> {
       const std::string mode = r.text("mode", "DCR");
       if (mode != "DCR") {  // the channels first: the inverse of CRD
         const Shape& x = inputs_of(r)[0]->shape();
         if (x.rank() != 4 || !x.is_static()) r.unsupported("mode CRD of a dynamic shape");
         const int64_t b = r.integer("blocksize", 1);
         const Dims d = x.dims();
         if (b < 1 || d[2] % b || d[3] % b) r.invalid("blocksize does not divide the shape");
         Value* split = r.apply("reshape", {r.input(0)},
                                {{"shape", Ints{d[0], d[1], d[2] / b, b, d[3] / b, b}}});
         Value* moved = r.apply("transpose", {split}, {{"perm", Ints{0, 1, 3, 5, 2, 4}}});
         return {r.apply("reshape", {moved},
                         {{"shape", Ints{d[0], d[1] * b * b, d[2] / b, d[3] / b}}})};
       }
       return {
           r.apply("space_to_depth", {inputs_of(r)[0]}, {{"block", r.integer("blocksize", 0)}})};
     }}};
constexpr OnnxExportRule to_depth_export{[](const Node& node, OnnxNodeWriter& writer) {
  write_as(node, writer, "SpaceToDepth", {{"blocksize", node.integer("block")}});
}};

// ---- triangle

std::vector<TensorType> infer_triangle(const Node& node) {
  require(node, node.input(0)->shape().rank() >= 2, "the input must be matrices");
  if (const Value* k = node.input(1)) require(node, k->dtype() == DType::i64, "k must be i64");
  return {node.input(0)->type()};
}

void reference_triangle(const Node& node, std::span<const Tensor* const> in,
                        std::span<Tensor> out) {
  const int64_t k = in.size() > 1 && in[1] ? in[1]->to_ints().at(0) : node.integer("k");
  const bool upper = node.integer("upper") != 0;
  const Dims& dims = out[0].dims();
  const int64_t rows = dims[dims.size() - 2], columns = dims.back();
  const size_t size = dtype_size(out[0].dtype());
  std::fill(out[0].mutable_data(), out[0].mutable_data() + out[0].bytes(), std::byte{0});
  for (int64_t i = 0; i < out[0].size(); ++i) {
    const int64_t row = i / columns % rows, column = i % columns;
    if (upper ? column - row >= k : column - row <= k) copy_element(*in[0], i, out[0], i, size);
  }
}

std::vector<Value*> import_trilu(OnnxNodeReader& reader) {
  std::vector<Value*> inputs{inputs_of(reader)[0]};
  Attributes attributes{{"upper", reader.integer("upper", 1)}};
  import_parameter(reader, 1, "triangle", "k", attributes, inputs);
  return {reader.apply("triangle", std::move(inputs), std::move(attributes))};
}

constexpr OnnxImportRule triangle_import[] = {
    {.op_type = "Trilu", .since = 14, .import = import_trilu}};
constexpr OnnxExportRule triangle_export{[](const Node& node, OnnxNodeWriter& writer) {
  need_opset(node, writer, 14);
  writer.node("Trilu",
              {writer.value_name(node.input(0)),
               node.input(1) ? writer.value_name(node.input(1))
                             : writer.initializer("k", Tensor::scalar(node.integer("k")))},
              {writer.value_name(node.output())}, {{"upper", node.integer("upper")}});
}};

// ---- reverse_sequence

std::vector<TensorType> infer_reverse(const Node& node) {
  const TensorType& x = node.input(0)->type();
  const int64_t time = node.integer("time_axis"), batch = node.integer("batch_axis");
  require(node, x.shape.rank() >= 2 && (time == 0 || time == 1) && batch == 1 - time,
          "time_axis and batch_axis must be 0 and 1, or 1 and 0");
  require(node, node.input(1)->shape().rank() == 1 && is_integer(node.input(1)->dtype()),
          "lengths must be integers, one per sequence");
  return {x};
}

void reference_reverse(const Node& node, std::span<const Tensor* const> in, std::span<Tensor> out) {
  const auto time = static_cast<size_t>(node.integer("time_axis")), batch = 1 - time;
  const Dims& dims = in[0]->dims();
  const Strides strides = strides_of(dims);
  const auto lengths = in[1]->to_ints();
  require(node, static_cast<int64_t>(lengths.size()) == dims[batch],
          "lengths must be one per sequence");
  size_t inner = dtype_size(out[0].dtype());
  for (size_t d = 2; d < dims.size(); ++d) inner *= static_cast<size_t>(dims[d]);
  for (int64_t b = 0; b < dims[batch]; ++b) {
    const int64_t length = lengths[static_cast<size_t>(b)];
    require(node, length >= 0 && length <= dims[time], "a length is outside the time axis");
    for (int64_t t = 0; t < dims[time]; ++t) {
      const int64_t from = t < length ? length - 1 - t : t;
      const size_t element = dtype_size(out[0].dtype());
      const auto offset = [&](int64_t at) {
        return static_cast<size_t>(b * strides[batch] + at * strides[time]) * element;
      };
      std::copy(in[0]->data() + offset(from), in[0]->data() + offset(from) + inner,
                out[0].mutable_data() + offset(t));
    }
  }
}

constexpr OnnxImportRule reverse_import[] = {
    {.op_type = "ReverseSequence",
     .since = 10,
     .import = [](OnnxNodeReader& r) -> std::vector<Value*> {
       return {r.apply(
           "reverse_sequence", inputs_of(r, 2),
           {{"time_axis", r.integer("time_axis", 0)}, {"batch_axis", r.integer("batch_axis", 1)}})};
     }}};
constexpr OnnxExportRule reverse_export{[](const Node& node, OnnxNodeWriter& writer) {
  write_as(node, writer, "ReverseSequence",
           {{"time_axis", node.integer("time_axis")}, {"batch_axis", node.integer("batch_axis")}});
}};

}  // namespace

const OpImpl op_depth_to_space{
    .doc =
        "[N, C, H, W] to [N, C/b², H b, W b]: channels become blocks of b x b, which vary "
        "slower (`mode` dcr) or faster (crd) than the channels that remain.",
    .attributes = {{"block", AttributeKind::integer, true},
                   {"mode", AttributeKind::text, false, std::string("dcr")}},
    .infer = infer_block,
    .reference = reference_block,
    .onnx_import = to_space_import,
    .onnx_export = &to_space_export};

const OpImpl op_space_to_depth{.doc = "The inverse of depth_to_space, mode dcr.",
                               .attributes = {{"block", AttributeKind::integer, true}},
                               .infer = infer_block,
                               .reference = reference_block,
                               .onnx_import = to_depth_import,
                               .onnx_export = &to_depth_export};

const OpImpl op_triangle{
    .doc =
        "Of each matrix (the last two axes) what is on or above diagonal k, or on or below it "
        "if not `upper`; the rest is 0.",
    .max_inputs = 2,
    .attributes = {{"upper", AttributeKind::integer, false, int64_t{1}},
                   {"k", AttributeKind::integer, false, int64_t{0}}},
    .parameters = {{"k", 1}},
    .infer = infer_triangle,
    .reference = reference_triangle,
    .onnx_import = triangle_import,
    .onnx_export = &triangle_export};

const OpImpl op_reverse_sequence{
    .doc = "The first lengths[b] steps of each sequence b reversed; inputs x and lengths.",
    .min_inputs = 2,
    .max_inputs = 2,
    .attributes = {{"time_axis", AttributeKind::integer, false, int64_t{0}},
                   {"batch_axis", AttributeKind::integer, false, int64_t{1}}},
    .infer = infer_reverse,
    .reference = reference_reverse,
    .onnx_import = reverse_import,
    .onnx_export = &reverse_export};

}  // namespace octavo::ops
