// max_pool and avg_pool over the spatial axes of [N, C, spatial…].
#include <limits>

#include "ops/op.h"
#include "ops/window.h"

namespace octavo::ops {
namespace {

std::vector<TensorType> infer(const Node& node) {
  const TensorType& x = node.input(0)->type();
  const Ints& kernel = node.integers("kernel");
  require(node, x.shape.rank() == static_cast<int64_t>(kernel.size()) + 2,
          "the kernel's rank must be the input's less 2");
  require(
      node,
      is_float(x.dtype) || (node.is("max_pool") && (x.dtype == DType::i8 || x.dtype == DType::u8)),
      "the input must be floating point");
  const Window window = window_of(node, kernel);
  Shape y{x.shape[0], x.shape[1]};
  for (size_t i = 0; i < kernel.size(); ++i)
    y.push_back(window_output(node, window, i, x.shape[i + 2], node.integer("ceil_mode") != 0));
  return {{x.dtype, y}};
}

template <class T, bool average>
void run(const Node& node, const Tensor& in, Tensor& out) {
  const auto x = in.values<T>();
  auto y = out.mutable_values<T>();
  const Window w = window_of(node, node.integers("kernel"));
  const size_t rank = w.rank();
  const Dims &xd = in.dims(), &yd = out.dims();
  const bool all = average && node.integer("count_include_pad") != 0;
  int64_t taps = 1, x_plane = 1, y_plane = 1;
  for (size_t i = 0; i < rank; ++i) taps *= w.kernel[i], x_plane *= xd[i + 2], y_plane *= yd[i + 2];
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
    for (int64_t c = 0; c < xd[0] * xd[1]; ++c) {
      double sum = 0, most = -std::numeric_limits<double>::infinity();
      for (int64_t offset : inside) {
        const double v = x[static_cast<size_t>(c * x_plane + offset)];
        sum += v;
        most = std::max(most, v);
      }
      y[static_cast<size_t>(c * y_plane + p)] =
          static_cast<T>(average ? sum / static_cast<double>(counted) : most);
    }
  }
}

void reference_max(const Node& node, std::span<const Tensor* const> in, std::span<Tensor> out) {
  switch (in[0]->dtype()) {
    case DType::i8:
      return run<int8_t, false>(node, *in[0], out[0]);
    case DType::u8:
      return run<uint8_t, false>(node, *in[0], out[0]);
    default:
      return run<float, false>(node, *in[0], out[0]);
  }
}
void reference_avg(const Node& node, std::span<const Tensor* const> in, std::span<Tensor> out) {
  run<float, true>(node, *in[0], out[0]);
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
  if (reader.output_count() > 1) reader.unsupported("the output of indices");
  if (reader.integer("storage_order", 0) != 0) reader.unsupported("storage_order 1");
  return {reader.apply("max_pool", {reader.input(0)}, import_common(reader))};
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
        if (d != 1) fail(node, "a dilated average needs ONNX opset 19");
      onnx.erase("dilations");
    }
  }
  writer.node(node.is("avg_pool") ? "AveragePool" : "MaxPool", {writer.value_name(node.input(0))},
              {writer.value_name(node.output())}, onnx);
}

constexpr OnnxImportRule max_import[] = {{.op_type = "MaxPool", .import = import_max}};
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

}  // namespace octavo::ops
