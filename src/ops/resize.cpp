#include "ops/resize.h"

#include <cmath>

#include "ops/indexing.h"
#include "ops/op.h"

namespace octavo::ops {
namespace {

constexpr std::string_view modes[] = {"nearest", "linear", "cubic"};
constexpr std::string_view coordinates[] = {
    "half_pixel", "half_pixel_symmetric", "pytorch_half_pixel",  "align_corners",
    "asymmetric", "tf_crop_and_resize",   "tf_half_pixel_for_nn"};
constexpr std::string_view roundings[] = {"round_prefer_floor", "round_prefer_ceil", "floor",
                                          "ceil"};
constexpr std::string_view policies[] = {"stretch", "not_larger", "not_smaller"};

void require_one_of(const Node& node, std::string_view attribute,
                    std::span<const std::string_view> names) {
  if (std::find(names.begin(), names.end(), node.text(attribute)) == names.end())
    fail(node, fmt::format("{} must be one of {}", attribute, fmt::join(names, ", ")));
}

}  // namespace

std::optional<std::vector<ResizeAxis>> resize_axes(const Node& node) {
  const Shape& x = node.input(0)->shape();
  const auto rank = static_cast<size_t>(x.rank());
  const auto sizes = known_ints(node, "sizes");
  const auto scales = known_reals(node, "scales"), roi = known_reals(node, "roi");
  if (!sizes || !scales || !roi || !x.is_static()) return std::nullopt;
  Ints axes = node.integers("axes");
  if (axes.empty())
    for (size_t i = 0; i < rank; ++i) axes.push_back(static_cast<int64_t>(i));
  for (int64_t& axis : axes) axis = normalize_axis(axis, x.rank(), node.where());
  const bool by_size = !sizes->empty();
  require(node, by_size ? sizes->size() == axes.size() : scales->size() == axes.size(),
          "sizes or scales must be given, one number per axis");
  require(node, roi->empty() || roi->size() == 2 * axes.size(), "roi needs two numbers per axis");
  std::vector<ResizeAxis> result(rank);
  for (size_t i = 0; i < rank; ++i) result[i].size = result[i].wanted = x[i].value();
  const std::string& policy = node.text("policy");
  double shared = policy == "not_smaller" ? 0 : HUGE_VAL;
  for (size_t i = 0; by_size && i < axes.size(); ++i) {
    const ResizeAxis& axis = result[static_cast<size_t>(axes[i])];
    const double scale = static_cast<double>((*sizes)[i]) / static_cast<double>(axis.size);
    shared = policy == "not_smaller" ? std::max(shared, scale) : std::min(shared, scale);
  }
  constexpr double most = 0x1p40;
  for (size_t i = 0; i < axes.size(); ++i) {
    ResizeAxis& axis = result[static_cast<size_t>(axes[i])];
    const auto size = static_cast<double>(axis.size);
    axis.sampled = true;
    if (!roi->empty()) axis.roi_start = (*roi)[i], axis.roi_end = (*roi)[axes.size() + i];
    double wanted = 0;
    if (!by_size) {
      axis.scale = (*scales)[i];
      require(node, axis.scale > 0 && std::isfinite(axis.scale), "a scale is not positive");
      const double part =
          node.text("coordinates") == "tf_crop_and_resize" ? axis.roi_end - axis.roi_start : 1;
      wanted = std::floor(size * part * axis.scale);
    } else if (policy == "stretch") {
      wanted = static_cast<double>((*sizes)[i]);
      axis.scale = wanted / size;
    } else {
      wanted = std::floor(shared * size + 0.5);
      axis.scale = shared;
    }
    require(node, wanted >= 0 && wanted <= most, "an output size is out of range");
    axis.wanted = static_cast<int64_t>(wanted);
    require(node, axis.wanted == 0 || axis.size > 0, "an empty axis cannot be sampled");
  }
  return result;
}

namespace {

std::vector<TensorType> infer(const Node& node) {
  TensorType y = number_input(node);
  require_one_of(node, "mode", modes);
  require_one_of(node, "coordinates", coordinates);
  require_one_of(node, "rounding", roundings);
  require_one_of(node, "policy", policies);
  const auto axes = resize_axes(node);
  const auto scales = known_reals(node, "scales");
  for (size_t i = 0; i < y.shape.size(); ++i) {
    if (axes)
      y.shape[i] = (*axes)[i].wanted;
    else if (!(scales && scales->size() == y.shape.size() && (*scales)[i] == 1))
      y.shape[i] = Dim::unknown();
  }
  return {y};
}

// Position in the input of output index i.
double source(const Node& node, const ResizeAxis& axis, int64_t i) {
  const std::string& mode = node.text("coordinates");
  const auto at = static_cast<double>(i), size = static_cast<double>(axis.size),
             wanted = static_cast<double>(axis.wanted);
  if (mode == "asymmetric") return at / axis.scale;
  if (mode == "align_corners") return axis.wanted == 1 ? 0 : at * (size - 1) / (wanted - 1);
  if (mode == "pytorch_half_pixel") return axis.wanted == 1 ? 0 : (at + 0.5) / axis.scale - 0.5;
  if (mode == "tf_half_pixel_for_nn") return (at + 0.5) / axis.scale;
  if (mode == "half_pixel_symmetric") {
    // The output covers `wanted` of size * scale, which need not be whole: it stays centred.
    const double adjustment = wanted / (axis.scale * size), centre = size / 2;
    return centre * (1 - adjustment) + (at + 0.5) / axis.scale - 0.5;
  }
  if (mode == "tf_crop_and_resize") {
    if (axis.wanted == 1) return 0.5 * (axis.roi_start + axis.roi_end) * (size - 1);
    return axis.roi_start * (size - 1) +
           at * (axis.roi_end - axis.roi_start) * (size - 1) / (wanted - 1);
  }
  return (at + 0.5) / axis.scale - 0.5;
}

double rounded(const std::string& mode, double x) {
  if (mode == "floor") return std::floor(x);
  if (mode == "ceil") return std::ceil(x);
  return mode == "round_prefer_ceil" ? std::floor(x + 0.5) : std::ceil(x - 0.5);
}

}  // namespace

ResizeTaps resize_taps(const Node& node, const ResizeAxis& axis, int64_t i) {
  ResizeTaps result;
  const double x = source(node, axis, i), last = static_cast<double>(axis.size - 1);
  if (node.text("coordinates") == "tf_crop_and_resize" && (x < 0 || x > last)) {
    result.outside = true;
    return result;
  }
  const std::string& mode = node.text("mode");
  const auto clamped = [&](double at) { return static_cast<int64_t>(std::clamp(at, 0.0, last)); };
  if (mode == "nearest") {
    result.taps.emplace_back(clamped(rounded(node.text("rounding"), x)), 1.0);
    return result;
  }
  // Shrinking with antialias widens the filter by the scale.
  const double stretch = node.integer("antialias") != 0 && axis.scale < 1 ? axis.scale : 1.0;
  const double a = node.real("cubic_a");
  const auto linear = [](double t) { return std::max(0.0, 1 - std::fabs(t)); };
  const auto cubic = [&](double t) {
    t = std::fabs(t);
    if (t <= 1) return ((a + 2) * t - (a + 3)) * t * t + 1;
    if (t < 2) return ((a * t - 5 * a) * t + 8 * a) * t - 4 * a;
    return 0.0;
  };
  const double reach = (mode == "linear" ? 1 : 2) / stretch;
  double sum = 0;
  for (double at = std::ceil(x - reach); at <= std::floor(x + reach); ++at) {
    const double w = mode == "linear" ? linear((at - x) * stretch) : cubic((at - x) * stretch);
    if (w == 0) continue;
    if (node.integer("exclude_outside") != 0 && (at < 0 || at > last)) continue;
    result.taps.emplace_back(clamped(at), w);
    sum += w;
  }
  if (node.integer("exclude_outside") != 0 || stretch != 1)
    for (auto& tap : result.taps) tap.second /= sum;
  return result;
}

namespace {

// One axis after the other.
void reference(const Node& node, std::span<const Tensor* const> in, std::span<Tensor> out) {
  const auto axes = *resize_axes(node);
  std::vector<double> values = doubles(*in[0]);
  std::vector<bool> outside(values.size());
  Dims dims = in[0]->dims();
  for (size_t d = 0; d < dims.size(); ++d) {
    if (!axes[d].sampled) continue;
    std::vector<ResizeTaps> taps;
    for (int64_t i = 0; i < axes[d].wanted; ++i) taps.push_back(resize_taps(node, axes[d], i));
    const Rows from(dims, d);
    dims[d] = axes[d].wanted;
    const Rows to(dims, d);
    std::vector<double> next(to.count() * to.length);
    std::vector<bool> next_outside(next.size());
    for (size_t r = 0; r < to.count(); ++r)
      for (size_t k = 0; k < to.length; ++k) {
        double sum = 0;
        bool beyond = taps[k].outside;
        for (const auto& [index, weight] : taps[k].taps) {
          const size_t at = from.start(r) + static_cast<size_t>(index) * from.inner;
          sum += weight * values[at];
          beyond = beyond || outside[at];
        }
        next[to.start(r) + k * to.inner] = sum;
        next_outside[to.start(r) + k * to.inner] = beyond;
      }
    values = std::move(next);
    outside = std::move(next_outside);
  }
  for (size_t i = 0; i < values.size(); ++i)
    if (outside[i]) values[i] = node.real("extrapolation");
  if (!is_float(out[0].dtype())) {  // integers: rounded and saturated
    const auto [lo, hi] = [&]() -> std::pair<double, double> {
      if (out[0].dtype() == DType::u8) return {0, 255};
      if (out[0].dtype() == DType::i8) return {-128, 127};
      return {-HUGE_VAL, HUGE_VAL};
    }();
    for (double& v : values) v = std::clamp(std::nearbyint(v), lo, hi);
  }
  store_doubles(values, out[0]);
}

std::vector<Value*> import(OnnxNodeReader& reader) {
  std::vector<Value*> inputs{inputs_of(reader)[0]};
  Attributes a{{"mode", reader.text("mode", "nearest")}};
  if (reader.opset() < 11) {
    inputs_of(reader, 2);
    a["coordinates"] = std::string("asymmetric");
    a["rounding"] = std::string("floor");
    import_parameter(reader, 1, "resize", "scales", a, inputs);
    return {reader.apply("resize", std::move(inputs), std::move(a))};
  }
  a["coordinates"] = reader.text("coordinate_transformation_mode", "half_pixel");
  a["rounding"] = reader.text("nearest_mode", "round_prefer_floor");
  a["cubic_a"] = reader.real("cubic_coeff_a", -0.75);
  a["exclude_outside"] = reader.integer("exclude_outside", 0);
  a["extrapolation"] = reader.real("extrapolation_value", 0);
  a["antialias"] = reader.integer("antialias", 0);
  a["axes"] = reader.integers("axes", {});
  a["policy"] = reader.text("keep_aspect_ratio_policy", "stretch");
  // The region counts in one mode only; files name an empty one otherwise, or a meaningless one.
  if (std::get<std::string>(a["coordinates"]) == "tf_crop_and_resize")
    import_parameter(reader, 1, "resize", "roi", a, inputs);
  // Before opset 13 an empty tensor of scales means that sizes are given.
  const Value* scales = reader.input(2);
  const bool no_scales = !scales || (scales->shape().rank() == 1 && scales->shape()[0] == Dim(0));
  if (!no_scales) import_parameter(reader, 2, "resize", "scales", a, inputs);
  import_parameter(reader, 3, "resize", "sizes", a, inputs);
  return {reader.apply("resize", std::move(inputs), std::move(a))};
}

std::vector<Value*> import_upsample(OnnxNodeReader& reader) {
  std::vector<Value*> inputs{inputs_of(reader)[0]};
  Attributes a{{"mode", reader.text("mode", "nearest")},
               {"coordinates", std::string("asymmetric")},
               {"rounding", std::string("floor")},
               {"scales", reader.reals("scales", {})}};
  if (std::get<std::string>(a["mode"]) == "bilinear") a["mode"] = std::string("linear");
  if (reader.opset() >= 9) import_parameter(reader, 1, "resize", "scales", a, inputs);
  return {reader.apply("resize", std::move(inputs), std::move(a))};
}

void write(const Node& node, OnnxNodeWriter& writer) {
  Attributes onnx{{"mode", node.text("mode")},
                  {"coordinate_transformation_mode", node.text("coordinates")},
                  {"nearest_mode", node.text("rounding")},
                  {"cubic_coeff_a", node.real("cubic_a")},
                  {"exclude_outside", node.integer("exclude_outside")},
                  {"extrapolation_value", node.real("extrapolation")}};
  if (node.text("coordinates") == "half_pixel_symmetric") need_opset(node, writer, 19);
  if (node.integer("antialias") != 0 || !node.integers("axes").empty() ||
      node.text("policy") != "stretch") {
    need_opset(node, writer, 18);
    onnx["antialias"] = node.integer("antialias");
    onnx["keep_aspect_ratio_policy"] = node.text("policy");
    if (!node.integers("axes").empty()) onnx["axes"] = node.integers("axes");
  }
  const bool sizes = node.input(3) || !node.integers("sizes").empty();
  const bool roi = node.input(1) || !node.reals("roi").empty();
  std::vector<std::string> inputs{writer.value_name(node.input(0)),
                                  roi ? parameter_name(node, "roi", writer) : "",
                                  sizes ? "" : parameter_name(node, "scales", writer)};
  if (sizes) inputs.push_back(parameter_name(node, "sizes", writer));
  writer.node("Resize", std::move(inputs), {writer.value_name(node.output())}, onnx);
}

constexpr OnnxImportRule import_rules[] = {
    {.op_type = "Resize", .since = 10, .import = import},
    {.op_type = "Upsample", .since = 7, .import = import_upsample}};
constexpr OnnxExportRule export_rule{write};

}  // namespace

const OpImpl op_resize{
    .doc =
        "x sampled at other sizes: `mode` nearest, linear or cubic; by `scales` or `sizes` "
        "(inputs 2 and 3 or attributes), one per axis of `axes` (none: all), where "
        "`coordinates`, `rounding`, `policy`, roi (input 1) and the rest mean what they do in "
        "ONNX's Resize.",
    .max_inputs = 4,
    .attributes = {{"mode", AttributeKind::text, false, std::string("nearest")},
                   {"coordinates", AttributeKind::text, false, std::string("half_pixel")},
                   {"rounding", AttributeKind::text, false, std::string("round_prefer_floor")},
                   {"policy", AttributeKind::text, false, std::string("stretch")},
                   {"scales", AttributeKind::reals, false, Floats{}},
                   {"sizes", AttributeKind::integers, false, Ints{}},
                   {"roi", AttributeKind::reals, false, Floats{}},
                   {"axes", AttributeKind::integers, false, Ints{}},
                   {"cubic_a", AttributeKind::real, false, -0.75},
                   {"exclude_outside", AttributeKind::integer, false, int64_t{0}},
                   {"extrapolation", AttributeKind::real, false, 0.0},
                   {"antialias", AttributeKind::integer, false, int64_t{0}}},
    .parameters = {{"roi", 1}, {"scales", 2}, {"sizes", 3}},
    .infer = infer,
    .reference = reference,
    .onnx_import = import_rules,
    .onnx_export = &export_rule};

}  // namespace octavo::ops
