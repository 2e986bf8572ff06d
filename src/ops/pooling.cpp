// max_pool, avg_pool and lp_pool over the spatial axes of [N, C, spatial…].
#include <cmath>
#include <optional>

#include "ops/op.h"
#include "ops/window.h"

namespace octavo::ops {
namespace {

std::vector<TensorType> infer(const Node& node) {
  const TensorType& x = node.input(0)->type();
  const Ints& kernel = node.integers("kernel");
  require(node, x.shape.rank() == static_cast<int64_t>(kernel.size()) + 2,
          "the kernel's rank must be the input's less 2");
  require(node,
          is_float(x.dtype) || ((node.is("max_pool") || node.is("max_pool_indices")) &&
                                (x.dtype == DType::i8 || x.dtype == DType::u8)),
          "the input must be floating point");
  const Window window = window_of(node, kernel);
  Shape y{x.shape[0], x.shape[1]};
  for (size_t i = 0; i < kernel.size(); ++i)
    y.push_back(window_output(node, window, i, x.shape[i + 2], node.integer("ceil_mode") != 0));
  return {{x.dtype, y}};
}

// f(c, p, taps, counted) for each channel plane c and output position p: the offsets in the plane
// of the taps that fall inside it, and how many count for a mean.
template <class F>
void each_window(const Node& node, const Dims& xd, const Dims& yd, bool all, F f) {
  const Window w = window_of(node, node.integers("kernel"));
  const size_t rank = w.rank();
  int64_t taps = 1, y_plane = 1;
  for (size_t i = 0; i < rank; ++i) taps *= w.kernel[i], y_plane *= yd[i + 2];
  for (int64_t p = 0; p < y_plane; ++p) {
    std::vector<int64_t> inside;
    int64_t counted = 0;
    for (int64_t k = 0; k < taps; ++k) {
      int64_t offset = 0, p_rest = p, k_rest = k, scale = 1;
      bool ok = true, padded = true;
      for (size_t i = rank; i-- > 0;) {
        const int64_t at =
            p_rest % yd[i + 2] * w.strides[i] + k_rest % w.kernel[i] * w.dilations[i] - w.pads[i];
        ok = ok && at >= 0 && at < xd[i + 2];
        padded = padded && at < xd[i + 2] + w.pads[rank + i];  // not what ceil_mode adds behind
        offset += at * scale;
        scale *= xd[i + 2], p_rest /= yd[i + 2], k_rest /= w.kernel[i];
      }
      if (ok) inside.push_back(offset);
      counted += all ? padded : ok;
    }
    for (int64_t c = 0; c < xd[0] * xd[1]; ++c)
      f(static_cast<size_t>(c), static_cast<size_t>(c * y_plane + p), inside, counted);
  }
}

size_t plane_of(const Dims& dims) {
  size_t plane = 1;
  for (size_t i = 2; i < dims.size(); ++i) plane *= static_cast<size_t>(dims[i]);
  return plane;
}

// Of maximum by position: the first of the largest, or NaN, as in torch; none if the window lies in
// the padding.
template <class T, class F>
void each_maximum(const Node& node, const Tensor& in, const Dims& out, F f) {
  const auto x = elements<T>(in);
  const size_t plane = plane_of(in.dims());
  each_window(node, in.dims(), out, false,
              [&](size_t c, size_t to, const std::vector<int64_t>& inside, int64_t) {
                std::optional<size_t> best;
                for (const int64_t offset : inside) {
                  const size_t at = c * plane + static_cast<size_t>(offset);
                  const auto value = load_element(x[at]);
                  if (!best || value > load_element(x[*best]) || value != value) best = at;
                }
                f(to, best);
              });
}

void reference_max(const Node& node, std::span<const Tensor* const> in, std::span<Tensor> out) {
  visit_dtype(in[0]->dtype(), [&](auto tag) {
    using T = decltype(tag);
    const auto x = elements<T>(*in[0]);
    auto y = mutable_elements<T>(out[0]);
    const T none = is_float_element<T> ? store_element<T>(-HUGE_VAL) : T{};
    each_maximum<T>(node, *in[0], out[0].dims(), [&](size_t to, const std::optional<size_t>& best) {
      y[to] = best ? x[*best] : none;
    });
  });
}

void reference_max_indices(const Node& node, std::span<const Tensor* const> in,
                           std::span<Tensor> out) {
  auto y = out[0].mutable_values<int64_t>();
  const Dims& dims = in[0]->dims();
  const auto plane = static_cast<int64_t>(plane_of(dims));
  const bool columns = node.integer("column_major") != 0;
  visit_dtype(in[0]->dtype(), [&](auto tag) {
    each_maximum<decltype(tag)>(node, *in[0], out[0].dims(),
                                [&](size_t to, const std::optional<size_t>& best) {
                                  const auto at = static_cast<int64_t>(best.value_or(0));
                                  y[to] = at;
                                  if (!columns) return;
                                  int64_t rest = at % plane, place = 0, step = plane;
                                  for (size_t d = dims.size(); d-- > 2; rest /= dims[d]) {
                                    step /= dims[d];
                                    place += rest % dims[d] * step;
                                  }
                                  y[to] = at / plane * plane + place;
                                });
  });
}

void reference_avg(const Node& node, std::span<const Tensor* const> in, std::span<Tensor> out) {
  const auto x = doubles(*in[0]);
  const size_t plane = plane_of(in[0]->dims());
  std::vector<double> y(static_cast<size_t>(out[0].size()));
  each_window(node, in[0]->dims(), out[0].dims(), node.integer("count_include_pad") != 0,
              [&](size_t c, size_t to, const std::vector<int64_t>& inside, int64_t counted) {
                double sum = 0;
                for (const int64_t offset : inside)
                  sum += x[c * plane + static_cast<size_t>(offset)];
                y[to] = sum / static_cast<double>(counted);
              });
  store_doubles(y, out[0]);
}

void reference_lp(const Node& node, std::span<const Tensor* const> in, std::span<Tensor> out) {
  const auto x = doubles(*in[0]);
  const size_t plane = plane_of(in[0]->dims());
  const auto p = static_cast<double>(node.integer("p"));
  std::vector<double> y(static_cast<size_t>(out[0].size()));
  each_window(node, in[0]->dims(), out[0].dims(), false,
              [&](size_t c, size_t to, const std::vector<int64_t>& inside, int64_t) {
                double sum = 0;
                for (const int64_t offset : inside)
                  sum += std::pow(std::fabs(x[c * plane + static_cast<size_t>(offset)]), p);
                y[to] = std::pow(sum, 1 / p);
              });
  store_doubles(y, out[0]);
}

std::vector<TensorType> infer_indices(const Node& node) {
  return {{DType::i64, infer(node)[0].shape}};
}

Attributes import_common(OnnxNodeReader& reader) {
  if (!reader.input(0)) reader.invalid("needs an input");
  const Ints kernel = reader.integers("kernel_shape", {});
  if (kernel.empty() || static_cast<int64_t>(kernel.size()) + 2 != reader.input(0)->shape().rank())
    reader.invalid("kernel_shape does not match the input's rank");
  Attributes a = import_window(reader, kernel, reader.input(0)->shape());
  a["kernel"] = kernel;
  a["ceil_mode"] = reader.integer("ceil_mode", 0);
  return a;
}

std::vector<Value*> import_max(OnnxNodeReader& reader) {
  Attributes a = import_common(reader);
  Value* y = reader.apply("max_pool", {reader.input(0)}, a);
  if (reader.output_count() < 2) return {y};
  a["column_major"] = reader.integer("storage_order", 0);
  return {y, reader.apply("max_pool_indices", {reader.input(0)}, std::move(a))};
}

std::vector<Value*> import_lp(OnnxNodeReader& reader) {
  Attributes a = import_common(reader);
  a["p"] = reader.integer("p", 2);
  return {reader.apply("lp_pool", {reader.input(0)}, std::move(a))};
}

std::vector<Value*> import_global_lp(OnnxNodeReader& reader) {
  const Shape& x = inputs_of(reader)[0]->shape();
  if (x.rank() < 3) reader.invalid("needs an input of rank 3 or more");
  Ints kernel;
  for (size_t i = 2; i < x.size(); ++i) {
    if (!x[i].is_static()) reader.unsupported("a dynamic size");
    kernel.push_back(x[i].value());
  }
  return {reader.apply("lp_pool", {reader.input(0)},
                       {{"kernel", kernel}, {"p", reader.integer("p", 2)}})};
}

// The indices count elements of the tensor that was pooled.
std::vector<Value*> import_unpool(OnnxNodeReader& reader) {
  const auto in = inputs_of(reader, 2);
  const Shape& x = in[0]->shape();
  const Ints kernel = reader.integers("kernel_shape", {});
  if (kernel.empty() || static_cast<int64_t>(kernel.size()) + 2 != x.rank() || !x.is_static())
    reader.unsupported("a kernel_shape that does not match, or a dynamic shape");
  const Attributes window = import_window(reader, kernel, x);
  const Ints &strides = std::get<Ints>(window.at("strides")),
             &pads = std::get<Ints>(window.at("pads"));
  if (strides.size() != kernel.size() || pads.size() != 2 * kernel.size())
    reader.invalid("strides or pads have the wrong length");
  Dims dims{x[0].value(), x[1].value()};
  for (size_t i = 0; i < kernel.size(); ++i)
    dims.push_back((x[i + 2].value() - 1) * strides[i] - pads[i] - pads[kernel.size() + i] +
                   kernel[i]);
  const auto vector = [&](const Ints& v) {
    const auto count = static_cast<int64_t>(v.size());
    return reader.constant_value(Tensor::from(Dims{count}, v));
  };
  Value* shape = vector(Ints(dims));
  Value* zero = reader.constant_value(convert(Tensor::scalar(0.0f), in[0]->dtype()));
  const auto flat = [&](Value* v) { return reader.apply("reshape", {v}, {{"shape", Ints{-1}}}); };
  Value* y = reader.apply("scatter_elements",
                          {flat(reader.apply("expand", {zero, shape})), flat(in[1]), flat(in[0])});
  y = reader.apply("reshape", {y, shape});
  if (!reader.input(2)) return {y};
  // A larger output keeps it in the first corner.
  Value* behind = reader.apply("sub", {reader.input(2), shape});
  Value* amounts =
      reader.apply("concat", {vector(Ints(dims.size(), 0)), behind}, {{"axis", int64_t{0}}});
  return {reader.apply("pad", {y, nullptr, amounts})};
}

std::vector<Value*> import_avg(OnnxNodeReader& reader) {
  Attributes a = import_common(reader);
  a["count_include_pad"] = reader.integer("count_include_pad", 0);
  return {reader.apply("avg_pool", {reader.input(0)}, std::move(a))};
}

void write(const Node& node, OnnxNodeWriter& writer) {
  Attributes onnx{{"kernel_shape", node.integers("kernel")},
                  {"ceil_mode", node.integer("ceil_mode")}};
  export_window(node, node.integers("kernel").size(), onnx);
  if (node.is("avg_pool")) {
    onnx["count_include_pad"] = node.integer("count_include_pad");
    if (writer.opset() < 19) {
      for (int64_t d : std::get<Ints>(onnx["dilations"]))
        if (d != 1) need_opset(node, writer, 19);
      onnx.erase("dilations");
    }
  }
  writer.node(node.is("avg_pool") ? "AveragePool" : "MaxPool", {writer.value_name(node.input(0))},
              {writer.value_name(node.output())}, onnx);
}

constexpr OnnxImportRule max_import[] = {{.op_type = "MaxPool", .import = import_max},
                                         {.op_type = "MaxUnpool", .import = import_unpool}};
constexpr OnnxImportRule lp_import[] = {{.op_type = "LpPool", .import = import_lp},
                                        {.op_type = "GlobalLpPool", .import = import_global_lp}};
void write_indices(const Node& node, OnnxNodeWriter& writer) {
  Attributes onnx{{"kernel_shape", node.integers("kernel")},
                  {"ceil_mode", node.integer("ceil_mode")},
                  {"storage_order", node.integer("column_major")}};
  export_window(node, node.integers("kernel").size(), onnx);
  writer.node("MaxPool", {writer.value_name(node.input(0))},
              {writer.temporary("maxima"), writer.value_name(node.output())}, onnx);
}
void write_lp(const Node& node, OnnxNodeWriter& writer) {
  Attributes onnx{{"kernel_shape", node.integers("kernel")}, {"p", node.integer("p")}};
  export_window(node, node.integers("kernel").size(), onnx);
  const Ints& dilations = std::get<Ints>(onnx["dilations"]);
  const bool dilated =
      std::any_of(dilations.begin(), dilations.end(), [](int64_t d) { return d != 1; });
  if (dilated || node.integer("ceil_mode") != 0) {
    need_opset(node, writer, 18);
    onnx["ceil_mode"] = node.integer("ceil_mode");
  } else {
    onnx.erase("dilations");
  }
  writer.node("LpPool", {writer.value_name(node.input(0))}, {writer.value_name(node.output())},
              onnx);
}
constexpr OnnxExportRule indices_export{write_indices}, lp_export{write_lp};
constexpr OnnxImportRule avg_import[] = {{.op_type = "AveragePool", .import = import_avg}};
constexpr OnnxExportRule export_rule{write};

std::vector<AttributeSpec> attributes() {
  auto specs = window_attributes();
  specs.push_back({"kernel", AttributeKind::integers, true});
  specs.push_back({"ceil_mode", AttributeKind::integer, false, int64_t{0}});
  return specs;
}

}  // namespace

const OpImpl op_max_pool{.doc = "Maximum over windows of x [N, C, spatial…]; padding never wins.",
                         .attributes = attributes(),
                         .infer = infer,
                         .reference = reference_max,
                         .onnx_import = max_import,
                         .onnx_export = &export_rule};

const OpImpl op_avg_pool{
    .doc = "Mean over windows of x [N, C, spatial…]; padding counts if count_include_pad.",
    .attributes =
        [] {
          auto specs = attributes();
          specs.push_back({"count_include_pad", AttributeKind::integer, false, int64_t{0}});
          return specs;
        }(),
    .infer = infer,
    .reference = reference_avg,
    .onnx_import = avg_import,
    .onnx_export = &export_rule};

const OpImpl op_max_pool_indices{
    .doc =
        "Where max_pool finds its maxima (the first of equals): indices into the whole of x, of "
        "each plane in row-major or `column_major` order.",
    .attributes =
        [] {
          auto specs = attributes();
          specs.push_back({"column_major", AttributeKind::integer, false, int64_t{0}});
          return specs;
        }(),
    .infer = infer_indices,
    .reference = reference_max_indices,
    .onnx_export = &indices_export};

const OpImpl op_lp_pool{.doc = "Norm of order p over windows of x [N, C, spatial…].",
                        .attributes =
                            [] {
                              auto specs = attributes();
                              specs.push_back({"p", AttributeKind::integer, false, int64_t{2}});
                              return specs;
                            }(),
                        .infer = infer,
                        .reference = reference_lp,
                        .onnx_import = lp_import,
                        .onnx_export = &lp_export};

}  // namespace octavo::ops
