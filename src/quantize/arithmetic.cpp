#include "quantize/arithmetic.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "quantize/elements.h"
#include "support/error.h"

namespace octavo {
namespace {

constexpr const char* names[] = {"nvidia", "onnx", "torch"};

[[noreturn]] void fail(const std::string& message, const std::string& hint = "") {
  throw UserError(ErrorKind::value, "quantization", message, hint);
}

void check_parameters(Arithmetic arithmetic, const Scheme& scheme, const Dims& dims,
                      const QuantizationParameters& p) {
  scheme.validate();
  const auto count = static_cast<size_t>(scheme.parameter_count(dims));
  if (p.scales.size() != count)
    fail(fmt::format("{} scales for a tensor that has {}", p.scales.size(), count));
  if (!p.zero_points.empty() && p.zero_points.size() != count)
    fail(fmt::format("{} zero points beside {} scales", p.zero_points.size(), count));
  const bool may_be_zero = affine_scale(arithmetic, scheme.symmetric) == cpu::AffineScale::multiply;
  for (float s : p.scales)
    if (!std::isfinite(s) || s < 0 || (s == 0 && !may_be_zero))
      fail(fmt::format("a scale of {}", s), "scales are positive and finite");
  for (int32_t z : p.zero_points) {
    if (scheme.symmetric && z != 0)
      fail(fmt::format("zero point {} in a symmetric scheme", z), "use an affine one");
    if (z < scheme.least() || z > scheme.most())
      fail(fmt::format("zero point {} outside [{}, {}]", z, scheme.least(), scheme.most()));
  }
}

// The parameters as floats, and how they lie.
struct Parameters {
  AffineElements<float> elements;
  std::vector<float> zeros;

  Parameters(Arithmetic arithmetic, const Scheme& scheme, const Dims& dims,
             const QuantizationParameters& p)
      : zeros(p.zero_points.begin(), p.zero_points.end()) {
    elements = {affine_scale(arithmetic, scheme.symmetric), static_cast<float>(scheme.least()),
                static_cast<float>(scheme.most()),          p.scales.data(),
                zeros.empty() ? nullptr : zeros.data(),     spread_of(scheme, dims)};
  }
};

void check_float(const Tensor& x) {
  if (x.dtype() != DType::f32 && x.dtype() != DType::f16 && x.dtype() != DType::bf16)
    fail(fmt::format("the input is {}", dtype_name(x.dtype())), "give f32, f16 or bf16");
}

float rounded_to(float scale, DType dtype) {
  if (dtype == DType::f16) return half_to_float(float_to_half(scale));
  if (dtype == DType::bf16) return bfloat16_to_float(float_to_bfloat16(scale));
  return scale;
}

}  // namespace

const char* arithmetic_name(Arithmetic arithmetic) { return names[static_cast<int>(arithmetic)]; }

Arithmetic parse_arithmetic(const std::string& name) {
  for (int i = 0; i < 3; ++i)
    if (name == names[i]) return static_cast<Arithmetic>(i);
  throw UserError(ErrorKind::value, "arithmetic", fmt::format("'{}' is not known", name),
                  "use nvidia, onnx or torch");
}

QuantizationParameters parameters_from_ranges(Arithmetic arithmetic, const Scheme& scheme,
                                              std::span<const float> least,
                                              std::span<const float> most) {
  scheme.validate();
  if (least.size() != most.size())
    fail(fmt::format("{} lower bounds and {} upper ones", least.size(), most.size()));
  QuantizationParameters p;
  const float epsilon = std::numeric_limits<float>::epsilon();
  const auto bound = static_cast<float>(scheme.bound());
  for (size_t i = 0; i < least.size(); ++i) {
    if (!std::isfinite(least[i]) || !std::isfinite(most[i]))
      fail(fmt::format("the range [{}, {}] is not finite", least[i], most[i]));
    if (least[i] > most[i])
      fail(fmt::format("the range [{}, {}] is upside down", least[i], most[i]));
    const float lo = std::min(least[i], 0.0f), hi = std::max(most[i], 0.0f);
    float step = 0;
    int32_t zero = 0;
    if (scheme.symmetric) {
      if (!scheme.is_signed && lo < 0)
        fail(fmt::format("negative values (down to {}) in unsigned quantization", lo),
             "use signed integers");
      const float amax = std::max(-lo, hi);
      if (arithmetic == Arithmetic::nvidia)
        step = nvidia_scale(bound, amax);
      else if (arithmetic == Arithmetic::onnx || !scheme.is_signed)
        step = amax / bound;
      else  // torch: half of all levels, so that -128 and 127 lie alike
        step = amax / (static_cast<float>(scheme.levels() - 1) / 2);
    } else {
      // hi - lo may overflow where each half does not.
      const auto gaps = static_cast<float>(scheme.levels() - 1);
      step = (hi - lo) / gaps;
      if (!std::isfinite(step)) step = hi / gaps - lo / gaps;
    }
    if (!(scheme.symmetric && arithmetic == Arithmetic::nvidia)) {
      if (arithmetic == Arithmetic::torch)
        step = std::max(step, epsilon);
      else if (step == 0)
        step = 1;
    }
    step = rounded_to(step, scheme.scale_dtype);
    if (!std::isfinite(step) ||
        (step == 0 && affine_scale(arithmetic, scheme.symmetric) != cpu::AffineScale::multiply))
      fail(fmt::format("the scale of the range [{}, {}] does not fit {}", least[i], most[i],
                       dtype_name(scheme.scale_dtype)));
    if (!scheme.symmetric)
      zero = static_cast<int32_t>(
          std::clamp(static_cast<float>(scheme.least()) - std::nearbyint(lo / step),
                     static_cast<float>(scheme.least()), static_cast<float>(scheme.most())));
    p.scales.push_back(step);
    p.zero_points.push_back(zero);
  }
  return p;
}

Tensor quantize_tensor(Arithmetic arithmetic, const Scheme& scheme, const Tensor& x,
                       const QuantizationParameters& parameters) {
  check_parameters(arithmetic, scheme, x.dims(), parameters);
  check_float(x);
  const Parameters p(arithmetic, scheme, x.dims(), parameters);
  Tensor q(scheme.storage(), x.dims());
  quantize_elements(p.elements, {x.dtype(), x.data()}, {q.dtype(), q.mutable_data()});
  return q;
}

Tensor dequantize_tensor(Arithmetic arithmetic, const Scheme& scheme, const Tensor& q,
                         const QuantizationParameters& parameters) {
  check_parameters(arithmetic, scheme, q.dims(), parameters);
  if (q.dtype() != scheme.storage())
    fail(fmt::format("the integers are {}", dtype_name(q.dtype())),
         fmt::format("the scheme has {}", dtype_name(scheme.storage())));
  const Parameters p(arithmetic, scheme, q.dims(), parameters);
  Tensor x(DType::f32, q.dims());
  dequantize_elements(p.elements, {q.dtype(), q.data()}, {x.dtype(), x.mutable_data()});
  return x;
}

Tensor fake_quantize_tensor(Arithmetic arithmetic, const Scheme& scheme, const Tensor& x,
                            const QuantizationParameters& parameters) {
  check_parameters(arithmetic, scheme, x.dims(), parameters);
  check_float(x);
  const Parameters p(arithmetic, scheme, x.dims(), parameters);
  Tensor y(x.dtype(), x.dims());
  fake_quantize_elements(p.elements, {x.dtype(), x.data()}, {y.dtype(), y.mutable_data()});
  return y;
}

}  // namespace octavo
