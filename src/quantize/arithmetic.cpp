#include "quantize/arithmetic.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <limits>

#include "backends/cpu/affine.h"
#include "support/error.h"
#include "support/thread_pool.h"

namespace octavo {
namespace {

constexpr const char* names[] = {"nvidia", "onnx", "torch"};

[[noreturn]] void fail(const std::string& message, const std::string& hint = "") {
  throw UserError(ErrorKind::value, "quantization", message, hint);
}

cpu::AffineScale how(Arithmetic arithmetic, const Scheme& scheme) {
  if (arithmetic == Arithmetic::torch) return cpu::AffineScale::reciprocal;
  return arithmetic == Arithmetic::nvidia && scheme.symmetric ? cpu::AffineScale::multiply
                                                              : cpu::AffineScale::divide;
}

void check_parameters(Arithmetic arithmetic, const Scheme& scheme, const Dims& dims,
                      const QuantizationParameters& p) {
  scheme.validate();
  const auto count = static_cast<size_t>(scheme.parameter_count(dims));
  if (p.scales.size() != count)
    fail(fmt::format("{} scales for a tensor that has {}", p.scales.size(), count));
  if (!p.zero_points.empty() && p.zero_points.size() != count)
    fail(fmt::format("{} zero points beside {} scales", p.zero_points.size(), count));
  const bool may_be_zero = how(arithmetic, scheme) == cpu::AffineScale::multiply;
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

// Elements [begin, begin + count) with parameters [parameter, …), one each or one for all.
struct Run {
  int64_t begin, count, parameter;
  bool per_element;
};

// Cuts a tensor into runs, each at most `most_run` long. f(run).
template <class F>
void for_runs(const Scheme& scheme, const Dims& dims, const F& f) {
  constexpr int64_t most_run = 1024;  // what a task holds on its stack
  if (scheme.granularity == Granularity::tensor) {
    constexpr int64_t grain = 32 * most_run;
    const int64_t size = element_count(dims);
    auto task = [&](int64_t i, int) {
      for (int64_t k = i * grain; k < std::min(size, (i + 1) * grain); k += most_run)
        f(Run{k, std::min(most_run, size - k), 0, false});
    };
    default_pool().run((size + grain - 1) / grain, task);
    return;
  }
  int64_t outer = 1, along = 1, inner = 1;
  const auto rank = static_cast<int64_t>(dims.size());
  const int64_t axis = scheme.axis < 0 ? scheme.axis + rank : scheme.axis;
  for (int64_t i = 0; i < rank; ++i) {
    const int64_t n = dims[static_cast<size_t>(i)];
    (i < axis ? outer : i == axis ? along : inner) *= n;
  }
  if (outer * along * inner == 0) return;
  const bool grouped = scheme.granularity == Granularity::group;
  const int64_t group = grouped ? std::min(scheme.group_size, along) : 1;
  // Segments share one parameter, or have one for each of their elements.
  const bool vary = inner == 1 ? scheme.granularity == Granularity::axis : grouped;
  const int64_t length = inner > 1 ? inner : grouped ? group : along;
  const int64_t groups = (along + group - 1) / group;
  const int64_t segments = inner > 1 ? outer * along : grouped ? outer * groups : outer;
  const int64_t at_once = std::max<int64_t>(1, 32768 / length);
  auto task = [&](int64_t i, int) {
    for (int64_t s = i * at_once; s < std::min(segments, (i + 1) * at_once); ++s) {
      int64_t begin = s * length, count = length, parameter = 0;
      if (inner == 1 && grouped) {
        begin = s / groups * along + s % groups * group;
        count = std::min(group, along - s % groups * group);
        parameter = s;
      } else if (inner > 1 && scheme.granularity == Granularity::axis) {
        parameter = s % along;
      } else if (grouped) {
        parameter = (s / along * groups + s % along / group) * inner;
      }
      for (int64_t k = 0; k < count; k += most_run)
        f(Run{begin + k, std::min(most_run, count - k), parameter + (vary ? k : 0), vary});
    }
  };
  default_pool().run((segments + at_once - 1) / at_once, task);
}

struct Runner {
  cpu::AffineRun base;
  const QuantizationParameters& parameters;
  cpu::AffineKernels kernels = cpu::affine_kernels();

  Runner(Arithmetic arithmetic, const Scheme& scheme, const QuantizationParameters& p)
      : parameters(p) {
    base.how = how(arithmetic, scheme);
    base.least = static_cast<float>(scheme.least());
    base.most = static_cast<float>(scheme.most());
  }
  cpu::AffineRun operator()(const Run& run) const {
    static constexpr std::array<int32_t, 1024> zeros{};
    cpu::AffineRun r = base;
    r.count = run.count;
    r.per_element = run.per_element;
    r.scale = parameters.scales.data() + run.parameter;
    r.zero = parameters.zero_points.empty() ? zeros.data()
                                            : parameters.zero_points.data() + run.parameter;
    return r;
  }
};

Tensor as_f32(const Tensor& x) {
  if (x.dtype() == DType::f32) return x;
  if (x.dtype() != DType::f16 && x.dtype() != DType::bf16)
    fail(fmt::format("the input is {}", dtype_name(x.dtype())), "give f32, f16 or bf16");
  return convert(x, DType::f32);
}

template <class T>
Tensor quantize_to(const Runner& runner, const Scheme& scheme, const Tensor& x) {
  Tensor out(scheme.storage(), x.dims());
  const float* from = x.values<float>().data();
  T* to = out.mutable_values<T>().data();
  for_runs(scheme, x.dims(), [&](const Run& run) {
    int32_t q[1024];
    runner.kernels.quantize(runner(run), from + run.begin, q);
    for (int64_t i = 0; i < run.count; ++i) to[run.begin + i] = static_cast<T>(q[i]);
  });
  return out;
}

template <class T>
Tensor dequantize_from(const Runner& runner, const Scheme& scheme, const Tensor& q) {
  Tensor out(DType::f32, q.dims());
  const T* from = q.values<T>().data();
  float* to = out.mutable_values<float>().data();
  for_runs(scheme, q.dims(), [&](const Run& run) {
    int32_t wide[1024];
    for (int64_t i = 0; i < run.count; ++i) wide[i] = from[run.begin + i];
    runner.kernels.dequantize(runner(run), wide, to + run.begin);
  });
  return out;
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
        step = amax <= 0x1p-24f ? 0.0f : bound / amax;
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
        (step == 0 && how(arithmetic, scheme) != cpu::AffineScale::multiply))
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
  const Tensor wide = as_f32(x);
  const Runner runner(arithmetic, scheme, parameters);
  switch (scheme.storage()) {
    case DType::i8:
      return quantize_to<int8_t>(runner, scheme, wide);
    case DType::u8:
      return quantize_to<uint8_t>(runner, scheme, wide);
    case DType::i16:
      return quantize_to<int16_t>(runner, scheme, wide);
    default:
      return quantize_to<uint16_t>(runner, scheme, wide);
  }
}

Tensor dequantize_tensor(Arithmetic arithmetic, const Scheme& scheme, const Tensor& q,
                         const QuantizationParameters& parameters) {
  check_parameters(arithmetic, scheme, q.dims(), parameters);
  if (q.dtype() != scheme.storage())
    fail(fmt::format("the integers are {}", dtype_name(q.dtype())),
         fmt::format("the scheme has {}", dtype_name(scheme.storage())));
  const Runner runner(arithmetic, scheme, parameters);
  switch (q.dtype()) {
    case DType::i8:
      return dequantize_from<int8_t>(runner, scheme, q);
    case DType::u8:
      return dequantize_from<uint8_t>(runner, scheme, q);
    case DType::i16:
      return dequantize_from<int16_t>(runner, scheme, q);
    default:
      return dequantize_from<uint16_t>(runner, scheme, q);
  }
}

Tensor fake_quantize_tensor(Arithmetic arithmetic, const Scheme& scheme, const Tensor& x,
                            const QuantizationParameters& parameters) {
  check_parameters(arithmetic, scheme, x.dims(), parameters);
  const Tensor wide = as_f32(x);
  const Runner runner(arithmetic, scheme, parameters);
  Tensor out(DType::f32, x.dims());
  const float* from = wide.values<float>().data();
  float* to = out.mutable_values<float>().data();
  for_runs(scheme, x.dims(), [&](const Run& run) {
    int32_t q[1024];
    const cpu::AffineRun r = runner(run);
    runner.kernels.quantize(r, from + run.begin, q);
    runner.kernels.dequantize(r, q, to + run.begin);
  });
  return x.dtype() == DType::f32 ? out : convert(out, x.dtype());
}

}  // namespace octavo
