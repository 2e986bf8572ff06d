#include "quantize/calibrators/statistics.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>

#include "backends/cpu/histogram.h"
#include "support/error.h"
#include "support/thread_pool.h"

namespace octavo {
namespace {

constexpr int64_t chunk = cpu::histogram_chunk;  // values per task: 128 KiB, small against the L2
static_assert(HistogramStatistics::bins == cpu::histogram_bins);

// Adds one chunk's counts.
void count_chunk(std::span<const float> values, float scale, int64_t* counts) {
  static thread_local uint16_t tables[cpu::histogram_tables][cpu::histogram_bins];
  std::memset(tables, 0, sizeof tables);
  cpu::histogram_kernels().count(values.data(), static_cast<int64_t>(values.size()), scale, tables);
  for (int b = 0; b < cpu::histogram_bins; ++b)
    counts[b] += tables[0][b] + tables[1][b] + tables[2][b] + tables[3][b];
}

double magnitude(const cpu::Extremes& e) {
  return std::max(std::fabs(static_cast<double>(e.min)), std::fabs(static_cast<double>(e.max)));
}

}  // namespace

void HistogramStatistics::raise_limit(double amax) {
  if (amax == 0) return;
  if (limit_ == 0) {
    limit_ = std::exp2(std::ceil(std::log2(amax)));
    if (limit_ <= amax) limit_ *= 2;  // the upper edge is open
    limit_ = std::max(limit_, least_limit);
    return;
  }
  while (amax >= limit_) {
    // Bins pair up towards the middle: bin b of the new is 2b and 2b+1 of the old, shifted.
    std::vector<int64_t> merged(bins, 0);
    for (int i = 0; i < bins; ++i)
      merged[static_cast<size_t>(i / 2 + bins / 4)] += counts_[static_cast<size_t>(i)];
    counts_ = std::move(merged);
    limit_ *= 2;
  }
}

void HistogramStatistics::collect(std::span<const float> values) {
  if (values.empty()) return;
  const auto tasks = static_cast<int64_t>((values.size() + chunk - 1) / chunk);
  const auto part = [&](int64_t i) {
    const auto start = static_cast<size_t>(i * chunk);
    return values.subspan(start, std::min<size_t>(chunk, values.size() - start));
  };
  ThreadPool& pool = default_pool();
  const cpu::HistogramKernels& kernels = cpu::histogram_kernels();
  const auto look = [&](int64_t i) {
    const auto p = part(i);
    return kernels.extremes(p.data(), static_cast<int64_t>(p.size()));
  };
  // One read of the data where the limit that is known, or the first chunk's, holds them; chunks
  // beyond it are counted again. Where a chunk is counted does not show: merging bins is exact.
  double guess = limit_;
  if (guess == 0) {
    const cpu::Extremes e = look(0);
    if (e.finite) {
      HistogramStatistics first;
      first.raise_limit(magnitude(e));
      guess = first.limit_;
    }
  }
  std::vector<cpu::Extremes> extremes(static_cast<size_t>(tasks));
  std::vector<char> counted(static_cast<size_t>(tasks), 0);
  std::vector<std::vector<int64_t>> local(static_cast<size_t>(pool.size()));
  const auto count = [&](int64_t i, int thread, double limit) {
    auto& counts = local[static_cast<size_t>(thread)];
    if (counts.empty()) counts.assign(bins, 0);
    count_chunk(part(i), static_cast<float>(bins / (2 * limit)), counts.data());
  };
  auto first_task = [&](int64_t i, int thread) {
    const cpu::Extremes e = look(i);
    extremes[static_cast<size_t>(i)] = e;
    if (!e.finite || magnitude(e) >= guess) return;
    count(i, thread, guess);
    counted[static_cast<size_t>(i)] = 1;
  };
  pool.run(tasks, first_task);
  cpu::Extremes all = extremes[0];
  for (const cpu::Extremes& e : extremes) {
    all.min = std::min(all.min, e.min);
    all.max = std::max(all.max, e.max);
    all.finite = all.finite && e.finite;
  }
  if (!all.finite)
    throw UserError(ErrorKind::value, "calibration", "the data hold NaN or infinity",
                    "clean the data");
  const auto add_local = [&] {
    for (auto& counts : local) {
      for (size_t b = 0; b < counts.size(); ++b) counts_[b] += counts[b];
      counts.clear();
    }
  };
  if (limit_ == 0 && guess > 0) raise_limit(guess / 2);  // zeros so far stay in their bin
  add_local();
  raise_limit(magnitude(all));
  if (limit_ == 0) {
    counts_[bins / 2] += static_cast<int64_t>(values.size());
  } else {
    auto rest_task = [&](int64_t i, int thread) {
      if (!counted[static_cast<size_t>(i)]) count(i, thread, limit_);
    };
    pool.run(tasks, rest_task);
    add_local();
  }
  min_ = count_ ? std::min(min_, all.min) : all.min;
  max_ = count_ ? std::max(max_, all.max) : all.max;
  average_min_ = batches_ ? 0.9 * average_min_ + 0.1 * all.min : all.min;
  average_max_ = batches_ ? 0.9 * average_max_ + 0.1 * all.max : all.max;
  count_ += static_cast<int64_t>(values.size());
  ++batches_;
}

void HistogramStatistics::merge(const HistogramStatistics& other) {
  if (other.empty()) return;
  if (count_ > std::numeric_limits<int64_t>::max() - other.count_ ||
      batches_ > std::numeric_limits<int64_t>::max() - other.batches_)
    throw UserError(ErrorKind::value, "calibration", "more values than 64 bits count");
  if (empty()) {
    *this = other;
    return;
  }
  HistogramStatistics theirs = other;
  // The larger limit is reached from both sides; a side that saw zeros only takes it as it is.
  const double limit = std::max(limit_, theirs.limit_);
  if (limit > 0) {
    for (HistogramStatistics* side : {this, &theirs}) {
      if (side->limit_ == 0)
        side->limit_ = limit;
      else if (side->limit_ < limit)
        side->raise_limit(limit / 2);  // amax >= limit doubles: limit/2 doubles up to it
    }
  }
  for (size_t b = 0; b < counts_.size(); ++b) counts_[b] += theirs.counts_[b];
  min_ = std::min(min_, theirs.min_);
  max_ = std::max(max_, theirs.max_);
  const double ours =
      static_cast<double>(batches_) / static_cast<double>(batches_ + theirs.batches_);
  average_min_ = ours * average_min_ + (1 - ours) * theirs.average_min_;
  average_max_ = ours * average_max_ + (1 - ours) * theirs.average_max_;
  count_ += theirs.count_;
  batches_ += theirs.batches_;
}

namespace {
constexpr char magic[8] = {'O', 'C', 'T', 'S', 'T', 'A', 'T', '1'};
struct Header {
  char magic[8];
  double limit, average_min, average_max;
  int64_t count, batches;
  float min, max;
};
}  // namespace

std::string HistogramStatistics::serialize() const {
  Header header{};
  std::memcpy(header.magic, magic, sizeof magic);
  header.limit = limit_, header.average_min = average_min_, header.average_max = average_max_;
  header.count = count_, header.batches = batches_, header.min = min_, header.max = max_;
  std::string bytes(sizeof header + bins * sizeof(int64_t), '\0');
  std::memcpy(bytes.data(), &header, sizeof header);
  std::memcpy(bytes.data() + sizeof header, counts_.data(), bins * sizeof(int64_t));
  return bytes;
}

HistogramStatistics HistogramStatistics::deserialize(const std::string& bytes,
                                                     const std::string& where) {
  const auto fail = [&](const char* message) { throw UserError(ErrorKind::file, where, message); };
  Header header{};
  if (bytes.size() != sizeof header + bins * sizeof(int64_t))
    fail("the statistics have the wrong length");
  std::memcpy(&header, bytes.data(), sizeof header);
  if (std::memcmp(header.magic, magic, sizeof magic) != 0)
    fail("these are no statistics, or of another version");
  HistogramStatistics s;
  std::memcpy(s.counts_.data(), bytes.data() + sizeof header, bins * sizeof(int64_t));
  int exponent = 0;
  if (header.limit != 0 && (!(header.limit >= least_limit && header.limit <= 0x1p128) ||
                            std::frexp(header.limit, &exponent) != 0.5))
    fail("the histogram's limit is damaged");
  int64_t total = 0;
  for (int64_t c : s.counts_) {
    if (c < 0 || c > header.count - total) fail("the histogram's counts are damaged");
    total += c;
  }
  if (total != header.count || header.batches < 0 || (header.count > 0) != (header.batches > 0))
    fail("the counts do not add up");
  for (double v : {static_cast<double>(header.min), static_cast<double>(header.max),
                   header.average_min, header.average_max})
    if (!std::isfinite(v)) fail("an extreme is not finite");
  const double amax = std::max(-static_cast<double>(header.min), static_cast<double>(header.max));
  if (header.min > header.max ||
      (header.limit == 0
           ? header.min != 0 || header.max != 0
           : amax >= header.limit || -header.limit > header.min || header.max < -header.limit))
    fail("the extremes are damaged");
  s.limit_ = header.limit, s.average_min_ = header.average_min, s.average_max_ = header.average_max;
  s.count_ = header.count, s.batches_ = header.batches, s.min_ = header.min, s.max_ = header.max;
  return s;
}

}  // namespace octavo
