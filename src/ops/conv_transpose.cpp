#include "ops/op.h"
#include "ops/window.h"

namespace octavo::ops {
namespace {

Ints kernel_of(const Shape& weights) {
  Ints kernel;
  for (size_t i = 2; i < weights.size(); ++i) kernel.push_back(weights[i].value());
  return kernel;
}

Ints output_padding(const Node& node, size_t rank) {
  Ints padding = node.integers("output_padding");
  if (padding.empty()) padding.assign(rank, 0);
  require(node, padding.size() == rank, "output_padding does not match the kernel's rank");
  for (const int64_t p : padding)
    require(node, p >= 0 && p <= (1 << 20), "output_padding must be in 0 to 2^20");
  return padding;
}

std::vector<TensorType> infer(const Node& node) {
  const TensorType &x = float_input(node, 0), &w = float_input(node, 1);
  require(node, x.dtype == w.dtype, "input and weights differ in element type");
  require(node, x.shape.rank() >= 3 && x.shape.rank() == w.shape.rank() && w.shape.is_static(),
          "input and weights need the same rank, at least 3, and known weights");
  const int64_t group = node.integer("group"), in = w.shape[0].value();
  require(node, group > 0 && in % group == 0, "group must divide the input channels");
  if (x.shape[1].is_static() && x.shape[1].value() != in)
    fail(node, fmt::format("input has {} channels, the weights want {}", x.shape[1].value(), in));
  const int64_t out = element_count({w.shape[1].value(), group});
  if (const Value* bias = node.input(2))
    require(node, bias->shape() == Shape(Dims{out}) && bias->dtype() == x.dtype,
            "the bias must be one value per output channel, of the input's type");
  const Window window = window_of(node, kernel_of(w.shape));
  const Ints padding = output_padding(node, window.rank());
  Shape y{x.shape[0], out};
  for (size_t i = 0; i < window.rank(); ++i) {
    const Dim& dim = x.shape[i + 2];
    if (!dim.is_static()) {
      y.push_back(Dim::unknown());
      continue;
    }
    const int64_t size = window.strides[i] * (dim.value() - 1) + padding[i] +
                         (window.kernel[i] - 1) * window.dilations[i] + 1 - window.pads[i] -
                         window.pads[window.rank() + i];
    require(node, size >= 0, "the pads take away more than there is");
    y.push_back(size);
  }
  return {{x.dtype, y}};
}

// Each input element adds its multiple of the kernel at its place in the output.
void reference(const Node& node, std::span<const Tensor* const> in, std::span<Tensor> out) {
  const auto x = doubles(*in[0]), w = doubles(*in[1]);
  const Dims &xd = in[0]->dims(), &wd = in[1]->dims(), &yd = out[0].dims();
  const Window window = window_of(node, Ints(wd.begin() + 2, wd.end()));
  const size_t rank = window.rank();
  const int64_t group = node.integer("group"), in_per_group = wd[0] / group;
  int64_t taps = 1, x_plane = 1, y_plane = 1;
  for (size_t i = 0; i < rank; ++i) taps *= wd[i + 2], x_plane *= xd[i + 2], y_plane *= yd[i + 2];
  std::vector<double> y(static_cast<size_t>(out[0].size()));
  if (in.size() > 2 && in[2]) {
    const auto bias = doubles(*in[2]);
    for (size_t i = 0; i < y.size(); ++i)
      y[i] = bias[i / static_cast<size_t>(y_plane) % bias.size()];
  }
  for (int64_t p = 0; p < x_plane; ++p)
    for (int64_t k = 0; k < taps; ++k) {
      int64_t offset = 0, p_rest = p, k_rest = k, scale = 1;
      bool inside = true;
      for (size_t i = rank; i-- > 0;) {
        const int64_t at = p_rest % xd[i + 2] * window.strides[i] +
                           k_rest % wd[i + 2] * window.dilations[i] - window.pads[i];
        inside = inside && at >= 0 && at < yd[i + 2];
        offset += at * scale;
        scale *= yd[i + 2], p_rest /= xd[i + 2], k_rest /= wd[i + 2];
      }
      if (!inside) continue;
      for (int64_t n = 0; n < xd[0]; ++n)
        for (int64_t c = 0; c < wd[0]; ++c) {
          const double value = x[static_cast<size_t>((n * xd[1] + c) * x_plane + p)];
          for (int64_t o = 0; o < wd[1]; ++o) {
            const int64_t channel = c / in_per_group * wd[1] + o;
            y[static_cast<size_t>((n * yd[1] + channel) * y_plane + offset)] +=
                value * w[static_cast<size_t>((c * wd[1] + o) * taps + k)];
          }
        }
    }
  store_doubles(y, out[0]);
}

std::vector<Value*> import(OnnxNodeReader& reader) {
  const auto inputs = inputs_of(reader, 2);
  const Shape &x = inputs[0]->shape(), &w = inputs[1]->shape();
  if (!w.is_static() || w.rank() < 3) reader.unsupported("weights whose shape is not known");
  const Ints kernel = kernel_of(w);
  const size_t rank = kernel.size();
  if (reader.integers("kernel_shape", kernel) != kernel)
    reader.invalid("kernel_shape is not the weights'");
  const Ints ones(rank, 1), strides = reader.integers("strides", ones),
                            dilations = reader.integers("dilations", ones),
                            padding = reader.integers("output_padding", Ints(rank, 0)),
                            wanted = reader.integers("output_shape", {});
  Ints pads = reader.integers("pads", Ints(2 * rank, 0));
  const std::string mode = reader.text("auto_pad", "NOTSET");
  if (strides.size() != rank || dilations.size() != rank || padding.size() != rank ||
      pads.size() != 2 * rank)
    reader.invalid("strides, dilations, pads or output_padding have the wrong length");
  if (!wanted.empty() || mode == "SAME_UPPER" || mode == "SAME_LOWER") {
    // Pads follow from the size of the output; it may list batch and channels too.
    if (!wanted.empty() && wanted.size() != rank && wanted.size() != rank + 2)
      reader.invalid("output_shape has the wrong length");
    for (size_t i = 0; i < rank; ++i) {
      if (!x[i + 2].is_static()) reader.unsupported("output_shape or auto_pad of a dynamic size");
      const int64_t size = x[i + 2].value(), full = strides[i] * (size - 1) + padding[i] +
                                                    (kernel[i] - 1) * dilations[i] + 1;
      const int64_t target = wanted.empty() ? size * strides[i] : wanted[wanted.size() - rank + i];
      // A larger output than the kernel reaches is padded behind.
      const int64_t total = full - target;
      pads[i] = mode == "SAME_UPPER" ? total / 2 : total - total / 2;
      pads[rank + i] = total - pads[i];
      if (total < 0) pads[i] = 0, pads[rank + i] = 0;
    }
  } else if (mode == "VALID") {
    pads.assign(2 * rank, 0);
  } else if (mode != "NOTSET") {
    reader.invalid(fmt::format("auto_pad '{}' is not a mode", mode));
  }
  Ints more = padding;
  for (size_t i = 0; i < rank && !wanted.empty(); ++i) {
    const int64_t full =
        strides[i] * (x[i + 2].value() - 1) + padding[i] + (kernel[i] - 1) * dilations[i] + 1;
    const int64_t target = wanted[wanted.size() - rank + i];
    if (full < target) more[i] += target - full;
  }
  return {reader.apply("conv_transpose", {inputs[0], inputs[1], reader.input(2)},
                       {{"strides", strides},
                        {"pads", pads},
                        {"dilations", dilations},
                        {"output_padding", more},
                        {"group", reader.integer("group", 1)}})};
}

constexpr OnnxImportRule import_rules[] = {{.op_type = "ConvTranspose", .import = import}};
constexpr OnnxExportRule export_rule{[](const Node& node, OnnxNodeWriter& writer) {
  const size_t rank = node.input(1)->shape().size() - 2;
  Attributes onnx{{"group", node.integer("group")}, {"output_padding", output_padding(node, rank)}};
  export_window(node, rank, onnx);
  write_as(node, writer, "ConvTranspose", onnx);
}};

}  // namespace

const OpImpl op_conv_transpose{
    .doc =
        "Transposed convolution: x [N, C, spatial…], w [C, O/group, kernel…], bias [O] or none; "
        "the gradient of conv by its input, with output_padding more behind.",
    .min_inputs = 2,
    .max_inputs = 3,
    .attributes =
        [] {
          auto specs = window_attributes();
          specs.push_back({"group", AttributeKind::integer, false, int64_t{1}});
          specs.push_back({"output_padding", AttributeKind::integers, false, Ints{}});
          return specs;
        }(),
    .infer = infer,
    .reference = reference,
    .onnx_import = import_rules,
    .onnx_export = &export_rule};

}  // namespace octavo::ops
