// affine.h over a `Vec` of vec_*.h, which must come first, and over VecDouble.
#pragma once
#include "backends/cpu/affine.h"
#include "backends/cpu/vec_double.h"
#include "backends/cpu/vec_parts.h"

namespace octavo::cpu {
namespace {  // NOLINT(google-build-namespaces)

template <class V>
typename V::I affine_load_ints(const int32_t* p, int n) {
  if (n == V::width) return V::load_int(p);
  alignas(64) int32_t part[V::width] = {};
  __builtin_memcpy(part, p, static_cast<size_t>(n) * sizeof *part);
  return V::load_int(part);
}
template <class V>
void affine_store_ints(int32_t* p, typename V::I v, int n) {
  if (n == V::width) return V::store_int(p, v);
  alignas(64) int32_t part[V::width];
  V::store_int(part, v);
  __builtin_memcpy(p, part, static_cast<size_t>(n) * sizeof *part);
}
// What an element is scaled by. The bounds less zero are whole and exact, so that clamping commutes
// with rounding and adding.
template <class V>
struct AffineVector {
  typename V::F scale, zero, lo, hi, inverse;
};

template <class V>
struct AffineOf {
  using F = typename V::F;
  using T = typename V::Scalar;
  using P = AffineVector<V>;
  static P make(const AffineRun<T>& run, F scale, F zero) {
    P p{scale, zero, V::sub(V::set(run.least), zero), V::sub(V::set(run.most), zero), scale};
    if (run.how == AffineScale::reciprocal) p.inverse = V::div(V::set(1), scale);
    // Scales are not negative.
    if (run.how == AffineScale::multiply)
      p.inverse = V::select(V::less(V::set(0), scale), scale, V::set(1));
    return p;
  }
  template <AffineScale how>
  static F scaled(F x, const P& p) {
    return how == AffineScale::divide     ? V::div(x, p.scale)
           : how == AffineScale::multiply ? V::mul(x, p.scale)
                                          : V::mul(x, p.inverse);
  }
  // round(r) between the bounds, less zero; NaN counts as 0.
  static typename V::I whole(F r, const P& p) {
    r = V::select(V::is_nan(r), V::set(0), r);
    return V::round(V::min(V::max(r, p.lo), p.hi));
  }
  template <AffineScale how>
  static F back(F whole, const P& p) {
    return how == AffineScale::multiply ? V::div(whole, p.inverse) : V::mul(whole, p.scale);
  }
};

template <AffineScale how>
struct AffineHow {
  static constexpr AffineScale value = how;
};

// f(i, n, parameters, how as a constant).
template <class V, AffineScale how, class F>
void affine_each(const AffineRun<typename V::Scalar>& run, const F& f) {
  using A = AffineOf<V>;
  constexpr AffineHow<how> constant;
  const typename V::F none = V::set(0);
  if (!run.per_element) {
    const auto p = A::make(run, V::set(*run.scale), run.zero ? V::set(*run.zero) : none);
    for_vectors<V>(0, run.count, [&](int64_t i, int n) { f(i, n, p, constant); });
  } else if (run.zero) {
    for_vectors<V>(0, run.count, [&](int64_t i, int n) {
      f(i, n, A::make(run, load_part<V>(run.scale + i, n), load_part<V>(run.zero + i, n)),
        constant);
    });
  } else {
    for_vectors<V>(0, run.count, [&](int64_t i, int n) {
      f(i, n, A::make(run, load_part<V>(run.scale + i, n), none), constant);
    });
  }
}
template <class V, class F>
void affine_each(const AffineRun<typename V::Scalar>& run, const F& f) {
  switch (run.how) {
    case AffineScale::multiply:
      return affine_each<V, AffineScale::multiply>(run, f);
    case AffineScale::divide:
      return affine_each<V, AffineScale::divide>(run, f);
    case AffineScale::reciprocal:
      return affine_each<V, AffineScale::reciprocal>(run, f);
  }
}

template <class V, class T = typename V::Scalar>
void affine_quantize(const AffineRun<T>& run, const T* x, int32_t* q) {
  using A = AffineOf<V>;
  affine_each<V>(run, [&](int64_t i, int n, const AffineVector<V>& p, auto how) {
    const auto r = A::template scaled<how.value>(load_part<V>(x + i, n), p);
    const auto whole = V::add(V::to_float(A::whole(r, p)), p.zero);
    affine_store_ints<V>(q + i, V::round(whole), n);
  });
}

template <class V, class T = typename V::Scalar>
void affine_dequantize(const AffineRun<T>& run, const int32_t* q, T* x) {
  using A = AffineOf<V>;
  affine_each<V>(run, [&](int64_t i, int n, const AffineVector<V>& p, auto how) {
    const auto whole = V::sub(V::to_float(affine_load_ints<V>(q + i, n)), p.zero);
    store_part<V>(x + i, A::template back<how.value>(whole, p), n);
  });
}

template <class V, class T = typename V::Scalar>
void affine_fake(const AffineRun<T>& run, const T* x, T* y, bool stream) {
  using A = AffineOf<V>;
  const auto one = [&](int64_t i, int n, const AffineVector<V>& p, auto how) {
    const auto r = A::template scaled<how.value>(load_part<V>(x + i, n), p);
    return A::template back<how.value>(V::to_float(A::whole(r, p)), p);
  };
  const auto plain = [&](int64_t i, int n, const AffineVector<V>& p, auto how) {
    store_part<V>(y + i, one(i, n, p, how), n);
  };
  constexpr int64_t alignment = V::width * sizeof(T);
  const int64_t misaligned = reinterpret_cast<intptr_t>(y) % alignment;
  const int64_t head = misaligned ? (alignment - misaligned) / static_cast<int64_t>(sizeof(T)) : 0;
  if (!stream || head >= run.count || misaligned % sizeof(T) != 0)
    return affine_each<V>(run, plain);
  AffineRun<T> rest = run;
  if (head > 0) {
    rest.count = head;
    affine_each<V>(rest, plain);
    rest.count = run.count - head;
    if (run.per_element) {
      rest.scale += head;
      if (rest.zero) rest.zero += head;
    }
    x += head;
    y += head;
  }
  affine_each<V>(rest, [&](int64_t i, int n, const AffineVector<V>& p, auto how) {
    if (n == V::width)
      V::stream(y + i, one(i, n, p, how));
    else
      V::store_n(y + i, one(i, n, p, how), n);
  });
}

template <class V, class T = typename V::Scalar>
void affine_fake_gradient(const AffineRun<T>& run, const T* g, const T* x, T* gx) {
  using A = AffineOf<V>;
  const auto zero = V::set(0), one = V::set(1);
  affine_each<V>(run, [&](int64_t i, int n, const AffineVector<V>& p, auto how) {
    const auto r = A::template scaled<how.value>(load_part<V>(x + i, n), p);
    // A step beyond the bounds is as good as any.
    const auto near = V::min(V::max(r, V::sub(p.lo, one)), V::add(p.hi, one));
    const auto whole = V::to_float(V::round(near));
    auto y = V::select(V::less(whole, p.lo), zero, load_part<V>(g + i, n));
    y = V::select(V::less(p.hi, whole), zero, y);
    store_part<V>(gx + i, V::select(V::is_nan(r), zero, y), n);
  });
}

template <class V, class T = typename V::Scalar>
void affine_step_gradient(const AffineRun<T>& run, const T* g, const T* x, T* gx, T* gs) {
  using A = AffineOf<V>;
  const auto zero = V::set(0);
  affine_each<V>(run, [&](int64_t i, int n, const AffineVector<V>& p, auto) {
    const auto v = V::div(load_part<V>(x + i, n), p.scale), out = load_part<V>(g + i, n);
    auto slope = V::sub(V::to_float(A::whole(v, p)), v);
    slope = V::select(V::less(p.lo, v), slope, p.lo);
    slope = V::select(V::less(v, p.hi), slope, p.hi);
    const auto nan = V::is_nan(v);
    const auto inside = V::select(V::less(v, p.hi), out, zero);
    store_part<V>(gx + i, V::select(V::less(p.lo, v), inside, zero), n);
    store_part<V>(gs + i, V::select(nan, zero, V::mul(out, slope)), n);
  });
}

// f(i, n, low, high).
template <class V, class F>
void bounds_each(const BoundsRun<typename V::Scalar>& run, const F& f) {
  if (run.per_element)
    return for_vectors<V>(0, run.count, [&](int64_t i, int n) {
      f(i, n, load_part<V>(run.low + i, n), load_part<V>(run.high + i, n));
    });
  const auto low = V::set(*run.low), high = V::set(*run.high);
  for_vectors<V>(0, run.count, [&](int64_t i, int n) { f(i, n, low, high); });
}

template <class V, class T = typename V::Scalar>
void bounds_clip(const BoundsRun<T>& run, const T* x, T* y) {
  bounds_each<V>(run, [&](int64_t i, int n, auto low, auto high) {
    // min and max give their second operand where one is NaN.
    store_part<V>(y + i, V::max(low, V::min(high, load_part<V>(x + i, n))), n);
  });
}

template <class V, class T = typename V::Scalar>
void bounds_inside(const BoundsRun<T>& run, const T* g, const T* x, T* gx) {
  const auto zero = V::set(0);
  bounds_each<V>(run, [&](int64_t i, int n, auto low, auto high) {
    const auto v = load_part<V>(x + i, n);
    auto y = V::select(V::less(v, low), zero, load_part<V>(g + i, n));
    y = V::select(V::less(high, v), zero, y);
    store_part<V>(gx + i, V::select(V::is_nan(v), zero, y), n);
  });
}

template <class V, class T = typename V::Scalar>
void bounds_clip_gradient(const BoundsRun<T>& run, const T* g, const T* x, T* gx, T* gl, T* gh) {
  const auto zero = V::set(0);
  bounds_each<V>(run, [&](int64_t i, int n, auto low, auto high) {
    const auto v = load_part<V>(x + i, n), out = load_part<V>(g + i, n);
    const auto nan = V::is_nan(v), above = V::less(low, v), below = V::less(v, high);
    store_part<V>(gx + i, V::select(above, V::select(below, out, zero), zero), n);
    store_part<V>(gl + i, V::select(nan, zero, V::select(above, zero, out)), n);
    store_part<V>(gh + i, V::select(nan, zero, V::select(below, zero, out)), n);
  });
}

// Half to even among multiples of a power of two, by adding 1.5 * 2^(bits of the fraction) of them.
template <class V>
typename V::F to_e4m3(typename V::F v) {
  const auto clamped = V::max(V::set(-448), V::min(V::set(448), v));
  const auto least = V::set(0x1p-6);  // below it, multiples of 2^-9
  const auto power = V::power_of_two_below(V::max(V::abs(clamped), least));
  constexpr double magic = sizeof(typename V::Scalar) == 4 ? 0x1.8p20 : 0x1.8p49;
  const auto big = V::mul(power, V::set(static_cast<typename V::Scalar>(magic)));
  return V::select(V::is_nan(v), v, V::sub(V::add(clamped, big), big));
}

template <class V, class T = typename V::Scalar>
void fp8_fake(const Fp8Run<T>& run, const T* x, T* y) {
  const auto zero = V::set(0), tiny = V::set(0x1p-24);
  const auto all = V::set(*run.scale);
  for_vectors<V>(0, run.count, [&](int64_t i, int n) {
    const auto scale = run.per_element ? load_part<V>(run.scale + i, n) : all;
    const auto v = load_part<V>(x + i, n);
    const auto r = V::div(to_e4m3<V>(V::mul(v, scale)), scale);
    store_part<V>(y + i, V::select(V::less(V::abs(v), tiny), zero, r), n);
  });
}

template <class V>
constexpr AffineKernels<typename V::Scalar> affine_table{
    affine_quantize<V>,      affine_dequantize<V>,    affine_fake<V>,
    affine_fake_gradient<V>, affine_step_gradient<V>, bounds_clip<V>,
    bounds_inside<V>,        bounds_clip_gradient<V>, fp8_fake<V>,
};

}  // namespace
}  // namespace octavo::cpu
