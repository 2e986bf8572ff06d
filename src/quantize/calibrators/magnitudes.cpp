#include "quantize/calibrators/magnitudes.h"

#include <algorithm>
#include <atomic>
#include <bit>
#include <cfloat>
#include <cmath>
#include <cstring>
#include <limits>
#include <memory>
#include <numeric>

#include "backends/cpu/histogram.h"
#include "support/error.h"
#include "support/thread_pool.h"

namespace octavo {
namespace {

constexpr int64_t chunk = 1 << 14;  // values per task: few, as threads of others may hold cores
constexpr float shrink = 0x1p-40F;  // of large values, so that |v| * n and 1 / last are normal
                                    // numbers; a power of two changes no quotient

// Of collect(..., top):
constexpr int64_t sampled_from = 8 * chunk;  // values; to count fewer costs no more
constexpr int64_t telling = 1 << 18;         // values that say where the largest lie
constexpr double worthwhile_top = 0.25;      // beyond, to count all costs no more
constexpr size_t sample_block = 2048, sample_size = 16;
constexpr size_t most_sampled = chunk / sample_block * sample_size;  // of a chunk

UserError not_finite() {
  return {ErrorKind::value, "calibration", "the data hold NaN or infinity", "clean the data"};
}

int64_t chunks_of(std::span<const float> values) {
  return (static_cast<int64_t>(values.size()) + chunk - 1) / chunk;
}

std::span<const float> chunk_of(std::span<const float> values, int64_t index) {
  const auto start = static_cast<size_t>(index * chunk);
  return values.subspan(start, std::min<size_t>(chunk, values.size() - start));
}

// task(index, thread) for each chunk. A thread begins with a share of its own, whole stretches of
// memory as torch's operators share them out, so that some of it is still in that core's cache;
// then it helps with what others have left.
template <class Task>
void for_each_chunk(std::span<const float> values, const Task& task) {
  const int64_t count = chunks_of(values), shares = default_pool().size();
  const auto start = [&](int64_t share) { return share * count / shares; };
  std::vector<std::atomic<int64_t>> next(static_cast<size_t>(shares));
  for (int64_t share = 0; share < shares; ++share) next[static_cast<size_t>(share)] = start(share);
  auto work = [&](int64_t own, int thread) {
    for (int64_t i = own; i < own + shares; ++i) {
      const int64_t share = i % shares;
      for (int64_t at; (at = next[static_cast<size_t>(share)]++) < start(share + 1);)
        task(at, thread);
    }
  };
  default_pool().run(shares, work);
}

cpu::Extremes extremes(std::span<const float> values) {
  std::vector<cpu::Extremes> parts(static_cast<size_t>(chunks_of(values)));
  auto look = [&](int64_t index, int) {
    const auto part = chunk_of(values, index);
    parts[static_cast<size_t>(index)] =
        cpu::histogram_kernels().extremes(part.data(), static_cast<int64_t>(part.size()));
  };
  for_each_chunk(values, look);
  cpu::Extremes all = parts[0];
  for (const cpu::Extremes& part : parts)
    all = {std::min(all.min, part.min), std::max(all.max, part.max), all.finite && part.finite};
  return all;
}

// Counts of one thread.
class Tables {
 public:
  // Raises *largest as count_magnitudes does.
  void add(std::span<const float> values, const cpu::MagnitudeBins& bins, int32_t* largest) {
    const auto size = static_cast<int64_t>(values.size());
    if (sums_.empty()) {
      tables_.assign(static_cast<size_t>(cpu::histogram_tables * bins.bins), 0);
      sums_.assign(static_cast<size_t>(bins.bins), 0);
    }
    if (in_tables_ + size > cpu::magnitude_chunk) drain();
    in_tables_ += size;
    sums_[0] += cpu::histogram_kernels().count_magnitudes(values.data(), size, bins, tables_.data(),
                                                          largest);
  }
  // Where none lies beyond the last edge.
  void add(std::span<const float> values, const cpu::MagnitudeBins& bins) {
    int32_t largest = 0;
    add(values, bins, &largest);
  }
  void add_to(std::vector<int64_t>& counts) {
    if (in_tables_ > 0) drain();
    for (size_t i = 0; i < sums_.size(); ++i) counts[i] += sums_[i];
  }

