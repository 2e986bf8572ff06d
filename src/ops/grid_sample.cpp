// Sampling at given places: grid_sample and roi_align.
#include <cmath>

#include "ops/indexing.h"
#include "ops/op.h"

namespace octavo::ops {
namespace {

// ---- grid_sample: x [N, C, spatial…], grid [N, out…, spatial rank], coordinates in [-1, 1]

std::vector<TensorType> infer_grid(const Node& node) {
  const TensorType& x = float_input(node);
  const Shape& grid = float_input(node, 1).shape;
  const std::string &mode = node.text("mode"), &padding = node.text("padding");
  require(node, mode == "linear" || mode == "nearest" || mode == "cubic",
          "mode must be linear, nearest or cubic");
  require(node, padding == "zeros" || padding == "border" || padding == "reflection",
          "padding must be zeros, border or reflection");
  require(node, x.shape.rank() >= 3 && grid.rank() == x.shape.rank(),
          "input and grid need the same rank, at least 3");
  require(node, !grid.back().is_static() || grid.back().value() == x.shape.rank() - 2,
          "the grid's last axis must hold one coordinate per spatial axis");
  Shape y{x.shape[0], x.shape[1]};
  y.insert(y.end(), grid.begin() + 1, grid.end() - 1);
  return {{x.dtype, y}};
}

double reflected(double at, double low, double high) {
  if (high <= low) return low;
  const double range = high - low, t = std::fmod(std::fabs(at - low), 2 * range);
  return low + (t > range ? 2 * range - t : t);
}

struct Grid {
  bool align;
  std::string padding;
  // The pixel that index i stands for; -1 for a zero.
  int64_t pixel(double i, int64_t size) const {
    const auto last = static_cast<double>(size - 1);
    if (i >= 0 && i <= last) return static_cast<int64_t>(i);
    if (padding == "zeros") return -1;
    if (padding == "border") return i < 0 ? 0 : size - 1;
    const double at = align ? reflected(i, 0, last) : reflected(i, -0.5, last + 0.5);
    return static_cast<int64_t>(std::clamp(std::nearbyint(at), 0.0, last));
  }
};

void reference_grid(const Node& node, std::span<const Tensor* const> in, std::span<Tensor> out) {
  const Dims &xd = in[0]->dims(), &yd = out[0].dims();
  const size_t rank = xd.size() - 2;
  const auto x = doubles(*in[0]), grid = doubles(*in[1]);
  const Grid g{node.integer("align_corners") != 0, node.text("padding")};
  const std::string& mode = node.text("mode");
  int64_t x_plane = 1, y_plane = 1;
  for (size_t i = 0; i < rank; ++i) x_plane *= xd[i + 2], y_plane *= yd[i + 2];
  const Strides strides = strides_of(Dims(xd.begin() + 2, xd.end()));
  std::vector<double> y(static_cast<size_t>(out[0].size()));
  for (int64_t n = 0; n < xd[0]; ++n)
    for (int64_t p = 0; p < y_plane; ++p) {
      // Offsets in a plane and weights: the product of what each axis takes part in.
      std::vector<std::pair<int64_t, double>> taps{{0, 1}};
      for (size_t d = 0; d < rank; ++d) {
        const int64_t size = xd[d + 2];
        // Coordinates are listed with the last axis first.
        const double c = grid[static_cast<size_t>((n * y_plane + p) * static_cast<int64_t>(rank)) +
                              rank - 1 - d];
        const auto length = static_cast<double>(size);
        double at = g.align ? (c + 1) / 2 * (length - 1) : ((c + 1) * length - 1) / 2;
        if (g.padding == "border") at = std::clamp(at, 0.0, length - 1);
        if (g.padding == "reflection")
          at = g.align ? reflected(at, 0, length - 1) : reflected(at, -0.5, length - 0.5);
        std::vector<std::pair<double, double>> axis;  // index, weight
        const double floor = std::floor(at), t = at - floor;
        if (mode == "nearest") {
          axis = {{std::nearbyint(at), 1}};
        } else if (mode == "linear") {
          axis = {{floor, 1 - t}, {floor + 1, t}};
        } else {
          constexpr double a = -0.75;
          const auto near = [](double s) { return ((a + 2) * s - (a + 3)) * s * s + 1; };
          const auto far = [](double s) { return ((a * s - 5 * a) * s + 8 * a) * s - 4 * a; };
          axis = {{floor - 1, far(t + 1)},
                  {floor, near(t)},
                  {floor + 1, near(1 - t)},
                  {floor + 2, far(2 - t)}};
        }
        std::vector<std::pair<int64_t, double>> next;
        for (const auto& [offset, weight] : taps)
          for (const auto& [index, w] : axis)
            if (const int64_t pixel = g.pixel(index, size); pixel >= 0 && w != 0)
              next.emplace_back(offset + pixel * strides[d], weight * w);
        taps = std::move(next);
      }
      for (int64_t c = 0; c < xd[1]; ++c) {
        double sum = 0;
        for (const auto& [offset, weight] : taps)
          sum += weight * x[static_cast<size_t>((n * xd[1] + c) * x_plane + offset)];
        y[static_cast<size_t>((n * xd[1] + c) * y_plane + p)] = sum;
      }
    }
  store_doubles(y, out[0]);
}

std::vector<Value*> import_grid(OnnxNodeReader& reader) {
  std::string mode = reader.text("mode", reader.opset() < 20 ? "bilinear" : "linear");
  if (mode == "bilinear") mode = "linear";
  if (mode == "bicubic") mode = "cubic";
  return {reader.apply("grid_sample", inputs_of(reader, 2),
                       {{"mode", mode},
                        {"padding", reader.text("padding_mode", "zeros")},
                        {"align_corners", reader.integer("align_corners", 0)}})};
}

void write_grid(const Node& node, OnnxNodeWriter& writer) {
  std::string mode = node.text("mode");
  if (writer.opset() < 20) {
    if (node.input(0)->shape().rank() != 4) need_opset(node, writer, 20);
    if (mode != "nearest") mode = "bi" + mode;
  }
  write_as(node, writer, "GridSample",
           {{"mode", mode},
            {"padding_mode", node.text("padding")},
            {"align_corners", node.integer("align_corners")}},
           16);
}

// ---- roi_align: x [N, C, H, W], rois [R, 4] of x1, y1, x2, y2, and their images [R]

std::vector<TensorType> infer_roi(const Node& node) {
  const TensorType& x = float_input(node);
  require(node,
          x.shape.rank() == 4 && node.input(1)->shape().rank() == 2 &&
              node.input(1)->dtype() == x.dtype && node.input(2)->shape().rank() == 1 &&
              is_integer(node.input(2)->dtype()),
          "inputs must be x [N, C, H, W], rois [R, 4] and images [R]");
  const int64_t h = node.integer("height"), w = node.integer("width");
  require(node, h > 0 && w > 0 && h <= (1 << 20) && w <= (1 << 20),
          "the output size is out of range");
  require(node, node.text("mode") == "avg" || node.text("mode") == "max",
          "mode must be avg or max");
  return {{x.dtype, {node.input(1)->shape()[0], x.shape[1], h, w}}};
}

void reference_roi(const Node& node, std::span<const Tensor* const> in, std::span<Tensor> out) {
  const Dims &xd = in[0]->dims(), &yd = out[0].dims();
  const auto x = doubles(*in[0]), rois = doubles(*in[1]);
  const auto images = in[2]->to_ints();
  require(node, in[1]->dims()[1] == 4 && in[2]->dims()[0] == in[1]->dims()[0],
          "rois must be four numbers each, with one image each");
  const double scale = node.real("spatial_scale"), shift = node.integer("half_pixel") ? 0.5 : 0;
  const bool largest = node.text("mode") == "max";
  const int64_t height = xd[2], width = xd[3];
  std::vector<double> y(static_cast<size_t>(out[0].size()));
  for (int64_t r = 0; r < yd[0]; ++r) {
    const int64_t image = images[static_cast<size_t>(r)];
    require(node, image >= 0 && image < xd[0], "an image index is out of range");
    const double* roi = &rois[static_cast<size_t>(r) * 4];
    const double x1 = roi[0] * scale - shift, y1 = roi[1] * scale - shift;
    double w = roi[2] * scale - shift - x1, h = roi[3] * scale - shift - y1;
    if (shift == 0) w = std::max(w, 1.0), h = std::max(h, 1.0);
    const double bin_h = h / static_cast<double>(yd[2]), bin_w = w / static_cast<double>(yd[3]);
    const int64_t ratio = node.integer("sampling_ratio");
    const auto samples = [&](double bin) {
      return ratio > 0 ? ratio
                       : std::clamp<int64_t>(static_cast<int64_t>(std::ceil(bin)), 0, 1 << 12);
    };
    const int64_t rows = samples(bin_h), columns = samples(bin_w);
    for (int64_t c = 0; c < xd[1]; ++c) {
      const double* plane = &x[static_cast<size_t>((image * xd[1] + c) * height * width)];
      for (int64_t i = 0; i < yd[2]; ++i)
        for (int64_t j = 0; j < yd[3]; ++j) {
          double sum = 0, most = 0;
          bool first = true;
          for (int64_t a = 0; a < rows; ++a)
            for (int64_t b = 0; b < columns; ++b) {
              const auto place = [](double start, int64_t cell, double bin, int64_t k, int64_t n) {
                return start + static_cast<double>(cell) * bin +
                       (static_cast<double>(k) + 0.5) * bin / static_cast<double>(n);
              };
              double py = place(y1, i, bin_h, a, rows), px = place(x1, j, bin_w, b, columns);
              double value[4] = {0, 0, 0, 0};
              if (py >= -1 && py <= static_cast<double>(height) && px >= -1 &&
                  px <= static_cast<double>(width)) {
                const auto last = [](int64_t size) { return static_cast<double>(size - 1); };
                py = std::clamp(py, 0.0, last(height)), px = std::clamp(px, 0.0, last(width));
                const auto top = static_cast<int64_t>(py), left = static_cast<int64_t>(px);
                const int64_t bottom = std::min(top + 1, height - 1),
                              right = std::min(left + 1, width - 1);
                const double ty = py - static_cast<double>(top),
                             tx = px - static_cast<double>(left);
                value[0] = (1 - ty) * (1 - tx) * plane[top * width + left];
                value[1] = (1 - ty) * tx * plane[top * width + right];
                value[2] = ty * (1 - tx) * plane[bottom * width + left];
                value[3] = ty * tx * plane[bottom * width + right];
              }
              for (const double v : value) sum += v;
              // ONNX takes the largest of the weighted corners.
              const double corner = *std::max_element(value, value + 4);
              most = first ? corner : std::max(most, corner);
              first = false;
            }
          const auto count = static_cast<double>(std::max<int64_t>(rows * columns, 1));
          y[static_cast<size_t>(((r * xd[1] + c) * yd[2] + i) * yd[3] + j)] =
              largest ? most : sum / count;
        }
    }
  }
  store_doubles(y, out[0]);
}

std::vector<Value*> import_roi(OnnxNodeReader& reader) {
  const std::string transform = reader.text(
      "coordinate_transformation_mode", reader.opset() < 16 ? "output_half_pixel" : "half_pixel");
  return {reader.apply("roi_align", inputs_of(reader, 3),
                       {{"height", reader.integer("output_height", 1)},
                        {"width", reader.integer("output_width", 1)},
                        {"mode", reader.text("mode", "avg")},
                        {"sampling_ratio", reader.integer("sampling_ratio", 0)},
                        {"spatial_scale", reader.real("spatial_scale", 1)},
                        {"half_pixel", int64_t{transform == "half_pixel"}}})};
}

void write_roi(const Node& node, OnnxNodeWriter& writer) {
  write_as(node, writer, "RoiAlign",
           {{"output_height", node.integer("height")},
            {"output_width", node.integer("width")},
            {"mode", node.text("mode")},
            {"sampling_ratio", node.integer("sampling_ratio")},
            {"spatial_scale", node.real("spatial_scale")},
            {"coordinate_transformation_mode",
             std::string(node.integer("half_pixel") ? "half_pixel" : "output_half_pixel")}},
           16);
}

constexpr OnnxImportRule grid_import[] = {
    {.op_type = "GridSample", .since = 16, .import = import_grid}};
constexpr OnnxImportRule roi_import[] = {
    {.op_type = "RoiAlign", .since = 10, .import = import_roi}};
constexpr OnnxExportRule grid_export{write_grid}, roi_export{write_roi};

}  // namespace

const OpImpl op_grid_sample{
    .doc =
        "x [N, C, spatial…] at the places of grid [N, out…, spatial rank], coordinates from -1 to "
        "1, the last axis first; `mode` linear, nearest or cubic, `padding` zeros, border or "
        "reflection.",
    .min_inputs = 2,
    .max_inputs = 2,
    .attributes = {{"mode", AttributeKind::text, false, std::string("linear")},
                   {"padding", AttributeKind::text, false, std::string("zeros")},
                   {"align_corners", AttributeKind::integer, false, int64_t{0}}},
    .infer = infer_grid,
    .reference = reference_grid,
    .onnx_import = grid_import,
    .onnx_export = &grid_export};

const OpImpl op_roi_align{
    .doc =
        "For each region of interest the mean or maximum of x, sampled linearly, in height x "
        "width cells; inputs x [N, C, H, W], rois [R, 4], images [R].",
    .min_inputs = 3,
    .max_inputs = 3,
    .attributes = {{"height", AttributeKind::integer, false, int64_t{1}},
                   {"width", AttributeKind::integer, false, int64_t{1}},
                   {"mode", AttributeKind::text, false, std::string("avg")},
                   {"sampling_ratio", AttributeKind::integer, false, int64_t{0}},
                   {"spatial_scale", AttributeKind::real, false, 1.0},
                   {"half_pixel", AttributeKind::integer, false, int64_t{1}}},
    .infer = infer_roi,
    .reference = reference_roi,
    .onnx_import = roi_import,
    .onnx_export = &roi_export};

}  // namespace octavo::ops
