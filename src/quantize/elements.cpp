#include "quantize/elements.h"

#include <xmmintrin.h>

#include <atomic>

#include "graph/element.h"
#include "support/error.h"

namespace octavo {
namespace {

constexpr int64_t most_run = ParameterWalk<float>::most_run;
// Outputs from this size on are written past the caches, which they would only sweep.
constexpr int64_t stream_bytes = 8 << 20;

// Calls f with the element type: one of those that are computed in T.
template <class T, class F>
void with_float(DType dtype, const F& f) {
  if (dtype == dtype_of<T>()) return f(T{});
  if constexpr (std::is_same_v<T, float>) {
    if (dtype == DType::f16) return f(Half{});
    if (dtype == DType::bf16) return f(BFloat16{});
  }
  throw InternalError(fmt::format("{} elements here", dtype_name(dtype)));
}

// A run of elements of S as T's: the memory itself, or a copy.
template <class T, class S>
struct Run {
  T part[most_run];
  const T* read(const void* data, int64_t begin, int64_t count) {
    const S* from = static_cast<const S*>(data) + begin;
    int64_t i = 0;
    do part[i] = load_element(from[i]);  // runs are not empty
    while (++i < count);
    return part;
  }
  T* place(void*, int64_t) { return part; }
  void write(void* data, int64_t begin, int64_t count) const {
    S* to = static_cast<S*>(data) + begin;
    for (int64_t i = 0; i < count; ++i) to[i] = store_element<S>(part[i]);
  }
};
template <class T>
struct Run<T, T> {
  const T* read(const void* data, int64_t begin, int64_t) {
    return static_cast<const T*>(data) + begin;
  }
  T* place(void* data, int64_t begin) { return static_cast<T*>(data) + begin; }
  void write(void*, int64_t, int64_t) const {}
};
template <class T, class S>
constexpr int64_t longest = std::is_same_v<T, S> ? INT64_MAX / 2 : most_run;

template <class T>
cpu::AffineRun<T> run_of(const AffineElements<T>& how, int64_t count, bool per_element,
                         const T* scale, const T* zero) {
  return {count, how.how, per_element, how.least, how.most, scale, zero};
}

// Sums of up to two terms by parameter: blocks of the elements have partial sums, added in order.
template <class T, class F>
void sum_blocks(const ParameterWalk<T>& walk, const Spread& spread, double* first, double* second,
                const F& f) {
  const int64_t size = spread.size(), parameters = spread.parameter_count();
  const int64_t blocks = std::clamp<int64_t>(size / ParameterWalk<T>::grain, 1, 16);
  const int64_t block = (size + blocks - 1) / blocks;
  const int sums = second ? 2 : 1;
  std::vector<double> partial(static_cast<size_t>(blocks * sums * parameters));
  auto task = [&](int64_t b, int) {
    double* const mine = partial.data() + b * sums * parameters;
    walk.range(b * block, std::min(size, (b + 1) * block), most_run,
               [&](int64_t begin, int64_t count, bool per_element, const T* p, const T* q) {
                 T terms[2][most_run];
                 f(begin, count, per_element, p, q, terms[0], terms[1]);
                 for (int k = 0; k < sums; ++k) {
                   double* const to = mine + k * parameters;
                   if (!per_element) {
                     double sum = 0;
                     for (int64_t i = 0; i < count; ++i) sum += static_cast<double>(terms[k][i]);
                     to[walk.parameter(begin)] += sum;
                   } else {
                     for (int64_t i = 0; i < count; ++i)
                       to[walk.parameter(begin + i)] += static_cast<double>(terms[k][i]);
                   }
                 }
               });
  };
  default_pool().run(blocks, task);
  for (int k = 0; k < sums; ++k) {
    double* const to = k == 0 ? first : second;
    std::fill_n(to, parameters, 0.0);
    for (int64_t b = 0; b < blocks; ++b)
      for (int64_t i = 0; i < parameters; ++i) to[i] += partial[(b * sums + k) * parameters + i];
  }
}

template <class F>
void with_integer(DType dtype, const F& f) {
  switch (dtype) {
    case DType::i8:
      return f(int8_t{});
    case DType::u8:
      return f(uint8_t{});
    case DType::i16:
      return f(int16_t{});
    case DType::u16:
      return f(uint16_t{});
    default:
      throw InternalError(fmt::format("{} integers here", dtype_name(dtype)));
  }
}

template <class S>
bool below_zero(const S* x, int64_t count) {
  bool found = false;
  for (int64_t i = 0; i < count; ++i) found |= load_element(x[i]) < 0;
  return found;
}

}  // namespace

cpu::AffineScale affine_scale(Arithmetic arithmetic, bool symmetric) {
  if (arithmetic == Arithmetic::torch) return cpu::AffineScale::reciprocal;
  return arithmetic == Arithmetic::nvidia && symmetric ? cpu::AffineScale::multiply
                                                       : cpu::AffineScale::divide;
}

template <class T>
void quantize_elements(const AffineElements<T>& how, Source x, Target q) {
  const auto& kernels = cpu::affine_kernels<T>();
  const ParameterWalk<T> walk(how.spread, how.scale, how.zero);
  with_float<T>(x.dtype, [&](auto source) {
    const auto to = [&](auto target) {
      walk.run(most_run,
               [&](int64_t begin, int64_t count, bool per_element, const T* s, const T* z) {
                 Run<T, decltype(source)> part;
                 int32_t whole[most_run];
                 kernels.quantize(run_of(how, count, per_element, s, z),
                                  part.read(x.data, begin, count), whole);
                 auto* const out = static_cast<decltype(target)*>(q.data) + begin;
                 for (int64_t i = 0; i < count; ++i) {
                   if constexpr (is_float_element<decltype(target)>)
                     out[i] = store_element<decltype(target)>(static_cast<T>(whole[i]));
                   else
                     out[i] = static_cast<decltype(target)>(whole[i]);
                 }
               });
    };
    if (is_float(q.dtype))
      with_float<T>(q.dtype, to);
    else
      with_integer(q.dtype, to);
  });
}

template <class T>
void dequantize_elements(const AffineElements<T>& how, Source q, Target x) {
  const auto& kernels = cpu::affine_kernels<T>();
  const ParameterWalk<T> walk(how.spread, how.scale, how.zero);
  with_integer(q.dtype, [&](auto source) {
    with_float<T>(x.dtype, [&](auto target) {
      using S = decltype(target);
      walk.run(most_run,
               [&](int64_t begin, int64_t count, bool per_element, const T* s, const T* z) {
                 Run<T, S> part;
                 int32_t whole[most_run];
                 const auto* const from = static_cast<const decltype(source)*>(q.data) + begin;
                 for (int64_t i = 0; i < count; ++i) whole[i] = from[i];
                 T* const out = part.place(x.data, begin);
                 kernels.dequantize(run_of(how, count, per_element, s, z), whole, out);
                 part.write(x.data, begin, count);
               });
    });
  });
}

template <class T>
bool fake_quantize_elements(const AffineElements<T>& how, Source x, Target y,
                            bool refuse_negative) {
  const auto& kernels = cpu::affine_kernels<T>();
  const ParameterWalk<T> walk(how.spread, how.scale, how.zero);
  std::atomic<bool> refused = false;
  with_float<T>(x.dtype, [&](auto stored) {
    using S = decltype(stored);
    const bool stream =
        x.data != y.data && how.spread.size() >= stream_bytes / static_cast<int64_t>(sizeof(S));
    const int64_t most = refuse_negative ? most_run : longest<T, S>;
    const auto runs = [&](int64_t begin, int64_t count, bool per_element, const T* s, const T* z) {
      if (refuse_negative && below_zero(static_cast<const S*>(x.data) + begin, count))
        refused.store(true, std::memory_order_relaxed);
      Run<T, S> part;
      T* const out = part.place(y.data, begin);
      kernels.fake(run_of(how, count, per_element, s, z), part.read(x.data, begin, count), out,
                   stream && std::is_same_v<T, S>);
      part.write(y.data, begin, count);
    };
    walk.run(most, runs, [&] {
      if (stream) _mm_sfence();
    });
  });
  return !refused;
}

bool any_negative(Source x, int64_t count) {
  std::atomic<bool> found = false;
  const auto look = [&](auto stored) {
    auto task = [&](int64_t i, int) {
      constexpr int64_t grain = 65536;
      if (below_zero(static_cast<const decltype(stored)*>(x.data) + i * grain,
                     std::min(grain, count - i * grain)))
        found.store(true, std::memory_order_relaxed);
    };
    default_pool().run((count + 65535) / 65536, task);
  };
  if (x.dtype == DType::f64)
    with_float<double>(x.dtype, look);
  else
    with_float<float>(x.dtype, look);
  return found;
}

template <class T>
void fake_quantize_gradient(const AffineElements<T>& how, Source g, Source x, Target gx) {
  const auto& kernels = cpu::affine_kernels<T>();
  const ParameterWalk<T> walk(how.spread, how.scale, how.zero);
  with_float<T>(x.dtype, [&](auto stored) {
    using S = decltype(stored);
    walk.run(longest<T, S>, [&](int64_t begin, int64_t count, bool per_element, const T* s,
                                const T* z) {
      Run<T, S> part, other;
      T* const out = part.place(gx.data, begin);
      kernels.fake_gradient(run_of(how, count, per_element, s, z), part.read(g.data, begin, count),
                            other.read(x.data, begin, count), out);
      part.write(gx.data, begin, count);
    });
  });
}

template <class T>
void step_gradient(const AffineElements<T>& how, Source g, Source x, Target gx, double* gs) {
  const auto& kernels = cpu::affine_kernels<T>();
  const ParameterWalk<T> walk(how.spread, how.scale, how.zero);
  with_float<T>(x.dtype, [&](auto stored) {
    using S = decltype(stored);
    sum_blocks(
        walk, how.spread, gs, nullptr,
        [&](int64_t begin, int64_t count, bool per_element, const T* s, const T* z, T* terms, T*) {
          Run<T, S> part, other;
          T* const out = part.place(gx.data, begin);
          kernels.step_gradient(run_of(how, count, per_element, s, z),
                                part.read(g.data, begin, count), other.read(x.data, begin, count),
                                out, terms);
          part.write(gx.data, begin, count);
        });
  });
}

template <class T>
void clip_elements(const BoundsElements<T>& how, Source x, Target y) {
  const auto& kernels = cpu::affine_kernels<T>();
  const ParameterWalk<T> walk(how.spread, how.low, how.high);
  with_float<T>(x.dtype, [&](auto stored) {
    using S = decltype(stored);
    walk.run(longest<T, S>,
             [&](int64_t begin, int64_t count, bool per_element, const T* low, const T* high) {
               Run<T, S> part;
               T* const out = part.place(y.data, begin);
               kernels.clip({count, per_element, low, high}, part.read(x.data, begin, count), out);
               part.write(y.data, begin, count);
             });
  });
}

template <class T>
void inside_gradient(const BoundsElements<T>& how, Source g, Source x, Target gx) {
  const auto& kernels = cpu::affine_kernels<T>();
  const ParameterWalk<T> walk(how.spread, how.low, how.high);
  with_float<T>(x.dtype, [&](auto stored) {
    using S = decltype(stored);
    walk.run(longest<T, S>,
             [&](int64_t begin, int64_t count, bool per_element, const T* low, const T* high) {
               Run<T, S> part, other;
               T* const out = part.place(gx.data, begin);
               kernels.inside({count, per_element, low, high}, part.read(g.data, begin, count),
                              other.read(x.data, begin, count), out);
               part.write(gx.data, begin, count);
             });
  });
}

template <class T>
void clip_gradient(const BoundsElements<T>& how, Source g, Source x, Target gx, double* gl,
                   double* gh) {
  const auto& kernels = cpu::affine_kernels<T>();
  const ParameterWalk<T> walk(how.spread, how.low, how.high);
  with_float<T>(x.dtype, [&](auto stored) {
    using S = decltype(stored);
    sum_blocks(walk, how.spread, gl, gh,
               [&](int64_t begin, int64_t count, bool per_element, const T* low, const T* high,
                   T* below, T* above) {
                 Run<T, S> part, other;
                 T* const out = part.place(gx.data, begin);
                 kernels.clip_gradient({count, per_element, low, high},
                                       part.read(g.data, begin, count),
                                       other.read(x.data, begin, count), out, below, above);
                 part.write(gx.data, begin, count);
               });
  });
}

template <class T>
void fp8_elements(const T* scale, const Spread& spread, Source x, Target y) {
  const auto& kernels = cpu::affine_kernels<T>();
  const ParameterWalk<T> walk(spread, scale, nullptr);
  with_float<T>(x.dtype, [&](auto stored) {
    using S = decltype(stored);
    walk.run(longest<T, S>,
             [&](int64_t begin, int64_t count, bool per_element, const T* s, const T*) {
               Run<T, S> part;
               T* const out = part.place(y.data, begin);
               kernels.fp8({count, per_element, s}, part.read(x.data, begin, count), out);
               part.write(y.data, begin, count);
             });
  });
}

#define OCTAVO_ELEMENTS(T)                                                                         \
  template void quantize_elements(const AffineElements<T>&, Source, Target);                       \
  template void dequantize_elements(const AffineElements<T>&, Source, Target);                     \
  template bool fake_quantize_elements(const AffineElements<T>&, Source, Target, bool);            \
  template void fake_quantize_gradient(const AffineElements<T>&, Source, Source, Target);          \
  template void step_gradient(const AffineElements<T>&, Source, Source, Target, double*);          \
  template void clip_elements(const BoundsElements<T>&, Source, Target);                           \
  template void inside_gradient(const BoundsElements<T>&, Source, Source, Target);                 \
  template void clip_gradient(const BoundsElements<T>&, Source, Source, Target, double*, double*); \
  template void fp8_elements(const T*, const Spread&, Source, Target);
OCTAVO_ELEMENTS(float)
OCTAVO_ELEMENTS(double)
#undef OCTAVO_ELEMENTS

}  // namespace octavo