 private:
  void drain() {
    const uint16_t* table = tables_.data();
    for (int t = 0; t < cpu::histogram_tables; ++t, table += sums_.size())
      for (size_t i = 0; i < sums_.size(); ++i) sums_[i] += table[i];
    std::ranges::fill(tables_, uint16_t{0});
    in_tables_ = 0;
  }

  std::vector<uint16_t> tables_;
  std::vector<int64_t> sums_;
  int64_t in_tables_ = 0;
};

// Writes of each block sample_size neighbours, so far as they are below floor; returns where they
// end. Where they lie in the block changes: channels that lie innermost may have its length as
// period.
float* take_sample(std::span<const float> part, int64_t index, float floor, float* to) {
  const size_t blocks = part.size() / sample_block;
  for (size_t b = 0; b < blocks; ++b) {
    const auto mixed = static_cast<uint32_t>(static_cast<size_t>(index) * blocks + b) * 2654435769U;
    const float* from = part.data() + b * sample_block + (mixed >> 25U) * sample_size;
    for (size_t i = 0; i < sample_size; ++i)
      if (std::fabs(from[i]) < floor) *to++ = from[i];
  }
  return to;
}

// Gives counts that are not all 0 the sum `wanted`, in the same proportions.
void scale(std::span<int64_t> counts, int64_t wanted) {
  const auto all = static_cast<double>(std::accumulate(counts.begin(), counts.end(), int64_t{0}));
  double seen = 0;
  int64_t given = 0;  // running sums, so that no rounding is lost
  for (int64_t& count : counts) {
    seen += static_cast<double>(count);
    const auto upto =
        seen == all ? wanted
                    : static_cast<int64_t>(std::round(static_cast<double>(wanted) * (seen / all)));
    count = upto - given;
    given = upto;
  }
}

}  // namespace

MagnitudeHistogram::MagnitudeHistogram(int bins) : bins_(bins) {
  if (bins < 1 || bins > most_bins)
    throw UserError(ErrorKind::value, "calibration", fmt::format("{} bins", bins),
                    fmt::format("give 1 to {}", most_bins));
  counts_.assign(static_cast<size_t>(bins), 0);
}

std::vector<float> MagnitudeHistogram::edges() const {
  const size_t n = counts_.size();
  std::vector<float> e(n + 1, 0);
  if (last_ == 0) return e;
  for (size_t i = 0; i <= n; ++i) {
    if (appended_)
      e[i] = static_cast<float>(static_cast<double>(width_) * static_cast<double>(i));
    else if (i < (n + 1) / 2)
      e[i] = width_ * static_cast<float>(i);
    else
      e[i] = last_ - width_ * static_cast<float>(n - i);
  }
  return e;
}

// Widens the histogram to hold `most`.
void MagnitudeHistogram::reach(float most) {
  if (most <= last_) return;
  if (last_ == 0) {
    last_ = most;
    width_ = most / static_cast<float>(bins_);
    if (width_ > 0) return;
    width_ = std::numeric_limits<float>::denorm_min();
    last_ = 0;
  }
  appended_ = true;
  const double limit = static_cast<double>(bins_) * growth;
  while (std::ceil(static_cast<double>(most) / static_cast<double>(width_)) > limit) {
    const size_t merged = (counts_.size() + 1) / 2;
    for (size_t i = 0; i < merged; ++i)
      counts_[i] = counts_[2 * i] + (2 * i + 1 < counts_.size() ? counts_[2 * i + 1] : 0);
    counts_.resize(merged);
    exact_from_ = (exact_from_ + 1) / 2;
    width_ *= 2;
  }
  const auto needed =
      static_cast<size_t>(std::ceil(static_cast<double>(most) / static_cast<double>(width_)));
  counts_.resize(std::max(needed, counts_.size()), 0);
  last_ = std::min(
      static_cast<float>(static_cast<double>(width_) * static_cast<double>(counts_.size())),
      FLT_MAX);
  last_ = std::max(last_, most);
}

void MagnitudeHistogram::collect(std::span<const float> values, bool skip_zeros, double top) {
  if (values.empty()) return;
  const auto size = static_cast<int64_t>(values.size());
  if (top < worthwhile_top && size >= sampled_from && !skip_zeros) {
    if (last_ == 0) reach_extremes(values);
    if (const int64_t first = first_of_top(top, values); first > 0) {
      collect_top(values, first);
      return;
    }
  }
  // Of values from one distribution n new ones reach further than `total_` old ones with a chance
  // of n / (total_ + n), and a count in vain costs about three times what extremes do.
  const bool reaches = total_ / 3 < size;
  if (reaches || !count(values)) {
    reach_extremes(values);
    if (last_ == 0)
      counts_[0] += size;
    else
      OCTAVO_CHECK(count(values));
  }
  const int64_t skipped = skip_zeros ? std::ranges::count(values, 0.0F) : 0;
  counts_[0] -= skipped;
  total_ += size - skipped;
}

void MagnitudeHistogram::reach_extremes(std::span<const float> values) {
  const cpu::Extremes found = extremes(values);
  if (!found.finite) throw not_finite();
  reach(std::max(-found.min, found.max));
}

int64_t MagnitudeHistogram::first_of_top(double top, std::span<const float> values) const {
  if (last_ == 0) return 0;
  std::vector<int64_t> sample;
  if (total_ < telling) {
    constexpr float all = std::numeric_limits<float>::infinity();
    float sampled[most_sampled];
    Tables tables;
    for (int64_t i = 0; i < chunks_of(values); ++i)
      tables.add({sampled, take_sample(chunk_of(values, i), i, all, sampled)}, bins());
    sample.resize(counts_.size(), 0);
    tables.add_to(sample);
  }
  const auto& counts = sample.empty() ? counts_ : sample;
  const double wanted =
      top * static_cast<double>(std::accumulate(counts.begin(), counts.end(), int64_t{0}));
  int64_t above = 0;
  size_t first = counts.size();
  do above += counts[--first];
  while (first > 0 && static_cast<double>(above) < wanted);
  return static_cast<int64_t>(first);
}

cpu::MagnitudeBins MagnitudeHistogram::bins() const {
  const float factor = last_ > 0x1p80F ? shrink : 1.0F;
  return {static_cast<int>(counts_.size()), factor, last_ * factor};
}

bool MagnitudeHistogram::count(std::span<const float> values) {
  struct Local {
    Tables tables;
    int32_t largest = 0;  // bits of a magnitude
  };
  std::vector<Local> locals(static_cast<size_t>(default_pool().size()));
  const cpu::MagnitudeBins where = bins();
  auto task = [&](int64_t index, int thread) {
    Local& local = locals[static_cast<size_t>(thread)];
    local.tables.add(chunk_of(values, index), where, &local.largest);
  };
  for_each_chunk(values, task);
  for (const Local& local : locals)
    if (local.largest > std::bit_cast<int32_t>(last_)) return false;
  for (Local& local : locals) local.tables.add_to(counts_);
  return true;
}

void MagnitudeHistogram::collect_top(std::span<const float> values, int64_t first) {
  struct Local {
    Tables tables;  // exact from `first` on, below it of the sample
    std::unique_ptr<float[]> picked;
    std::vector<float> beyond;  // the last edge: few, if any
    int32_t largest = 0;        // bits of a magnitude
  };
  std::vector<Local> locals(static_cast<size_t>(default_pool().size()));
  const cpu::MagnitudeBins where = bins();
  // A little below the edge: which bin a value belongs to is a matter of rounding.
  const auto floor = static_cast<float>(static_cast<double>(first) * static_cast<double>(last_) /
                                        static_cast<double>(counts_.size()) * (1 - 0x1p-20));
  auto task = [&](int64_t index, int thread) {
    auto& [tables, picked, beyond, most] = locals[static_cast<size_t>(thread)];
    const auto part = chunk_of(values, index);
    if (!picked)
      picked = std::make_unique_for_overwrite<float[]>(chunk + cpu::keep_room + most_sampled);
    float* end =
        picked.get() + cpu::histogram_kernels().keep_large(
                           part.data(), static_cast<int64_t>(part.size()), floor, picked.get());
    int32_t largest = 0;
    for (const float* v = picked.get(); v != end; ++v)
      largest = std::max(largest, std::bit_cast<int32_t>(*v));
    most = std::max(most, largest);
    if (largest > std::bit_cast<int32_t>(last_)) {
      const auto within = [&](float v) { return v <= last_; };
      float* last = std::partition(picked.get(), end, within);
      beyond.insert(beyond.end(), last, end);
      end = last;
    }
    end = take_sample(part, index, floor, end);
    tables.add({picked.get(), end}, where);
  };
  for_each_chunk(values, task);

  std::vector<int64_t> found(counts_.size(), 0);
  const std::span below = std::span(found).first(static_cast<size_t>(first));
  int32_t largest = 0;
  for (Local& local : locals) {
    largest = std::max(largest, local.largest);
    local.tables.add_to(found);
  }
  if (!std::isfinite(std::bit_cast<float>(largest))) throw not_finite();
  auto left = static_cast<int64_t>(values.size());
  for (const Local& local : locals) left -= static_cast<int64_t>(local.beyond.size());
  for (const int64_t c : std::span(found).subspan(below.size())) left -= c;
  if (left > 0) {
    if (std::ranges::all_of(below, [](int64_t c) { return c == 0; })) {
      collect(values);  // a sample that missed them all says nothing
      return;
    }
    scale(below, left);
    exact_from_ = std::max(exact_from_, first);
  }
  for (size_t i = 0; i < found.size(); ++i) counts_[i] += found[i];
  reach(std::bit_cast<float>(largest));
  for (const Local& local : locals) OCTAVO_CHECK(count(local.beyond));
  total_ += static_cast<int64_t>(values.size());
}

namespace {
constexpr char magic[8] = {'O', 'C', 'T', 'M', 'A', 'G', 'N', '1'};
struct Header {
  char magic[8];
  int64_t total;
  int32_t bins, count;
  float last, width;
  int32_t appended, exact_from;
};
}  // namespace

std::string MagnitudeHistogram::serialize() const {
  Header header{};
  std::memcpy(header.magic, magic, sizeof magic);
  header.total = total_, header.bins = bins_, header.last = last_, header.width = width_;
  header.count = static_cast<int32_t>(counts_.size()), header.appended = appended_ ? 1 : 0;
  header.exact_from = static_cast<int32_t>(exact_from_);
  std::string bytes(sizeof header + counts_.size() * sizeof(int64_t), '\0');
  std::memcpy(bytes.data(), &header, sizeof header);
  std::memcpy(bytes.data() + sizeof header, counts_.data(), counts_.size() * sizeof(int64_t));
  return bytes;
}

MagnitudeHistogram MagnitudeHistogram::deserialize(const std::string& bytes,
                                                   const std::string& where) {
  const auto require = [&](bool holds, const char* message) {
    if (!holds) throw UserError(ErrorKind::file, where, message);
  };
  Header header{};
  require(bytes.size() >= sizeof header, "the histogram is cut off");
  std::memcpy(&header, bytes.data(), sizeof header);
  require(std::memcmp(header.magic, magic, sizeof magic) == 0,
          "this is no histogram, or of another version");
  require(header.bins >= 1 && header.bins <= most_bins && header.count >= 1 &&
              header.count <= static_cast<int64_t>(header.bins) * growth,
          "the number of bins is damaged");
  require(bytes.size() == sizeof header + static_cast<size_t>(header.count) * sizeof(int64_t),
          "the histogram has the wrong length");
  require(std::isfinite(header.last) && std::isfinite(header.width) && header.last >= 0 &&
              header.width >= 0 && (header.last > 0) == (header.width > 0) &&
              (header.appended == 0 || header.appended == 1) &&
              (header.appended == 1 || header.count == header.bins) && header.exact_from >= 0 &&
              header.exact_from <= header.count,
          "the edges are damaged");
  MagnitudeHistogram h(header.bins);
  h.counts_.resize(static_cast<size_t>(header.count));
  std::memcpy(h.counts_.data(), bytes.data() + sizeof header, h.counts_.size() * sizeof(int64_t));
  int64_t total = 0;
  for (int64_t c : h.counts_) {
    require(c >= 0 && c <= header.total - total, "the counts are damaged");
    total += c;
  }
  require(total == header.total, "the counts do not add up");
  require(header.last > 0 || total == h.counts_[0], "the edges are damaged");
  h.total_ = total, h.last_ = header.last, h.width_ = header.width;
  h.appended_ = header.appended == 1, h.exact_from_ = header.exact_from;
  return h;
}

}  // namespace octavo
