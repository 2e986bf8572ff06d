#include "quantize/latency.h"

#include <algorithm>
#include <chrono>

#include "codegen/compile.h"

namespace octavo {
namespace {

double median(std::vector<double> values) {
  std::sort(values.begin(), values.end());
  return values[values.size() / 2];
}

}  // namespace

std::vector<double> measure_latency(std::span<const Graph* const> graphs,
                                    const std::vector<Tensor>& inputs, int threads,
                                    const Progress& progress) {
  using Clock = std::chrono::steady_clock;
  constexpr size_t group_size = 7;  // and the first
  std::vector<double> medians(graphs.size());
  double reference = 0;
  for (size_t first = 0; first == 0 || first < graphs.size(); first += group_size) {
    std::vector<size_t> which{0};
    for (size_t i = std::max<size_t>(first, 1); i < std::min(first + group_size, graphs.size());
         ++i)
      which.push_back(i);
    std::vector<Program> programs;
    for (const size_t i : which) {
      programs.push_back(compile(graphs[i]->clone(), {.threads = threads}));
      programs.back().run(inputs);
    }
    std::vector<std::vector<double>> times(which.size());
    for (size_t round = 0; round < latency_rounds; ++round) {
      for (size_t k = 0; k < which.size(); ++k) {
        const size_t at = (k + round) % which.size();  // none always follows the same one
        const auto start = Clock::now();
        programs[at].run(inputs);
        times[at].push_back(
            std::chrono::duration<double, std::micro>(Clock::now() - start).count());
      }
      if (progress)
        progress("measuring latency", first * latency_rounds + (round + 1) * which.size(),
                 (graphs.size() + graphs.size() / group_size) * latency_rounds);
    }
    const double here = median(times[0]);
    if (first == 0) medians[0] = reference = here;
    for (size_t k = 1; k < which.size(); ++k)
      medians[which[k]] = here > 0 ? median(times[k]) * reference / here : median(times[k]);
  }
  return medians;
}

}  // namespace octavo
