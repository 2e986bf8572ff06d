// What calibration asks of every value: extremes, and counts of a histogram.
#pragma once
#include <cstdint>

namespace octavo::cpu {

constexpr int histogram_bins = 4096;  // over both signs
// Tables that take turns, so that equal neighbours do not wait for each other's stores.
constexpr int histogram_tables = 4;
constexpr int64_t histogram_chunk = 1 << 15;  // values that a uint16_t counts

struct Extremes {
  float min = 0, max = 0;
  bool finite = true;  // false: min and max say nothing
};

// Where a magnitude is counted: bin floor(|v| * factor * bins / divisor), each step rounded to
// float32, but for the last edge, which belongs to the last bin. factor is a power of two.
struct MagnitudeBins {
  int bins;  // 1 to most_magnitude_bins
  float factor, divisor;
};
constexpr int most_magnitude_bins = 1 << 21;
// Values that the tables of count_magnitudes hold: each table counts about a quarter of them.
constexpr int64_t magnitude_chunk = 1 << 17;

struct HistogramKernels {
  // Of count > 0 values.
  Extremes (*extremes)(const float* x, int64_t count);
  // Counts value v in bin floor(v * scale) + bins / 2, where scale is a power of two and each
  // |v * scale| <= bins / 2; the upper end goes into the last bin. At most histogram_chunk values.
  void (*count)(const float* x, int64_t count, float scale, uint16_t (*tables)[histogram_bins]);
  // Adds values to tables[histogram_tables][bins], at most magnitude_chunk of them before the
  // tables are emptied. Returns how many of bin 0 are in no table: what relu made 0 need not wait
  // for one counter. Raises *largest to the bits of the largest magnitude, those of NaN being above
  // those of numbers; where that is beyond the last edge, the counts say nothing.
  int64_t (*count_magnitudes)(const float* x, int64_t count, const MagnitudeBins& bins,
                              uint16_t* tables, int32_t* largest);
  // Writes the magnitudes that are not less than floor > 0, NaN too, in their order; returns how
  // many. `kept` has room for `count` and keep_room more.
  int64_t (*keep_large)(const float* x, int64_t count, float floor, float* kept);
};
constexpr int64_t keep_room = 16;  // what keep_large may write behind
// By best_isa().
const HistogramKernels& histogram_kernels();

}  // namespace octavo::cpu
