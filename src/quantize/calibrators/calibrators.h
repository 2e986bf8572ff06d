// Calibrators: from the statistics of a tensor to the range that its integers cover. Each stands in
// a file of its own and in the list below.
#pragma once
#include <span>
#include <string>

#include "quantize/calibrators/statistics.h"

namespace octavo {

// What of the real line is represented; contains 0.
struct Range {
  double min = 0, max = 0;
};

struct Calibrator {
  const char* name;
  const char* summary;
  // `levels` is the number of integers, 256 for 8 bits.
  Range (*choose)(const HistogramStatistics& statistics, int levels);
};

std::span<const Calibrator> calibrators();
// UserError naming the known ones.
const Calibrator& find_calibrator(const std::string& name);
// "max, moving_average, …" for help texts.
std::string calibrator_names();

Range choose_max(const HistogramStatistics& statistics, int levels);
Range choose_moving_average(const HistogramStatistics& statistics, int levels);
// Leaves out 0.005% of the values at each end (99.99% in all).
Range choose_percentile(const HistogramStatistics& statistics, int levels);
// Least Kullback-Leibler divergence between the data and their quantized form (Migacz, "8-bit
// Inference with TensorRT", GTC 2017), here for both ends of an affine range, cut into `levels`:
//   P: the histogram's bins inside, what lies beyond either end added to the bin at that end
//   Q: the bins inside, each level's mass spread evenly over the bins it occupies
//   cost = sum p log(p / q), p and q normalised
// Spikes are left out of P and Q inside: the integers hold zero exactly, and the data's extremes
// too while the range reaches them, yet spreading the spike of a ReLU6 over a level would cost
// mass * log(bins of a level), more than clipping two thirds of the range. The spike's bin takes
// its neighbour's count if that is less (Migacz's successors copy bin 1 into bin 0); a spike at an
// extreme counts as beyond the end when it is clipped. docs/decisions/0003 has the evidence.
// A range of fewer bins than levels is not tried; data that span no more give `max`.
Range choose_entropy(const HistogramStatistics& statistics, int levels);
// Least mean squared error, clipping and rounding together, over both ends.
Range choose_mse(const HistogramStatistics& statistics, int levels);

}  // namespace octavo
