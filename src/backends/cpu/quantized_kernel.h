// quantized.h over a `Vec` of vec_*.h, which must come first.
#pragma once
#include "backends/cpu/elementwise_kernel.h"
#include "backends/cpu/parallel.h"
#include "backends/cpu/quantized.h"

namespace octavo::cpu {
namespace {  // NOLINT(google-build-namespaces)

// u8 or s8 as int32; s8 by x ^ 0x80 = x + 128, with the zero point moved too.
class ByteLoader {
 public:
  ByteLoader(Element element, int32_t zero_point)
      : flip_(Vec::set_int(element == Element::s8 ? 0x80 : 0)),
        zero_(zero_point + (element == Element::s8 ? 128 : 0)) {}
  int32_t flipped_zero() const { return zero_; }
  Vec::I flipped(const uint8_t* p, int n) const {
    return Vec::xor_int(n == Vec::width ? Vec::load_u8(p) : Vec::load_u8_n(p, n), flip_);
  }
  // x - zero_point.
  Vec::I centred(const void* p, int64_t at, int n) const {
    return Vec::sub_int(flipped(static_cast<const uint8_t*>(p) + at, n), Vec::set_int(zero_));
  }

 private:
  Vec::I flip_;
  int32_t zero_;
};

struct ByteRange {
  int32_t least, most;
};
inline ByteRange range_of(Element e) {
  return e == Element::u8 ? ByteRange{0, 255} : ByteRange{-128, 127};
}

inline void store_bytes_part(void* p, int64_t at, Vec::I v, int n) {
  uint8_t* to = static_cast<uint8_t*>(p) + at;
  if (n == Vec::width)
    Vec::store_byte(to, v);
  else
    Vec::store_byte_n(to, v, n);
}

// clamp, round, saturate, store. Saturation is one more clamp, to integers, so it commutes with
// rounding and joins the first.
class Finish {
 public:
  Finish(float lo, float hi, Element element, int32_t zero_point)
      : floats_(element == Element::f32), zero_(Vec::set_int(zero_point)) {
    clamps_ = lo > -__builtin_inff() || hi < __builtin_inff();
    if (!floats_) {
      const auto least = static_cast<float>(range_of(element).least - zero_point);
      const auto most = static_cast<float>(range_of(element).most - zero_point);
      lo = lo > least ? (lo < most ? lo : most) : least;
      hi = hi > least ? (hi < most ? hi : most) : least;
    }
    lo_ = Vec::set(lo);
    hi_ = Vec::set(hi);
  }
  void store(void* y, int64_t at, VecF f, int n) const {
    if (floats_)  // without bounds NaN stays
      return store_part(static_cast<float*>(y) + at, clamps_ ? Vec::min(Vec::max(f, lo_), hi_) : f,
                        n);
    f = Vec::min(Vec::max(f, lo_), hi_);
    store_bytes_part(y, at, Vec::add_int(Vec::round(f), zero_), n);
  }

