#include "parameters.h"

#include <ATen/ExpandUtils.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>

#include <cmath>

namespace octavo::torch_ops {
namespace {

template <class T>
T checked_amax(T amax, const char* op) {
  TORCH_CHECK_VALUE(!std::isnan(amax), op, ": NaN in amax");
  TORCH_CHECK_VALUE(amax >= 0, op, ": Negative values in amax (", amax, ")");
  TORCH_CHECK_VALUE(!std::isinf(amax), op, ": infinite values in amax");
  return amax;
}

template <class T>
std::span<const T> values(const Tensor& x) {
  return {x.const_data_ptr<T>(), static_cast<size_t>(x.numel())};
}

// Both of the shape to which they broadcast, of type T, contiguous.
template <class T>
std::pair<Tensor, Tensor> together(const Tensor& a, const Tensor& b) {
  if (a.numel() == 1 && b.numel() == 1) return {a.to(compute_type<T>), b.to(compute_type<T>)};
  const auto shape = at::infer_size(a.sizes(), b.sizes());
  return {a.expand(shape).to(compute_type<T>).contiguous(),
          b.expand(shape).to(compute_type<T>).contiguous()};
}

}  // namespace

template <class T>
Nvidia<T> nvidia_scales(const Tensor& amax, int64_t num_bits, bool is_unsigned, bool narrow_range,
                        const char* op) {
  const int64_t magnitude_bits = num_bits - 1 + (is_unsigned ? 1 : 0);
  TORCH_CHECK_VALUE(magnitude_bits >= 1 && magnitude_bits <= 20, op, ": num_bits is ", num_bits,
                    is_unsigned ? "; use 1 to 20 unsigned bits" : "; use 2 to 21 signed bits");
  Nvidia<T> n;
  n.bound = static_cast<T>((int64_t{1} << magnitude_bits) - 1);
  n.least = is_unsigned ? T(0) : narrow_range ? -n.bound : -n.bound - 1;
  TORCH_CHECK_TYPE(!amax.is_complex(), op, ": amax is ", amax.scalar_type());
  if (amax.numel() == 1) {
    const T value = amax.scalar_type() == compute_type<T>
                        ? *amax.const_data_ptr<T>()
                        : *amax.to(compute_type<T>).template const_data_ptr<T>();
    n.one = nvidia_scale(n.bound, checked_amax(value, op));
    return n;
  }
  const Tensor from = amax.to(compute_type<T>).contiguous();
  n.scale = at::empty(from.sizes(), from.options());
  T* to = n.scale.template mutable_data_ptr<T>();
  for (T value : values<T>(from)) *to++ = nvidia_scale(n.bound, checked_amax(value, op));
  return n;
}

template <class T>
Affine<T> nvidia_affine(const Nvidia<T>& n, const Tensor& x, const char* op) {
  Affine<T> a;
  a.elements = {cpu::AffineScale::multiply, n.least, n.bound, &n.one, nullptr,
                Spread::all(x.numel())};
  if (n.scale.defined()) {
    const Laid laid = lay_broadcast(n.scale, x, compute_type<T>, op, "amax");
    a.scale = laid.values;
    a.elements.scale = a.scale.template const_data_ptr<T>();
    a.elements.spread = laid.spread;
  }
  return a;
}

template <class T>
Affine<T> range_affine(const Tensor& x, const Tensor& least, const Tensor& most, int64_t num_bits) {
  const char* op = "fake_affine_tensor_quant";
  TORCH_CHECK_VALUE(num_bits >= 2 && num_bits <= 16, op, ": num_bits is ", num_bits,
                    "; use 2 to 16");
  const auto [lo, hi] = together<T>(least, most);
  const T bound = static_cast<T>(int64_t{1} << (num_bits - 1));
  const auto gaps = static_cast<T>((int64_t{1} << num_bits) - 1);
  Tensor scale = at::empty_like(lo), zero = at::empty_like(lo);
  T* step = scale.template mutable_data_ptr<T>();
  T* z = zero.template mutable_data_ptr<T>();
  const auto lows = values<T>(lo), highs = values<T>(hi);
  for (size_t i = 0; i < lows.size(); ++i) {
    TORCH_CHECK_VALUE(std::isfinite(lows[i]) && std::isfinite(highs[i]), op, ": the range [",
                      lows[i], ", ", highs[i], "] is not finite");
    TORCH_CHECK_VALUE(lows[i] <= highs[i], op, ": the range [", lows[i], ", ", highs[i],
                      "] is upside down");
    step[i] = (highs[i] - lows[i]) / gaps;
    if (step[i] == 0) step[i] = 1;
    z[i] = -bound - std::nearbyint(lows[i] / step[i]);
    TORCH_CHECK_VALUE(std::isfinite(step[i]) && std::abs(z[i]) <= T(0x1p21), op, ": the range [",
                      lows[i], ", ", highs[i], "] is too wide, or too far from zero for its width");
  }
  Affine<T> a;
  const Laid laid = lay_broadcast(scale, x, compute_type<T>, op, "the range");
  a.scale = laid.values;
  a.zero = lay_broadcast(zero, x, compute_type<T>, op, "the range").values;
  a.elements = {cpu::AffineScale::divide,
                -bound,
                bound - 1,
                a.scale.template const_data_ptr<T>(),
                a.zero.template const_data_ptr<T>(),
                laid.spread};
  return a;
}

Scheme checked_scheme(const SchemeArguments& arguments, bool symmetric) {
  Scheme s;
  s.bits = static_cast<int>(std::clamp<int64_t>(arguments.bits, 0, 99));
  s.is_signed = arguments.is_signed;
  s.narrow = arguments.narrow;
  s.symmetric = symmetric;
  s.validate();
  return s;
}

at::ScalarType storage_type(const Scheme& scheme) {
  switch (scheme.storage()) {
    case DType::i8:
      return at::kChar;
    case DType::u8:
      return at::kByte;
    case DType::i16:
      return at::kShort;
    default:
      return at::kUInt16;
  }
}

template <class T>
Affine<T> scheme_affine(const Tensor& x, const Tensor& scale,
                        const std::optional<Tensor>& zero_point, const SchemeArguments& arguments,
                        const char* op) {
  const Scheme scheme = checked_scheme(arguments, !zero_point.has_value());
  const auto how =
      affine_scale(parse_arithmetic(std::string(arguments.arithmetic)), scheme.symmetric);
  TORCH_CHECK_TYPE(at::isFloatingType(scale.scalar_type()), op, ": scale is ", scale.scalar_type(),
                   "; give floating-point numbers");
  TORCH_CHECK_VALUE(arguments.group_size >= 0, op, ": group_size is ", arguments.group_size,
                    "; 0 means no groups");
  const auto lay = [&](const Tensor& parameters, const char* name) {
    return arguments.group_size > 0
               ? lay_groups(parameters, x, arguments.axis, arguments.group_size, compute_type<T>,
                            op, name)
               : lay_axis(parameters, x, arguments.axis, compute_type<T>, op, name);
  };
  Affine<T> a;
  const Laid laid = lay(scale, "scale");
  a.scale = laid.values;
  for (T s : values<T>(a.scale))
    TORCH_CHECK_VALUE(std::isfinite(s) && (s > 0 || (s == 0 && how == cpu::AffineScale::multiply)),
                      op, ": a scale of ", s, "; scales are positive and finite");
  a.elements = {how,
                static_cast<T>(scheme.least()),
                static_cast<T>(scheme.most()),
                a.scale.template const_data_ptr<T>(),
                nullptr,
                laid.spread};
  if (zero_point) {
    TORCH_CHECK_VALUE(zero_point->numel() == scale.numel(), op, ": ", zero_point->numel(),
                      " zero points beside ", scale.numel(), " scales");
    a.zero = lay(*zero_point, "zero_point").values;
    a.elements.zero = a.zero.template const_data_ptr<T>();
    for (T z : values<T>(a.zero))
      TORCH_CHECK_VALUE(z >= a.elements.least && z <= a.elements.most && z == std::nearbyint(z), op,
                        ": a zero point of ", z, "; use whole numbers in [", scheme.least(), ", ",
                        scheme.most(), "]");
  }
  return a;
}

template <class T>
Bounds<T> bounds(const Tensor& x, const Tensor& low, const Tensor& high, const char* op) {
  auto [lo, hi] = together<T>(low, high);
  for (const Tensor& t : {lo, hi})
    for (T v : values<T>(t)) TORCH_CHECK_VALUE(!std::isnan(v), op, ": a bound is NaN");
  Bounds<T> b;
  const Laid laid = lay_broadcast(lo, x, compute_type<T>, op, "the bounds");
  b.low = laid.values;
  b.high = lay_broadcast(hi, x, compute_type<T>, op, "the bounds").values;
  b.elements = {b.low.template const_data_ptr<T>(), b.high.template const_data_ptr<T>(),
                laid.spread};
  return b;
}

#define OCTAVO_PARAMETERS(T)                                                                   \
  template Nvidia<T> nvidia_scales(const Tensor&, int64_t, bool, bool, const char*);           \
  template Affine<T> nvidia_affine(const Nvidia<T>&, const Tensor&, const char*);              \
  template Affine<T> range_affine(const Tensor&, const Tensor&, const Tensor&, int64_t);       \
  template Affine<T> scheme_affine(const Tensor&, const Tensor&, const std::optional<Tensor>&, \
                                   const SchemeArguments&, const char*);                       \
  template Bounds<T> bounds(const Tensor&, const Tensor&, const Tensor&, const char*);
OCTAVO_PARAMETERS(float)
OCTAVO_PARAMETERS(double)
#undef OCTAVO_PARAMETERS

}  // namespace octavo::torch_ops
