#include "quantize/ranges.h"

#include <algorithm>
#include <cmath>
#include <numeric>

#include "codegen/compile.h"
#include "quantize/arithmetic.h"
#include "quantize/samples.h"
#include "support/error.h"

namespace octavo {
namespace {
constexpr int levels = 256;
}

void collect_statistics(const Graph& graph, ActivationStatistics& statistics, const Dataset& data,
                        size_t most, int threads, const Progress& progress) {
  const size_t count = most ? std::min(most, data.size()) : data.size();
  if (count == 0) throw UserError(ErrorKind::value, "calibration data", "there is no sample");
  Graph observed = graph.clone();
  const size_t first = observed.outputs().size();
  for (const std::string& name : statistics.names()) observed.add_output(observed.find_value(name));
  Program program = compile(std::move(observed), {.threads = 1});
  ThreadPool pool(threads);
  std::vector<size_t> which(count);
  std::iota(which.begin(), which.end(), size_t{0});
  run_samples(program, data, which, pool,
              [&](std::span<const std::vector<Tensor>> outputs, size_t done) {
                statistics.collect(outputs, first, pool);
                if (progress) progress("calibrating", done, count);
              });
}

std::map<std::string, Range> choose_ranges(const ActivationStatistics& statistics,
                                           const std::string& calibrator) {
  const Calibrator& chosen = find_calibrator(calibrator);
  std::map<std::string, Range> ranges;
  for (const std::string& name : statistics.names())
    if (const HistogramStatistics& h = statistics.at(name); !h.empty())
      ranges[name] = chosen.choose(h, levels);
  return ranges;
}

std::map<std::string, ActivationParams> activation_params(
    const Placement& placement, const std::map<std::string, Range>& ranges,
    std::map<std::string, Range>* shared) {
  std::vector<Range> group(static_cast<size_t>(placement.groups));
  for (const PlacedActivation& a : placement.activations) {
    const auto it = ranges.find(a.value->name());
    if (it == ranges.end()) continue;
    Range& all = group[static_cast<size_t>(a.group)];
    all = {std::min(all.min, it->second.min), std::max(all.max, it->second.max)};
  }
  std::map<std::string, ActivationParams> params;
  for (const PlacedActivation& a : placement.activations) {
    const Range r = group[static_cast<size_t>(a.group)];
    ActivationParams p;
    p.dtype = a.scheme.storage();
    if (a.scheme.symmetric) {
      const auto least = static_cast<float>(r.min), most = static_cast<float>(r.max);
      p.scale =
          parameters_from_ranges(Arithmetic::onnx, a.scheme, {&least, 1}, {&most, 1}).scales[0];
    } else {
      const double step = (r.max - r.min) / (levels - 1);
      // A tensor that is always zero: any scale represents it.
      p.scale = step > 1e-30 ? static_cast<float>(step) : 1.0f;
      p.zero_point = static_cast<int32_t>(
          std::clamp(std::nearbyint(-r.min / static_cast<double>(p.scale)), 0.0, 255.0));
    }
    params[a.value->name()] = p;
    if (shared) (*shared)[a.value->name()] = r;
  }
  return params;
}

}  // namespace octavo