 private:
  bool floats_, clamps_;
  VecF lo_, hi_;
  Vec::I zero_;
};

void quantized_add(const QuantizedBinary& args, ThreadPool& pool) {
  const ByteLoader a(args.a_element, args.a_zero_point), b(args.b_element, args.b_zero_point);
  const Finish finish(args.clamp_lo, args.clamp_hi, args.y_element, args.y_zero_point);
  const VecF ma = Vec::set(args.a_multiplier), mb = Vec::set(args.b_multiplier);
  parallel_chunks(pool, args.count, elementwise_grain, [&](int64_t begin, int64_t end) {
    for_vectors(begin, end, [&](int64_t i, int n) {
      const VecF fa = Vec::mul(Vec::to_float(a.centred(args.a, i, n)), ma);
      const VecF fb = Vec::mul(Vec::to_float(b.centred(args.b, i, n)), mb);
      finish.store(args.y, i, Vec::add(fa, fb), n);
    });
  });
}

void quantized_mul(const QuantizedBinary& args, ThreadPool& pool) {
  const ByteLoader a(args.a_element, args.a_zero_point), b(args.b_element, args.b_zero_point);
  const Finish finish(args.clamp_lo, args.clamp_hi, args.y_element, args.y_zero_point);
  const VecF m = Vec::set(args.a_multiplier);
  parallel_chunks(pool, args.count, elementwise_grain, [&](int64_t begin, int64_t end) {
    for_vectors(begin, end, [&](int64_t i, int n) {
      // The product of the floats is exact: below 2^24.
      const VecF product =
          Vec::mul(Vec::to_float(a.centred(args.a, i, n)), Vec::to_float(b.centred(args.b, i, n)));
      finish.store(args.y, i, Vec::mul(product, m), n);
    });
  });
}

// round(x / step) + zero as int32 in range; lo and hi are the range less zero. `reciprocal`: step
// is 1 / step.
inline Vec::I quantize_vector(VecF x, VecF step, Vec::I zero, VecF lo, VecF hi,
                              bool reciprocal = false) {
  VecF r = reciprocal ? Vec::mul(x, step) : Vec::div(x, step);
  r = Vec::select(Vec::is_nan(r), Vec::set(0), r);
  return Vec::add_int(Vec::round(Vec::min(Vec::max(r, lo), hi)), zero);
}

// Steps and zero points of channels [c, c + n), or the one of all.
struct Steps {
  VecF step;
  Vec::I zero;
};
inline Steps load_steps(const float* step, const int32_t* zero, int64_t c, int n) {
  // Zero points by way of float bits: the same masked load.
  alignas(64) int32_t zeros[Vec::width] = {};
  __builtin_memcpy(zeros, zero + c, static_cast<size_t>(n) * sizeof *zeros);
  return {n == Vec::width ? Vec::load(step + c) : Vec::load_n(step + c, n), Vec::load_int(zeros)};
}

void quantize(const Quantize& args, ThreadPool& pool) {
  const ByteRange range = range_of(args.element);
  const VecF least = Vec::set(static_cast<float>(range.least));
  const VecF most = Vec::set(static_cast<float>(range.most));
  if (!args.per_channel) {
    const bool reciprocal = args.reciprocal;
    const VecF step =
        reciprocal ? Vec::div(Vec::set(1), Vec::set(*args.step)) : Vec::set(*args.step);
    const Vec::I zero = Vec::set_int(*args.zero_point);
    const VecF lo = Vec::sub(least, Vec::to_float(zero)), hi = Vec::sub(most, Vec::to_float(zero));
    return parallel_chunks(
        pool, args.rows * args.channels, elementwise_grain, [&](int64_t begin, int64_t end) {
          for_vectors(begin, end, [&](int64_t i, int n) {
            store_bytes_part(
                args.q, i,
                quantize_vector(load_part(args.x + i, n), step, zero, lo, hi, reciprocal), n);
          });
        });
  }
  parallel_rows(pool, args.rows, args.channels, elementwise_grain,
                [&](int64_t row, int64_t begin, int64_t end) {
                  for_vectors(begin, end, [&](int64_t c, int n) {
                    const Steps s = load_steps(args.step, args.zero_point, c, n);
                    const VecF zero = Vec::to_float(s.zero);
                    const int64_t i = row * args.channels + c;
                    store_bytes_part(args.q, i,
                                     quantize_vector(load_part(args.x + i, n), s.step, s.zero,
                                                     Vec::sub(least, zero), Vec::sub(most, zero)),
                                     n);
                  });
                });
}

void dequantize(const Dequantize& args, ThreadPool& pool) {
  if (!args.per_channel) {
    const ByteLoader q(args.element, *args.zero_point);
    const VecF step = Vec::set(*args.step);
    return parallel_chunks(
        pool, args.rows * args.channels, elementwise_grain, [&](int64_t begin, int64_t end) {
          for_vectors(begin, end, [&](int64_t i, int n) {
            store_part(args.x + i, Vec::mul(Vec::to_float(q.centred(args.q, i, n)), step), n);
          });
        });
  }
  const ByteLoader q(args.element, 0);
  parallel_rows(pool, args.rows, args.channels, elementwise_grain,
                [&](int64_t row, int64_t begin, int64_t end) {
                  for_vectors(begin, end, [&](int64_t c, int n) {
                    const Steps s = load_steps(args.step, args.zero_point, c, n);
                    const int64_t i = row * args.channels + c;
                    const Vec::I v = Vec::sub_int(q.centred(args.q, i, n), s.zero);
                    store_part(args.x + i, Vec::mul(Vec::to_float(v), s.step), n);
                  });
                });
}

void quantize_to_nhwc(const QuantizeToNhwc& args, ThreadPool& pool) {
  const ByteRange range = range_of(args.element);
  const VecF step = Vec::set(args.step);
  const Vec::I zero = Vec::set_int(args.zero_point);
  const VecF lo = Vec::set(static_cast<float>(range.least - args.zero_point));
  const VecF hi = Vec::set(static_cast<float>(range.most - args.zero_point));
  parallel_rows(pool, args.n, args.pixels, 4096, [&](int64_t n, int64_t begin, int64_t end) {
    const float* x = args.x + n * args.channels * args.pixels;
    uint8_t* q = static_cast<uint8_t*>(args.q) + n * args.channels * args.pixels;
    // Four channels at a time, one int32 a pixel. Where there are fewer, the next pixel's store
    // overwrites what is beyond, and the last pixels are stored byte by byte.
    for (int64_t c = 0; c < args.channels; c += 4) {
      const int64_t left = args.channels - c, channels = left < 4 ? left : 4;
      for_vectors(begin, end, [&](int64_t pixel, int count) {
        alignas(64) int32_t bytes[4][Vec::width];
        alignas(64) uint8_t packed[Vec::width][4];
        for (int64_t i = 0; i < channels; ++i)
          Vec::store_int(bytes[i],
                         quantize_vector(load_part(x + (c + i) * args.pixels + pixel, count), step,
                                         zero, lo, hi));
        for (int64_t i = channels; i < 4; ++i) Vec::store_int(bytes[i], Vec::set_int(0));
        for (int p = 0; p < Vec::width; ++p) {
          const uint32_t four = (static_cast<uint32_t>(bytes[0][p]) & 255) |
                                (static_cast<uint32_t>(bytes[1][p]) & 255) << 8 |
                                (static_cast<uint32_t>(bytes[2][p]) & 255) << 16 |
                                static_cast<uint32_t>(bytes[3][p]) << 24;
          __builtin_memcpy(packed[p], &four, 4);
        }
        uint8_t* to = q + pixel * args.channels + c;
        uint8_t* const end_of_pixels = q + (pixel + count) * args.channels;
        for (int p = 0; p < count; ++p, to += args.channels)
          if (channels == 4 || (args.channels < 4 && to + 4 <= end_of_pixels))
            __builtin_memcpy(to, packed[p], 4);
          else
            for (int64_t i = 0; i < channels; ++i) to[i] = packed[p][i];
      });
    }
  });
}

}  // namespace
}  // namespace octavo::cpu
