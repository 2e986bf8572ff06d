// Calibration's speed: histogram ingest in GB/s of float32, and each calibrator's time on the
// histogram, whose two signs have 2048 bins each. The counts are checked first.
//
//     build/release/benchmarks/bench_histogram
//
// benchmarks/histogram.py has numpy.histogram and torch.histc beside it in one run.
#include <benchmark/benchmark.h>

#include <cmath>
#include <random>

#include "quantize/calibrators/calibrators.h"

namespace octavo {
namespace {

std::vector<float> data(size_t count, bool relu6) {
  std::mt19937 random{1};
  std::normal_distribution<float> normal(0, 2);
  std::vector<float> v(count);
  for (float& x : v) {
    x = normal(random);
    if (relu6) x = std::min(std::max(x, 0.0f), 6.0f);
  }
  return v;
}

void check(const HistogramStatistics& s, const std::vector<float>& values) {
  std::vector<int64_t> counts(HistogramStatistics::bins, 0);
  for (float v : values)
    ++counts[static_cast<size_t>(std::floor(static_cast<double>(v) / s.bin_width())) +
             HistogramStatistics::bins / 2];
  if (!std::equal(counts.begin(), counts.end(), s.counts().begin())) std::abort();
}

void ingest(benchmark::State& state) {
  const auto values = data(static_cast<size_t>(state.range(0)), state.range(1) != 0);
  HistogramStatistics s;
  s.collect(values);
  check(s, values);
  for (auto _ : state) s.collect(values);
  state.SetBytesProcessed(static_cast<int64_t>(state.iterations() * values.size() * sizeof(float)));
}
BENCHMARK(ingest)
    ->ArgNames({"values", "relu6"})
    ->ArgsProduct({{1 << 20, 1 << 24}, {0, 1}})
    ->MeasureProcessCPUTime()
    ->UseRealTime()
    ->Unit(benchmark::kMillisecond);

void choose(benchmark::State& state) {
  const Calibrator& calibrator = calibrators()[static_cast<size_t>(state.range(0))];
  HistogramStatistics s;
  s.collect(data(1 << 20, state.range(1) != 0));
  state.SetLabel(calibrator.name);
  for (auto _ : state) benchmark::DoNotOptimize(calibrator.choose(s, 256));
}
BENCHMARK(choose)
    ->ArgNames({"calibrator", "relu6"})
    ->ArgsProduct({{0, 1, 2, 3, 4}, {0, 1}})
    ->Unit(benchmark::kMillisecond);

}  // namespace
}  // namespace octavo

BENCHMARK_MAIN();
