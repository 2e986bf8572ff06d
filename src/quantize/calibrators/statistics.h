// What calibration remembers of a tensor: a histogram of fixed size whatever the amount of data.
//
// Bins divide [-limit, limit) evenly; limit is a power of two. Data beyond it double the limit:
// pairs of bins merge, which is exact, so the counts do not depend on the order of the data, on how
// they were split, or on the number of threads. One histogram serves every calibrator.
#pragma once
#include <cstdint>
#include <span>
#include <string>
#include <vector>

namespace octavo {

class HistogramStatistics {
 public:
  static constexpr int bins = 4096;  // over both signs
  // Below it, bins would be too fine for float32's exponent.
  static constexpr double least_limit = 0x1p-100;

  // Counts the values. UserError on NaN or infinity; the statistics are then as before.
  void collect(std::span<const float> values);
  // As if this had seen the other's data too, after its own.
  void merge(const HistogramStatistics& other);

  bool empty() const { return count_ == 0; }
  int64_t count() const { return count_; }
  float min() const { return min_; }
  float max() const { return max_; }
  // Exponential moving averages of each batch's extremes (momentum 0.9, as torch's observers with
  // averaging_constant 0.1); merging weighs both sides by their batches.
  double average_min() const { return average_min_; }
  double average_max() const { return average_max_; }
  double limit() const { return limit_; }
  double bin_width() const { return 2 * limit_ / bins; }
  // Lower edge of bin i.
  double edge(int i) const { return -limit_ + bin_width() * i; }
  std::span<const int64_t> counts() const { return counts_; }

  // Bytes that any machine reads back; UserError (file) on damaged ones.
  std::string serialize() const;
  static HistogramStatistics deserialize(const std::string& bytes, const std::string& where);

  friend bool operator==(const HistogramStatistics&, const HistogramStatistics&) = default;

 private:
  void raise_limit(double amax);
  double limit_ = 0;  // 0: no value but zeros yet, all in the bin of zero
  int64_t count_ = 0, batches_ = 0;
  float min_ = 0, max_ = 0;
  double average_min_ = 0, average_max_ = 0;
  std::vector<int64_t> counts_ = std::vector<int64_t>(bins, 0);
};

}  // namespace octavo
