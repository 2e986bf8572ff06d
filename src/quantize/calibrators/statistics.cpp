#include "quantize/calibrators/statistics.h"

#include <algorithm>
#include <array>
#include <bit>
#include <cmath>
#include <cstring>

#include "support/error.h"
#include "support/thread_pool.h"

namespace octavo {
namespace {

constexpr int64_t chunk = 1 << 15;  // values per task: 128 KiB, small against the L2

struct Extremes {
  float min = 0, max = 0;
  bool finite = true;
};

Extremes scan(std::span<const float> values) {
  // Lanes of their own, so that the compiler can use vector registers.
  constexpr size_t lanes = 16;
  std::array<float, lanes> low, high;
  std::array<uint32_t, lanes> worst{};
  low.fill(values[0]);
  high.fill(values[0]);
  size_t i = 0;
  for (; i + lanes <= values.size(); i += lanes)
    for (size_t k = 0; k < lanes; ++k) {
      const float v = values[i + k];
      low[k] = v < low[k] ? v : low[k];
      high[k] = v > high[k] ? v : high[k];
      worst[k] = std::max(worst[k], std::bit_cast<uint32_t>(v) & 0x7fffffffu);
    }
  for (; i < values.size(); ++i) {
    low[0] = std::min(low[0], values[i]);
    high[0] = std::max(high[0], values[i]);
    worst[0] = std::max(worst[0], std::bit_cast<uint32_t>(values[i]) & 0x7fffffffu);
  }
  Extremes e{*std::min_element(low.begin(), low.end()), *std::max_element(high.begin(), high.end()),
             true};
  e.finite = *std::max_element(worst.begin(), worst.end()) < 0x7f800000u;
  return e;
}

// Counts one chunk into `counts`; four tables in turn keep equal neighbours from waiting for each
// other's stores.
void count_chunk(std::span<const float> values, float scale, int64_t* counts) {
  constexpr int bins = HistogramStatistics::bins;
  static thread_local std::array<std::array<uint32_t, bins>, 4> tables;
  for (auto& table : tables) table.fill(0);
  constexpr size_t block = 64;
  std::array<int32_t, block> index;
  size_t i = 0;
  const auto bin_of = [&](float v) {
    // scale is a power of two: the product is exact, and floor puts each value in its one bin.
    return std::min(static_cast<int32_t>(std::floor(v * scale)) + bins / 2, bins - 1);
  };
  for (; i + block <= values.size(); i += block) {
    for (size_t k = 0; k < block; ++k) index[k] = bin_of(values[i + k]);
    for (size_t k = 0; k < block; k += 4) {
      ++tables[0][static_cast<size_t>(index[k])];
      ++tables[1][static_cast<size_t>(index[k + 1])];
      ++tables[2][static_cast<size_t>(index[k + 2])];
      ++tables[3][static_cast<size_t>(index[k + 3])];
    }
  }
  for (; i < values.size(); ++i) ++tables[0][static_cast<size_t>(bin_of(values[i]))];
  for (int b = 0; b < bins; ++b) {
    const auto at = static_cast<size_t>(b);
    counts[b] +=
        static_cast<int64_t>(tables[0][at]) + tables[1][at] + tables[2][at] + tables[3][at];
  }
}

}  // namespace

void HistogramStatistics::raise_limit(double amax) {
  if (amax == 0) return;
  if (limit_ == 0) {
    limit_ = std::exp2(std::ceil(std::log2(amax)));
    if (limit_ <= amax) limit_ *= 2;  // the upper edge is open
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
  std::vector<Extremes> extremes(static_cast<size_t>(tasks));
  auto scan_task = [&](int64_t i, int) { extremes[static_cast<size_t>(i)] = scan(part(i)); };
  pool.run(tasks, scan_task);
  Extremes all = extremes[0];
  for (const Extremes& e : extremes) {
    all.min = std::min(all.min, e.min);
    all.max = std::max(all.max, e.max);
    all.finite = all.finite && e.finite;
  }
  if (!all.finite)
    throw UserError(ErrorKind::value, "calibration", "the data hold NaN or infinity",
                    "clean the data");

  raise_limit(
      std::max(std::fabs(static_cast<double>(all.min)), std::fabs(static_cast<double>(all.max))));
  if (limit_ == 0) {
    counts_[bins / 2] += static_cast<int64_t>(values.size());
  } else {
    std::vector<std::vector<int64_t>> local(static_cast<size_t>(pool.size()));
    const auto scale = static_cast<float>(1 / bin_width());
    auto count_task = [&](int64_t i, int thread) {
      auto& counts = local[static_cast<size_t>(thread)];
      if (counts.empty()) counts.assign(bins, 0);
      count_chunk(part(i), scale, counts.data());
    };
    pool.run(tasks, count_task);
    for (const auto& counts : local)
      for (size_t b = 0; b < counts.size(); ++b) counts_[b] += counts[b];
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
  if (!std::isfinite(header.limit) || header.limit < 0 ||
      (header.limit > 0 && std::frexp(header.limit, &exponent) != 0.5))
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
  if (header.min > header.max) fail("the extremes are damaged");
  s.limit_ = header.limit, s.average_min_ = header.average_min, s.average_max_ = header.average_max;
  s.count_ = header.count, s.batches_ = header.batches, s.min_ = header.min, s.max_ = header.max;
  return s;
}

}  // namespace octavo
