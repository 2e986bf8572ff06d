// A layer y = x w^T + bias with weights in INT8, packed once, for any number of rows; activations'
// scale and zero point are known at the call only (conv.h's kernels know them when they are made).
//
// Arithmetic, each line one float32 rounding (m[c] from float64):
//   acc = sum (x - x_zero_point) * (w - w_zero_point)        int32, wrap-around
//   f   = (float)acc * m[c],  m[c] = x_step * w_step[c] / y_step
// float outputs:
//   y   = clamp(f + bias[c])
// bytes, with b[c] = round_half_even(bias / (x_step * w_step[c])) inside acc where every |b| <
// 2^30, else f + bias[c] / y_step:
//   y   = saturate(round_half_even(clamp(f)) + y_zero_point)
#pragma once
#include <limits>
#include <mutex>
#include <vector>

#include "backends/cpu/conv_int8.h"

namespace octavo::cpu {

struct LinearInt8Weights {
  int64_t k = 1, n = 1;
  const int8_t* weights = nullptr;      // [n, k]
  const float* step = nullptr;          // [n]
  const int32_t* zero_point = nullptr;  // [n] or none
  const float* bias = nullptr;          // [n] or none
};

struct LinearInt8Output {
  Element element = Element::f32;
  float step = 1;
  int32_t zero_point = 0;
  // In units of y, not of steps.
  float clamp_lo = -std::numeric_limits<float>::infinity();
  float clamp_hi = std::numeric_limits<float>::infinity();
  void* y = nullptr;  // [rows, n]
};

class LinearInt8 {
 public:
  // Packs. Zero points outside s8 are an InternalError.
  explicit LinearInt8(const LinearInt8Weights& weights, Isa isa = best_isa());

  int64_t k() const { return k_; }
  int64_t n() const { return n_; }
  // x: u8 or s8 [rows, k].
  void run(int64_t rows, const void* x, Element x_element, float x_step, int32_t x_zero_point,
           const LinearInt8Output& out, ThreadPool& pool) const;
  // x: f32 [rows, k], quantized to u8 by its extremes: step = (max - min) / 255 of a range that
  // holds 0, 1 where that is 0; the `torch` arithmetic of quantize/arithmetic.h. False if x holds
  // NaN or infinity: y is not written then.
  bool run_dynamic(int64_t rows, const float* x, const LinearInt8Output& out,
                   ThreadPool& pool) const;

  // run_dynamic in two parts: rows that share a step, and the products of some of them. Memory is
  // taken once, for calls of no more rows.
  struct DynamicRows {
    float step = 1;
    int32_t zero_point = 0;
    AlignedArray<uint8_t> bytes;  // [rows][k, in whole fours]
    AlignedArray<float> multiplier;
    AlignedArray<int32_t> bias;
  };
  bool quantize_rows(int64_t rows, const float* x, DynamicRows& to, ThreadPool& pool) const;
  // f32 outputs of step 1.
  void multiply_rows(int64_t first, int64_t rows, const DynamicRows& x, const LinearInt8Output& out,
                     ThreadPool& pool) const;

 private:
  // What a call's parameters make of the layer's.
  struct Prepared {
    float x_step;
    int32_t x_zero_point;
    LinearInt8Output out;
    Int8Epilogue epilogue;
    bool float_bias;
    AlignedArray<float> multiplier, bias_f32;
    AlignedArray<int32_t> bias;
  };
  std::shared_ptr<const Prepared> prepared(float x_step, int32_t x_zero_point,
                                           const LinearInt8Output& out) const;
  void prepare_bytes(Prepared& p) const;
  // Rows of padded bytes that kernels may read; what belongs to each channel, residual or none.
  struct Product {
    int64_t rows;
    const uint8_t* x;
    int64_t pitch;
    const float* multiplier;
    const int32_t* bias;
    const float* residual;  // the same row for each
    const Int8Epilogue* epilogue;
    void* y;
    int64_t y_size;
  };
  void multiply(const Product& product, ThreadPool& pool) const;
  void multiply(int64_t rows, const uint8_t* x, int64_t pitch, float x_step, int32_t x_zero_point,
                const LinearInt8Output& out, ThreadPool& pool) const;

  struct Panel {
    int64_t channel, weights;
    int blocks, channels;
  };
  int64_t k_, n_, k4_;
  // Weights less a zero point take 9 bits: they are packed as 2 or 3 parts over the same x.
  int64_t segment_at_[3] = {0, 0, 0};
  int64_t segments_ = 1;
  GemmInt8Function function_;
  std::vector<Panel> panels_;
  AlignedArray<int8_t> weights_;
  AlignedArray<float> step_, bias_;
  AlignedArray<int32_t> sum_;     // of w - w_zero_point, a channel
  AlignedArray<double> abs_sum_;  // of what is packed
  bool has_bias_;
  // Of the last call for bytes: a network's layer is called with the same every time.
  mutable std::mutex mutex_;
  mutable std::shared_ptr<const Prepared> last_;
};

}  // namespace octavo::cpu
