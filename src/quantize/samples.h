#pragma once
#include <algorithm>
#include <span>
#include <vector>

#include "evaluate/dataset.h"
#include "runtime/program.h"
#include "support/thread_pool.h"

namespace octavo {

// Runs a program of one thread on the samples `which`, as many at once as the pool has threads:
// small layers gain nothing from more threads each. visit(outputs of each sample, how many are
// done) is called in order, on the calling thread. Data are read one after the other.
template <class Visit>
void run_samples(Program& program, const Dataset& data, std::span<const size_t> which,
                 ThreadPool& pool, Visit visit) {
  const auto width = static_cast<size_t>(pool.size());
  for (size_t first = 0; first < which.size(); first += width) {
    const size_t count = std::min(width, which.size() - first);
    std::vector<std::vector<Tensor>> inputs, outputs(count);
    for (size_t i = 0; i < count; ++i) inputs.push_back(data.sample(which[first + i]));
    auto task = [&](int64_t i, int) {
      outputs[static_cast<size_t>(i)] = program.run(inputs[static_cast<size_t>(i)]);
    };
    pool.run(static_cast<int64_t>(count), task);
    visit(std::span<const std::vector<Tensor>>(outputs), first + count);
  }
}

}  // namespace octavo
