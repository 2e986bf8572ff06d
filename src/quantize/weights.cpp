#include "quantize/weights.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "evaluate/metrics.h"
#include "support/error.h"
#include "support/thread_pool.h"

namespace octavo {
namespace {

struct Layout {
  size_t channels, inner, length;
  // Place of row element (channel, k) in the tensor.
  size_t operator()(size_t channel, size_t k) const {
    return k / inner * channels * inner + channel * inner + k % inner;
  }
};

Layout layout_of(const Tensor& weights, int64_t axis) {
  Layout l{static_cast<size_t>(weights.dims()[static_cast<size_t>(axis)]), 1, 0};
  for (size_t i = static_cast<size_t>(axis) + 1; i < weights.dims().size(); ++i)
    l.inner *= static_cast<size_t>(weights.dims()[i]);
  l.length = l.channels ? static_cast<size_t>(weights.size()) / l.channels : 0;
  return l;
}

float row_amax(const WeightRows& rows, size_t channel) {
  float amax = 0;
  for (size_t k = 0; k < rows.length; ++k)
    amax = std::max(amax, std::fabs(rows.values[channel * rows.length + k]));
  return amax;
}

}  // namespace

WeightRows weight_rows(const Tensor& weights, int64_t output_axis) {
  const Layout l = layout_of(weights, output_axis);
  WeightRows rows{l.channels, l.length, std::vector<float>(l.channels * l.length)};
  const auto from = weights.values<float>();
  for (size_t c = 0; c < l.channels; ++c)
    for (size_t k = 0; k < l.length; ++k) rows.values[c * l.length + k] = from[l(c, k)];
  return rows;
}

Tensor integer_tensor(const std::vector<int8_t>& rows, const Tensor& like, int64_t output_axis) {
  const Layout l = layout_of(like, output_axis);
  Tensor out(DType::i8, like.dims());
  auto to = out.mutable_values<int8_t>();
  for (size_t c = 0; c < l.channels; ++c)
    for (size_t k = 0; k < l.length; ++k) to[l(c, k)] = rows[c * l.length + k];
  return out;
}

float least_scale(float bias, float x_scale) {
  constexpr double room = 1 << 24;  // steps: far from int32's end, and exact in float32
  const double least = std::fabs(static_cast<double>(bias)) / (room * x_scale);
  return static_cast<float>(std::max(least, 1e-30));
}

std::vector<float> max_scales(const WeightRows& rows) {
  std::vector<float> scales(rows.channels);
  for (size_t c = 0; c < rows.channels; ++c) scales[c] = row_amax(rows, c) / 127;
  return scales;
}

std::vector<float> mse_scales(const WeightRows& rows) {
  std::vector<float> scales(rows.channels);
  auto task = [&](int64_t channel, int) {
    const auto c = static_cast<size_t>(channel);
    const float amax = row_amax(rows, c);
    double least = std::numeric_limits<double>::infinity();
    scales[c] = amax / 127;
    if (amax == 0) return;
    for (int i = 0; i < 80; ++i) {
      const float scale = amax / 127 * (1 - 0.005f * static_cast<float>(i));
      double error = 0;
      for (size_t k = 0; k < rows.length && error < least; ++k) {
        const float w = rows.values[c * rows.length + k];
        const double e = w - std::clamp(std::nearbyint(w / scale), -127.0f, 127.0f) * scale;
        error += e * e;
      }
      if (error < least) {
        least = error;
        scales[c] = scale;
      }
    }
  };
  default_pool().run(static_cast<int64_t>(rows.channels), task);
  return scales;
}

void round_row_to_nearest(const WeightRows& rows, size_t channel, float scale,
                          std::vector<int8_t>& q) {
  for (size_t i = channel * rows.length; i < (channel + 1) * rows.length; ++i)
    q[i] = static_cast<int8_t>(std::clamp(std::nearbyint(rows.values[i] / scale), -127.0f, 127.0f));
}

void share_scale(std::vector<float>& scales) {
  if (scales.empty()) return;
  std::fill(scales.begin(), scales.end(), *std::max_element(scales.begin(), scales.end()));
}

std::vector<int8_t> round_to_nearest(const WeightRows& rows, std::span<const float> scales) {
  std::vector<int8_t> q(rows.values.size());
  for (size_t c = 0; c < rows.channels; ++c) round_row_to_nearest(rows, c, scales[c], q);
  return q;
}

std::vector<float> bias_of(const Node& product, size_t channels) {
  std::vector<float> bias(channels, 0.0f);
  if (!product.input(2)) return bias;
  const auto given = product.input(2)->constant().to_doubles();
  OCTAVO_CHECK(given.size() == 1 || given.size() == channels);
  for (size_t c = 0; c < channels; ++c)
    bias[c] = static_cast<float>(given.size() == 1 ? given[0] : given[c]);
  return bias;
}

WeightParams nearest_weights(const PlacedWeights& placed,
                             const std::map<std::string, ActivationParams>& activations,
                             const std::string& method) {
  const Node& node = *placed.node;
  const WeightRows rows = weight_rows(node.input(1)->constant(), placed.axis);
  const std::vector<float> bias = bias_of(node, rows.channels);
  WeightParams params;
  const auto scales_of = [&](const WeightRows& of) {
    return method == "mse" ? mse_scales(of) : max_scales(of);
  };
  if (placed.per_tensor)
    params.scales.assign(rows.channels, scales_of({1, rows.values.size(), rows.values})[0]);
  else
    params.scales = scales_of(rows);
  const auto x = activations.find(node.input(0)->name());
  for (size_t c = 0; c < rows.channels; ++c)
    params.scales[c] = std::max(params.scales[c],
                                least_scale(bias[c], x == activations.end() ? 1 : x->second.scale));
  if (placed.per_tensor) share_scale(params.scales);
  params.values =
      integer_tensor(round_to_nearest(rows, params.scales), node.input(1)->constant(), placed.axis);
  if (node.input(2)) params.bias = Tensor::from(Dims{static_cast<int64_t>(rows.channels)}, bias);
  return params;
}

double weight_sqnr_db(const PlacedWeights& placed, const WeightParams& params) {
  const auto w = placed.node->input(1)->constant().values<float>();
  const auto q = params.values.values<int8_t>();
  size_t inner = 1;
  const Dims& dims = params.values.dims();
  for (size_t i = static_cast<size_t>(placed.axis) + 1; i < dims.size(); ++i)
    inner *= static_cast<size_t>(dims[i]);
  double signal = 0, noise = 0;
  for (size_t i = 0; i < w.size(); ++i) {
    const double scale = params.scales[i / inner % params.scales.size()];
    const double e = w[i] - q[i] * scale;
    signal += static_cast<double>(w[i]) * w[i];
    noise += e * e;
  }
  return decibels(signal, noise);
}

namespace {
constexpr const char* methods[] = {"max", "mse", "gptq", "adaround", "awq", "awq+gptq"};
}

bool looks_at_data(const std::string& method) {
  return method == "gptq" || method == "adaround" || method.starts_with("awq");
}

double weight_error_left(const std::string& method) { return looks_at_data(method) ? 0.3 : 1; }

std::string weight_method_names() {
  std::string names;
  for (const char* name : methods) names += (names.empty() ? "" : ", ") + std::string(name);
  return names;
}

void check_weight_method(const std::string& name) {
  if (std::find(std::begin(methods), std::end(methods), name) == std::end(methods))
    throw UserError(ErrorKind::value, "weights", fmt::format("'{}' is not known", name),
                    "use one of: " + weight_method_names());
}

}  // namespace octavo
