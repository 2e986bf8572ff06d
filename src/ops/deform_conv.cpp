// deform_conv: convolution whose taps lie where offsets say; col2im: overlapping blocks summed up.
#include <cmath>

#include "ops/op.h"
#include "ops/window.h"

namespace octavo::ops {
namespace {

std::vector<TensorType> infer(const Node& node) {
  const TensorType &x = float_input(node), &w = node.input(1)->type();
  for (size_t i = 1; i < 5; ++i)
    if (node.input(i))
      require(node, node.input(i)->dtype() == x.dtype, "the inputs differ in type");
  require(node,
          x.shape.rank() == 4 && w.shape.rank() == 4 && w.shape.is_static() &&
              node.input(2)->shape().rank() == 4,
          "input, weights and offsets must be of rank 4, the weights known");
  const int64_t group = node.integer("group"), offsets = node.integer("offset_group");
  const Dims wd = w.shape.dims();
  require(node, group > 0 && wd[0] % group == 0, "group must divide the output channels");
  require(node, offsets > 0, "offset_group must be positive");
  if (x.shape[1].is_static())
    require(node, x.shape[1].value() == wd[1] * group && x.shape[1].value() % offsets == 0,
            "the channels do not fit the weights, or offset_group does not divide them");
  const Window window = window_of(node, Ints(wd.begin() + 2, wd.end()));
  Shape y{x.shape[0], wd[0]};
  for (size_t i = 0; i < 2; ++i) y.push_back(window_output(node, window, i, x.shape[i + 2]));
  const auto check = [&](size_t i, int64_t channels) {
    if (!node.input(i)) return;
    const Shape& s = node.input(i)->shape();
    bool fits = s.rank() == 4 && (!s[1].is_static() || s[1] == Dim(channels));
    for (size_t d = 2; fits && d < 4; ++d)
      fits = !s[d].is_static() || !y[d].is_static() || s[d] == y[d];
    if (!fits) fail(node, fmt::format("input {} of shape {} does not fit", i, s.str()));
  };
  check(2, offsets * wd[2] * wd[3] * 2);
  check(4, offsets * wd[2] * wd[3]);
  if (node.input(3))
    require(node, node.input(3)->shape() == Shape(Dims{wd[0]}), "the bias must be one per channel");
  return {{x.dtype, y}};
}

// Linear between pixels, 0 outside.
double sample(const double* plane, int64_t height, int64_t width, double y, double x) {
  if (!(y > -1 && y < static_cast<double>(height) && x > -1 && x < static_cast<double>(width)))
    return 0;
  const double top = std::floor(y), left = std::floor(x), ty = y - top, tx = x - left;
  const auto pixel = [&](double r, double c) {
    const auto i = static_cast<int64_t>(r), j = static_cast<int64_t>(c);
    return i < 0 || i >= height || j < 0 || j >= width ? 0 : plane[i * width + j];
  };
  return (1 - ty) * ((1 - tx) * pixel(top, left) + tx * pixel(top, left + 1)) +
         ty * ((1 - tx) * pixel(top + 1, left) + tx * pixel(top + 1, left + 1));
}

void reference(const Node& node, std::span<const Tensor* const> in, std::span<Tensor> out) {
  const auto given = [&](size_t i) {
    return in.size() > i && in[i] ? doubles(*in[i]) : std::vector<double>();
  };
  const auto x = doubles(*in[0]), w = doubles(*in[1]), offset = doubles(*in[2]), bias = given(3),
             mask = given(4);
  const Dims &xd = in[0]->dims(), &wd = in[1]->dims(), &yd = out[0].dims();
  const Window window = window_of(node, Ints(wd.begin() + 2, wd.end()));
  const int64_t group = node.integer("group"), offsets = node.integer("offset_group"),
                taps = wd[2] * wd[3], plane = yd[2] * yd[3], channels_each = xd[1] / offsets;
  std::vector<double> y(static_cast<size_t>(out[0].size()));
  std::vector<double> values(static_cast<size_t>(xd[1] * taps));  // of one position
  for (int64_t n = 0; n < yd[0]; ++n)
    for (int64_t p = 0; p < plane; ++p) {
      for (int64_t c = 0; c < xd[1]; ++c)
        for (int64_t k = 0; k < taps; ++k) {
          const int64_t at = (n * offsets + c / channels_each) * taps + k;  // of this tap's offsets
          const auto shift = [&](int64_t axis) {
            return offset[static_cast<size_t>((at * 2 + axis) * plane + p)];
          };
          const int64_t i = p / yd[3] * window.strides[0] + k / wd[3] * window.dilations[0],
                        j = p % yd[3] * window.strides[1] + k % wd[3] * window.dilations[1];
          const double value =
              sample(&x[static_cast<size_t>((n * xd[1] + c) * xd[2] * xd[3])], xd[2], xd[3],
                     static_cast<double>(i - window.pads[0]) + shift(0),
                     static_cast<double>(j - window.pads[1]) + shift(1));
          values[static_cast<size_t>(c * taps + k)] =
              mask.empty() ? value : value * mask[static_cast<size_t>(at * plane + p)];
        }
      for (int64_t o = 0; o < wd[0]; ++o) {
        double sum = bias.empty() ? 0 : bias[static_cast<size_t>(o)];
        const int64_t first = o / (wd[0] / group) * wd[1] * taps;
        for (int64_t i = 0; i < wd[1] * taps; ++i)
          sum +=
              values[static_cast<size_t>(first + i)] * w[static_cast<size_t>(o * wd[1] * taps + i)];
        y[static_cast<size_t>((n * wd[0] + o) * plane + p)] = sum;
      }
    }
  store_doubles(y, out[0]);
}

std::vector<Value*> import(OnnxNodeReader& reader) {
  auto inputs = inputs_of(reader, 3);
  const Shape& w = inputs[1]->shape();
  if (!w.is_static() || w.rank() != 4) reader.unsupported("weights that are not of known rank 4");
  const Dims dims = w.dims();
  Attributes a = import_window(reader, Ints(dims.begin() + 2, dims.end()), inputs[0]->shape());
  a["group"] = reader.integer("group", 1);
  a["offset_group"] = reader.integer("offset_group", 1);
  return {reader.apply("deform_conv", std::move(inputs), std::move(a))};
}

void write(const Node& node, OnnxNodeWriter& writer) {
  Attributes onnx{{"group", node.integer("group")}, {"offset_group", node.integer("offset_group")}};
  export_window(node, 2, onnx);
  write_as(node, writer, "DeformConv", onnx, 19);
}

// ---- col2im: x [N, C * block, positions] to [N, C, image…]

struct Blocks {
  Ints image;
  Window window;
};
std::optional<Blocks> blocks_of(const Node& node) {
  const auto image = known_ints(node, "image"), block = known_ints(node, "block");
  if (!image || !block) return std::nullopt;
  require(node, !image->empty() && image->size() == block->size(),
          "image and block must have one size per axis");
  for (const int64_t size : *image)
    require(node, size > 0 && size <= (int64_t{1} << 31), "an image size is out of range");
  return Blocks{*image, window_of(node, *block)};
}

std::vector<TensorType> infer_col2im(const Node& node) {
  const TensorType& x = float_input(node);
  require(node, x.shape.rank() == 3, "the input must be [N, C * block, positions]");
  const auto blocks = blocks_of(node);
  if (!blocks) {
    const auto rank = static_cast<size_t>(list_length(node, "image"));
    Shape y(rank + 2, Dim::unknown());
    y[0] = x.shape[0];
    return {{x.dtype, y}};
  }
  int64_t positions = 1;
  for (size_t i = 0; i < blocks->image.size(); ++i)
    positions *= window_output(node, blocks->window, i, blocks->image[i]).value();
  const int64_t block = element_count(blocks->window.kernel);
  const auto fits = [](const Dim& dim, int64_t divisor) {
    return !dim.is_static() || dim.value() % divisor == 0;
  };
  require(node, fits(x.shape[1], block), "the block does not divide the columns");
  require(node, !x.shape[2].is_static() || x.shape[2].value() == positions,
          "the number of positions does not fit the image");
  Shape y{x.shape[0], x.shape[1].is_static() ? Dim(x.shape[1].value() / block) : Dim::unknown()};
  for (const int64_t size : blocks->image) y.push_back(size);
  return {{x.dtype, y}};
}

void reference_col2im(const Node& node, std::span<const Tensor* const> in, std::span<Tensor> out) {
  const Blocks blocks = *blocks_of(node);
  const Window& w = blocks.window;
  const Dims& xd = in[0]->dims();
  const auto x = doubles(*in[0]);
  const int64_t block = element_count(w.kernel), plane = element_count(blocks.image),
                positions = xd[2];
  Dims grid;
  for (size_t i = 0; i < w.rank(); ++i)
    grid.push_back(window_output(node, w, i, blocks.image[i]).value());
  std::vector<double> y(static_cast<size_t>(out[0].size()));
  for (int64_t row = 0; row < xd[0] * xd[1]; ++row)
    for (int64_t p = 0; p < positions; ++p) {
      int64_t p_rest = p, k_rest = row % block, at = 0, scale = 1;
      bool inside = true;
      for (size_t i = w.rank(); i-- > 0;) {
        const int64_t place =
            p_rest % grid[i] * w.strides[i] + k_rest % w.kernel[i] * w.dilations[i] - w.pads[i];
        inside = inside && place >= 0 && place < blocks.image[i];
        at += place * scale;
        scale *= blocks.image[i], p_rest /= grid[i], k_rest /= w.kernel[i];
      }
      if (inside)
        y[static_cast<size_t>(row / block * plane + at)] +=
            x[static_cast<size_t>(row * positions + p)];
    }
  store_doubles(y, out[0]);
}

std::vector<Value*> import_col2im(OnnxNodeReader& reader) {
  std::vector<Value*> inputs{inputs_of(reader, 3)[0]};
  Attributes a{{"strides", reader.integers("strides", {})},
               {"pads", reader.integers("pads", {})},
               {"dilations", reader.integers("dilations", {})}};
  import_parameter(reader, 1, "col2im", "image", a, inputs);
  import_parameter(reader, 2, "col2im", "block", a, inputs);
  return {reader.apply("col2im", std::move(inputs), std::move(a))};
}

void write_col2im(const Node& node, OnnxNodeWriter& writer) {
  need_opset(node, writer, 18);
  Attributes onnx;
  for (const char* name : {"strides", "pads", "dilations"})
    if (!node.integers(name).empty()) onnx[name] = node.integers(name);
  writer.node("Col2Im",
              {writer.value_name(node.input(0)), parameter_name(node, "image", writer),
               parameter_name(node, "block", writer)},
              {writer.value_name(node.output())}, onnx);
}

constexpr OnnxImportRule deform_import[] = {
    {.op_type = "DeformConv", .since = 19, .import = import}};
constexpr OnnxImportRule col2im_import[] = {
    {.op_type = "Col2Im", .since = 18, .import = import_col2im}};
constexpr OnnxExportRule deform_export{write}, col2im_export{write_col2im};

}  // namespace

const OpImpl op_deform_conv{
    .doc =
        "2-D convolution whose taps are shifted by offsets and sampled linearly; inputs x [N, C, "
        "H, W], w, offsets [N, offset_group * taps * 2, H', W'], bias, mask (as offsets, one per "
        "tap).",
    .min_inputs = 3,
    .max_inputs = 5,
    .attributes =
        [] {
          auto specs = window_attributes();
          specs.push_back({"group", AttributeKind::integer, false, int64_t{1}});
          specs.push_back({"offset_group", AttributeKind::integer, false, int64_t{1}});
          return specs;
        }(),
    .infer = infer,
    .reference = reference,
    .onnx_import = deform_import,
    .onnx_export = &deform_export};

const OpImpl op_col2im{
    .doc =
        "Columns [N, C * block, positions] summed into images [N, C, image…]: the adjoint of "
        "cutting an image into the windows of a convolution.",
    .max_inputs = 3,
    .attributes =
        [] {
          auto specs = window_attributes();
          specs.push_back({"image", AttributeKind::integers, false, Ints{}});
          specs.push_back({"block", AttributeKind::integers, false, Ints{}});
          return specs;
        }(),
    .parameters = {{"image", 1}, {"block", 2}},
    .infer = infer_col2im,
    .reference = reference_col2im,
    .onnx_import = col2im_import,
    .onnx_export = &col2im_export};

}  // namespace octavo::ops
