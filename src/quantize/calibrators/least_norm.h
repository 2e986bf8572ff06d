// The search of Caffe2's norm minimization ("NonlinearQuantizationParamsSearch"), which torch's
// HistogramObserver follows: quantiles are cut off one end after the other, as long as the squared
// error does not grow.
#pragma once
#include <cstdint>
#include <span>

namespace octavo {

struct BinRange {
  int64_t first, last;  // both belong to it
};

// `counts` divide [min, max] evenly; `cumulated` and `total` are their sums as the caller rounds
// them; `levels` integers cover the range. The error is that of values evenly spread over each bin.
// Elements are computed in float32, one rounding each, and summed in float64.
// UserError: no bins, spans of two sizes, min and max out of order or not finite.
BinRange least_norm_range(std::span<const float> counts, std::span<const float> cumulated,
                          double total, double min, double max, int levels);

}  // namespace octavo
