// How far an approximation is from the truth.
#pragma once
#include <cstdint>
#include <span>

#include "graph/tensor.h"

namespace octavo {

// 10 log10(signal / noise), infinite where there is no noise.
double decibels(double signal, double noise);

// Signal to quantization noise ratio over everything added so far, in float64:
// 10 log10(sum y^2 / sum (y - y')^2) dB. Infinite where there is no noise.
class Sqnr {
 public:
  // UserError unless both are f32 of one shape.
  void add(const Tensor& truth, const Tensor& approximation);
  double decibels() const;
  bool empty() const { return count_ == 0; }

 private:
  double signal_ = 0, noise_ = 0;
  int64_t count_ = 0;
};

// Agreement of the largest element along the last axis, and of those rows alone where the truth's
// softmax is above 0.3 there.
class TopAgreement {
 public:
  void add(const Tensor& truth, const Tensor& approximation);
  double fraction() const {
    return rows_ ? static_cast<double>(same_) / static_cast<double>(rows_) : 1;
  }
  double confident_fraction() const {
    return confident_ ? static_cast<double>(confident_same_) / static_cast<double>(confident_) : 1;
  }
  int64_t rows() const { return rows_; }
  int64_t agreeing_rows() const { return same_; }
  int64_t confident_rows() const { return confident_; }

 private:
  int64_t rows_ = 0, same_ = 0, confident_ = 0, confident_same_ = 0;
};

}  // namespace octavo
