// Histogram of magnitudes, and the choices of an absolute maximum from it, as pytorch-quantization
// makes them; octavo.compat stands on it. Octavo's own calibrators use HistogramStatistics, which
// knows both signs and merges.
//
// The first data that are not all zero fix the width of a bin: their maximum / bins. Larger values
// append bins of that width, as the peer does, up to `growth` times as many; beyond that, pairs of
// bins merge and the width doubles, so memory does not grow with the data (the peer's does).
#pragma once
#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "backends/cpu/histogram.h"

namespace octavo {

class MagnitudeHistogram {
 public:
  static constexpr int growth = 8;
  static constexpr int most_bins = 1 << 18;

  // UserError unless 1 <= bins <= most_bins.
  explicit MagnitudeHistogram(int bins = 2048);

  // Counts |value|, but for exact zeros if skip_zeros. In bin floor(|v| * n / last edge), each step
  // rounded to float32, which is torch.histc's; the last edge belongs to the last bin. UserError on
  // NaN or infinity; the histogram is then as before.
  //
  // top < 1 says that only a choice among the largest `top` of the magnitudes will be asked for.
  // Of large arrays bins below those are then filled in from a sample of one value in 128, scaled
  // to the number of values that they share: it costs little more than to read the data. Bins from
  // exact_from() on, and total(), hold exact counts all the same.
  void collect(std::span<const float> values, bool skip_zeros = false, double top = 1);

  bool empty() const { return total_ == 0; }
  int64_t total() const { return total_; }
  std::span<const int64_t> counts() const { return counts_; }
  float last_edge() const { return last_; }
  // The first bin from which on all counts are exact; 0 if `top` was never below 1.
  int64_t exact_from() const { return exact_from_; }
  // counts().size() + 1 of them, all 0 if only zeros were seen. torch.linspace's until bins are
  // appended, multiples of the width then.
  std::vector<float> edges() const;

  // Bytes that any little-endian machine reads back; UserError (file) on damaged ones.
  std::string serialize() const;
  static MagnitudeHistogram deserialize(const std::string& bytes, const std::string& where);

  friend bool operator==(const MagnitudeHistogram&, const MagnitudeHistogram&) = default;

 private:
  void reach(float most);
  cpu::MagnitudeBins bins() const;
  // False, and nothing counted, where a value is NaN or beyond the last edge.
  bool count(std::span<const float> values);
  // UserError where a value is not finite.
  void reach_extremes(std::span<const float> values);
  // The first of the bins that hold the largest `top` of what was counted, or of the values where
  // that is little.
  int64_t first_of_top(double top, std::span<const float> values) const;
  // Counts what is in bins from `first` on, and fills in the others from a sample.
  void collect_top(std::span<const float> values, int64_t first);

  int bins_;         // as constructed
  float last_ = 0;   // 0: nothing but zeros yet, all in bin 0
  float width_ = 0;  // of a bin
  bool appended_ = false;
  int64_t exact_from_ = 0;
  int64_t total_ = 0;
  std::vector<int64_t> counts_;
};

// What follows takes a histogram that is not empty (UserError else). `bits` and `is_unsigned` say
// how many positive integers there are: 2^(bits - 1 + unsigned) - 1. Candidates are every
// `stride`-th from `start_bin` on; UserError if either is below 1 or there is no candidate, or bits
// are outside 2 to 16. Data of nothing but zeros give 0.

// The edge at the last of the least Kullback-Leibler divergences. Bin 0 counts as often as bin 1.
//   P: the first i bins, what lies beyond added to the last of them
//   Q: those bins cut into 2^(bits - 1 + unsigned) levels of equal width, each level's mass spread
//      evenly over its occupied bins
float entropy_amax(const MagnitudeHistogram& histogram, int bits, bool is_unsigned, int stride,
                   int start_bin);
// The bin's centre at the first of the least mean squared errors of the centres, quantized with
// that centre as the absolute maximum.
float mse_amax(const MagnitudeHistogram& histogram, int bits, bool is_unsigned, int stride,
               int start_bin);
// The same for FP8 E4M3, scaled so that the absolute maximum is 448.
float mse_amax_e4m3(const MagnitudeHistogram& histogram, int stride, int start_bin);
// The lower edge of the first bin at which the share counted so far reaches percent / 100.
float percentile_amax(const MagnitudeHistogram& histogram, double percent);

}  // namespace octavo
