// Ops whose output shape depends on the values of their input: non_zero, compress, unique. Their
// shape functions count where the input is constant; else a dim is unknown until run time.
#include <map>
#include <numeric>

#include "ops/indexing.h"
#include "ops/op.h"

namespace octavo::ops {
namespace {

std::vector<bool> truth(const Tensor& x) {
  std::vector<bool> values;
  for (const double v : doubles(x)) values.push_back(v != 0);
  return values;
}

int64_t count_true(const std::vector<bool>& values) {
  return std::count(values.begin(), values.end(), true);
}

// ---- non_zero

std::vector<TensorType> infer_non_zero(const Node& node) {
  const Value& x = *node.input(0);
  const Dim count = x.is_constant() ? Dim(count_true(truth(x.constant()))) : Dim::unknown();
  return {{DType::i64, {x.shape().rank(), count}}};
}

void reference_non_zero(const Node&, std::span<const Tensor* const> in, std::span<Tensor> out) {
  const auto values = truth(*in[0]);
  const Dims& dims = in[0]->dims();
  const auto count = static_cast<size_t>(out[0].dims()[1]);
  auto y = out[0].mutable_values<int64_t>();
  size_t found = 0;
  for (size_t i = 0; i < values.size(); ++i) {
    if (!values[i]) continue;
    auto rest = static_cast<int64_t>(i);
    for (size_t d = dims.size(); d-- > 0; rest /= dims[d]) y[d * count + found] = rest % dims[d];
    ++found;
  }
}

// ---- compress

std::vector<TensorType> infer_compress(const Node& node) {
  const TensorType& x = node.input(0)->type();
  const Value& condition = *node.input(1);
  require(node, condition.dtype() == DType::boolean && condition.shape().rank() == 1,
          "the condition must be a vector of bool");
  const size_t axis = axis_of(node);
  Shape y = x.shape;
  y[axis] = Dim::unknown();
  if (condition.is_constant()) {
    const int64_t length = condition.shape()[0].value();
    require(node, !x.shape[axis].is_static() || length <= x.shape[axis].value(),
            "the condition is longer than the axis");
    y[axis] = count_true(truth(condition.constant()));
  }
  return {{x.dtype, y}};
}

void reference_compress(const Node& node, std::span<const Tensor* const> in,
                        std::span<Tensor> out) {
  const Rows rows(in[0]->dims(), axis_of(node));
  const auto keep = truth(*in[1]);
  require(node, keep.size() <= rows.length, "the condition is longer than the axis");
  const size_t bytes = rows.inner * dtype_size(out[0].dtype());
  std::byte* to = out[0].mutable_data();
  for (size_t o = 0; o < rows.outer; ++o)
    for (size_t k = 0; k < keep.size(); ++k) {
      if (!keep[k]) continue;
      const std::byte* from = in[0]->data() + (o * rows.length + k) * bytes;
      to = std::copy(from, from + bytes, to);
    }
}

std::vector<Value*> import_compress(OnnxNodeReader& reader) {
  const auto inputs = inputs_of(reader, 2);
  Value* x = inputs[0];
  if (!reader.has("axis")) x = reader.apply("reshape", {x}, {{"shape", Ints{-1}}});
  return {reader.apply("compress", {x, inputs[1]}, {{"axis", reader.integer("axis", 0)}})};
}

// ---- unique

// Slices of x along the axis (of all elements, flattened, without one), as rows of numbers.
struct Unique {
  std::vector<size_t> first, inverse, count;  // of each unique row; of each row; of each unique row
};

Unique unique_of(const Node& node, const Tensor& x) {
  const Rows rows(x.dims(), axis_of(node));
  const auto values = doubles(x);
  std::vector<std::vector<double>> keys(rows.length);
  for (size_t k = 0; k < rows.length; ++k)
    for (size_t r = 0; r < rows.count(); ++r)
      keys[k].push_back(values[rows.start(r) + k * rows.inner]);
  Unique result;
  std::map<std::vector<double>, size_t> known;
  std::vector<size_t> ids(rows.length);
  for (size_t k = 0; k < rows.length; ++k) {
    const auto [it, fresh] = known.emplace(keys[k], result.first.size());
    if (fresh) {
      result.first.push_back(k);
      result.count.push_back(0);
    }
    ids[k] = it->second;
    ++result.count[ids[k]];
  }
  std::vector<size_t> order(result.first.size());
  std::iota(order.begin(), order.end(), 0);
  if (node.integer("sorted") != 0)
    std::sort(order.begin(), order.end(),
              [&](size_t a, size_t b) { return keys[result.first[a]] < keys[result.first[b]]; });
  std::vector<size_t> place(order.size());
  Unique sorted;
  for (size_t i = 0; i < order.size(); ++i) {
    place[order[i]] = i;
    sorted.first.push_back(result.first[order[i]]);
    sorted.count.push_back(result.count[order[i]]);
  }
  for (const size_t id : ids) sorted.inverse.push_back(place[id]);
  return sorted;
}

std::vector<TensorType> infer_unique(const Node& node) {
  const Value& x = *node.input(0);
  number_input(node);
  const size_t axis = axis_of(node);
  const Dim count = x.is_constant()
                        ? Dim(static_cast<int64_t>(unique_of(node, x.constant()).first.size()))
                        : Dim::unknown();
  Shape y = x.shape();
  const Dim length = y[axis];
  y[axis] = count;
  return {{x.dtype(), y}, {DType::i64, {count}}, {DType::i64, {length}}, {DType::i64, {count}}};
}

void reference_unique(const Node& node, std::span<const Tensor* const> in, std::span<Tensor> out) {
  const Unique unique = unique_of(node, *in[0]);
  const Rows from(in[0]->dims(), axis_of(node)), to(out[0].dims(), axis_of(node));
  const size_t size = dtype_size(out[0].dtype());
  for (size_t r = 0; r < to.count(); ++r)
    for (size_t k = 0; k < to.length; ++k)
      copy_element(*in[0], static_cast<int64_t>(from.start(r) + unique.first[k] * from.inner),
                   out[0], static_cast<int64_t>(to.start(r) + k * to.inner), size);
  const auto store = [](const std::vector<size_t>& values, Tensor& tensor) {
    auto y = tensor.mutable_values<int64_t>();
    for (size_t i = 0; i < y.size(); ++i) y[i] = static_cast<int64_t>(values[i]);
  };
  store(unique.first, out[1]);
  store(unique.inverse, out[2]);
  store(unique.count, out[3]);
}

std::vector<Value*> import_unique(OnnxNodeReader& reader) {
  Value* x = inputs_of(reader)[0];
  if (!reader.has("axis")) x = reader.apply("reshape", {x}, {{"shape", Ints{-1}}});
  return reader.apply_all(
      "unique", {x},
      {{"axis", reader.integer("axis", 0)}, {"sorted", reader.integer("sorted", 1)}});
}

constexpr OnnxImportRule non_zero_import[] = {
    {.op_type = "NonZero", .since = 9, .import = [](OnnxNodeReader& r) -> std::vector<Value*> {
       return {r.apply("non_zero", {inputs_of(r)[0]})};
     }}};
constexpr OnnxExportRule non_zero_export{
    [](const Node& node, OnnxNodeWriter& writer) { write_as(node, writer, "NonZero"); }};
constexpr OnnxImportRule compress_import[] = {
    {.op_type = "Compress", .since = 9, .import = import_compress}};
constexpr OnnxExportRule compress_export{[](const Node& node, OnnxNodeWriter& writer) {
  write_as(node, writer, "Compress", {{"axis", node.integer("axis")}});
}};
constexpr OnnxImportRule unique_import[] = {
    {.op_type = "Unique", .since = 11, .import = import_unique}};
constexpr OnnxExportRule unique_export{[](const Node& node, OnnxNodeWriter& writer) {
  write_as(node, writer, "Unique",
           {{"axis", node.integer("axis")}, {"sorted", node.integer("sorted")}});
}};

}  // namespace

const OpImpl op_non_zero{.doc =
                             "The indices of elements that are not 0, one column each: i64 "
                             "[rank, count].",
                         .infer = infer_non_zero,
                         .reference = reference_non_zero,
                         .onnx_import = non_zero_import,
                         .onnx_export = &non_zero_export};

const OpImpl op_compress{.doc = "The slices of x along `axis` where the condition (input 1) holds.",
                         .min_inputs = 2,
                         .max_inputs = 2,
                         .attributes = {{"axis", AttributeKind::integer, false, int64_t{0}}},
                         .infer = infer_compress,
                         .reference = reference_compress,
                         .onnx_import = compress_import,
                         .onnx_export = &compress_export};

const OpImpl op_unique{
    .doc =
        "The different slices of x along `axis`, in order if `sorted`; of each the index of the "
        "first; of each slice of x the index among them; of each how often it occurs.",
    .outputs = 4,
    .attributes = {{"axis", AttributeKind::integer, false, int64_t{0}},
                   {"sorted", AttributeKind::integer, false, int64_t{1}}},
    .infer = infer_unique,
    .reference = reference_unique,
    .onnx_import = unique_import,
    .onnx_export = &unique_export};

}  // namespace octavo::ops
