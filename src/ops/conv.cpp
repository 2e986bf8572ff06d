#include "ops/integer_product.h"
#include "ops/op.h"
#include "ops/window.h"

namespace octavo::ops {
namespace {

Ints kernel_of(const Shape& weights) {
  Ints kernel;
  for (size_t i = 2; i < weights.size(); ++i) kernel.push_back(weights[i].value());
  return kernel;
}

// Integers are exact while the sums stay below 2^53: products of bytes always do.
const TensorType& product_input(const Node& node, size_t i) {
  const TensorType& type = node.input(i)->type();
  return type.dtype == DType::i32 ? type : float_input(node, i);
}

std::vector<TensorType> infer(const Node& node) {
  const TensorType &x = product_input(node, 0), &w = product_input(node, 1);
  require(node, x.dtype == w.dtype, "input and weights differ in element type");
  const Shape y = conv_shape(node, x.shape, w.shape);
  if (const Value* bias = node.input(2))
    require(node, bias->shape() == Shape{w.shape[0]} && bias->dtype() == x.dtype,
            "the bias must be one value per output channel, of the input's type");
  return {{x.dtype, y}};
}

// y[n, o, p] = bias[o] + sum over c, k of x[n, c, p * stride + k * dilation - pad] * w[o, c, k]
void reference(const Node& node, std::span<const Tensor* const> in, std::span<Tensor> out) {
  const auto x = doubles(*in[0]), w = doubles(*in[1]);
  const auto bias = in.size() > 2 && in[2] ? doubles(*in[2]) : std::vector<double>();
  const Dims &xd = in[0]->dims(), &wd = in[1]->dims(), &yd = out[0].dims();
  std::vector<double> y(static_cast<size_t>(out[0].size()));
  const size_t rank = xd.size() - 2;
  const Window window = window_of(node, Ints(wd.begin() + 2, wd.end()));
  const int64_t group = node.integer("group"), out_per_group = wd[0] / group;
  int64_t taps = 1, x_plane = 1, y_plane = 1;
  for (size_t i = 0; i < rank; ++i) taps *= wd[i + 2], x_plane *= xd[i + 2], y_plane *= yd[i + 2];
  for (int64_t p = 0; p < y_plane; ++p) {
    // The taps that fall inside the image, as offsets into one input plane.
    std::vector<std::pair<int64_t, int64_t>> inside;
    for (int64_t k = 0; k < taps; ++k) {
      int64_t offset = 0, p_rest = p, k_rest = k, scale = 1;
      bool ok = true;
      for (size_t i = rank; i-- > 0;) {
        const int64_t position = (p_rest % yd[i + 2]) * window.strides[i] +
                                 (k_rest % wd[i + 2]) * window.dilations[i] - window.pads[i];
        ok = ok && position >= 0 && position < xd[i + 2];
        offset += position * scale;
        scale *= xd[i + 2], p_rest /= yd[i + 2], k_rest /= wd[i + 2];
      }
      if (ok) inside.emplace_back(k, offset);
    }
    for (int64_t n = 0; n < xd[0]; ++n)
      for (int64_t o = 0; o < wd[0]; ++o) {
        double sum = bias.empty() ? 0 : bias[static_cast<size_t>(o)];
        for (int64_t c = 0; c < wd[1]; ++c) {
          const double* plane =
              &x[static_cast<size_t>((n * xd[1] + o / out_per_group * wd[1] + c) * x_plane)];
          const double* taps_of = &w[static_cast<size_t>((o * wd[1] + c) * taps)];
          for (const auto& [k, offset] : inside) sum += plane[offset] * taps_of[k];
        }
        y[static_cast<size_t>((n * wd[0] + o) * y_plane + p)] = sum;
      }
  }
  store_doubles(y, out[0]);
}

std::vector<Value*> import(OnnxNodeReader& reader) {
  Value *x = reader.input(0), *w = reader.input(1);
  if (!x || !w) reader.invalid("needs an input and weights");
  if (!w->shape().is_static() || w->shape().rank() < 3)
    reader.unsupported("weights whose shape is not known");
  const Ints kernel = kernel_of(w->shape());
  if (reader.integers("kernel_shape", kernel) != kernel)
    reader.invalid("kernel_shape is not the weights'");
  Attributes attributes = import_window(reader, kernel, x->shape());
  attributes["group"] = reader.integer("group", 1);
  return {reader.apply("conv", {x, w, reader.input(2)}, std::move(attributes))};
}

constexpr OnnxImportRule import_rules[] = {{.op_type = "Conv", .import = import}};

constexpr OnnxExportRule export_rule{[](const Node& node, OnnxNodeWriter& writer) {
  Attributes onnx{{"group", node.integer("group")}};
  export_window(node, node.input(1)->shape().size() - 2, onnx);
  std::vector<std::string> inputs{writer.value_name(node.input(0)),
                                  writer.value_name(node.input(1))};
  if (node.input(2)) inputs.push_back(writer.value_name(node.input(2)));
  writer.node("Conv", std::move(inputs), {writer.value_name(node.output())}, onnx);
}};

}  // namespace

Shape conv_shape(const Node& node, const Shape& x, const Shape& w) {
  require(node, x.rank() >= 3 && x.rank() == w.rank(),
          "input and weights need the same rank, at least 3");
  require(node, w.is_static(), "the weights' shape must be known");
  const int64_t group = node.integer("group"), out = w[0].value();
  require(node, group > 0 && out % group == 0, "group must divide the output channels");
  if (x[1].is_static() && x[1].value() != w[1].value() * group)
    fail(node, fmt::format("input has {} channels, the weights want {}", x[1].value(),
                           w[1].value() * group));
  const Window window = window_of(node, kernel_of(w));
  Shape y{x[0], w[0]};
  for (size_t i = 0; i < window.rank(); ++i) y.push_back(window_output(node, window, i, x[i + 2]));
  return y;
}

const OpImpl op_conv{
    .doc =
        "Convolution: x [N, C, spatial…], w [O, C/group, kernel…], bias [O] or none; y [N, O, …].",
    .min_inputs = 2,
    .max_inputs = 3,
    .attributes =
        [] {
          auto specs = window_attributes();
          specs.push_back({"group", AttributeKind::integer, false, int64_t{1}});
          return specs;
        }(),
    .infer = infer,
    .reference = reference,
    .onnx_import = import_rules,
    .onnx_export = &export_rule};

}  // namespace octavo::ops
