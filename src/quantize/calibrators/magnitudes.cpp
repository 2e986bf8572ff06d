#include "quantize/calibrators/magnitudes.h"

#include <algorithm>
#include <bit>
#include <cfloat>
#include <cmath>
#include <cstring>
#include <limits>

#include "backends/cpu/histogram.h"
#include "support/error.h"
#include "support/thread_pool.h"

namespace octavo {
namespace {

constexpr int64_t chunk = 1 << 14;  // values per task: few, as threads of others may hold cores
constexpr float shrink = 0x1p-40F;  // of large values, so that |v| * n and 1 / last are normal
                                    // numbers; a power of two changes no quotient

int64_t chunks_of(std::span<const float> values) {
  return (static_cast<int64_t>(values.size()) + chunk - 1) / chunk;
}

std::span<const float> chunk_of(std::span<const float> values, int64_t index) {
  const auto start = static_cast<size_t>(index * chunk);
  return values.subspan(start, std::min<size_t>(chunk, values.size() - start));
}

cpu::Extremes extremes(std::span<const float> values) {
  std::vector<cpu::Extremes> parts(static_cast<size_t>(chunks_of(values)));
  auto look = [&](int64_t index, int) {
    const auto part = chunk_of(values, index);
    parts[static_cast<size_t>(index)] =
        cpu::histogram_kernels().extremes(part.data(), static_cast<int64_t>(part.size()));
  };
  default_pool().run(chunks_of(values), look);
  cpu::Extremes all = parts[0];
  for (const cpu::Extremes& part : parts)
    all = {std::min(all.min, part.min), std::max(all.max, part.max), all.finite && part.finite};
  return all;
}

// Adds up the tables of a chunk and empties them.
void drain(std::vector<uint16_t>& tables, std::vector<int64_t>& counts) {
  const size_t bins = counts.size();
  for (int t = 0; t < cpu::histogram_tables; ++t) {
    uint16_t* table = tables.data() + static_cast<size_t>(t) * bins;
    for (size_t i = 0; i < bins; ++i) counts[i] += table[i];
  }
  std::ranges::fill(tables, uint16_t{0});
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

void MagnitudeHistogram::collect(std::span<const float> values, bool skip_zeros) {
  if (values.empty()) return;
  // Of values from one distribution n new ones reach further than `total_` old ones with a chance
  // of n / (total_ + n), and a count in vain costs about three times what extremes do.
  const bool reaches = total_ / 3 < static_cast<int64_t>(values.size());
  if (reaches || !count(values)) {
    const cpu::Extremes found = extremes(values);
    if (!found.finite)
      throw UserError(ErrorKind::value, "calibration", "the data hold NaN or infinity",
                      "clean the data");
    reach(std::max(-found.min, found.max));
    if (last_ == 0)
      counts_[0] += static_cast<int64_t>(values.size());
    else
      OCTAVO_CHECK(count(values));
  }
  const int64_t skipped = skip_zeros ? std::ranges::count(values, 0.0F) : 0;
  counts_[0] -= skipped;
  total_ += static_cast<int64_t>(values.size()) - skipped;
}

bool MagnitudeHistogram::count(std::span<const float> values) {
  struct Local {
    std::vector<uint16_t> tables;
    std::vector<int64_t> counts;
    int64_t in_tables = 0;
    int32_t largest = 0;  // bits of a magnitude
  };
  ThreadPool& pool = default_pool();
  std::vector<Local> locals(static_cast<size_t>(pool.size()));
  const size_t size = counts_.size();
  const float factor = last_ > 0x1p80F ? shrink : 1.0F;
  const cpu::MagnitudeBins bins{static_cast<int>(size), factor, last_ * factor};
  auto task = [&](int64_t index, int thread) {
    auto& [tables, counts, in_tables, largest] = locals[static_cast<size_t>(thread)];
    if (tables.empty()) {
      tables.assign(cpu::histogram_tables * size, 0);
      counts.assign(size, 0);
    }
    if (in_tables + chunk > cpu::magnitude_chunk) {
      drain(tables, counts);
      in_tables = 0;
    }
    const auto part = chunk_of(values, index);
    in_tables += chunk;
    counts[0] += cpu::histogram_kernels().count_magnitudes(
        part.data(), static_cast<int64_t>(part.size()), bins, tables.data(), &largest);
  };
  pool.run(chunks_of(values), task);
  for (const Local& local : locals)
    if (local.largest > std::bit_cast<int32_t>(last_)) return false;
  for (Local& local : locals) {
    if (local.tables.empty()) continue;
    drain(local.tables, local.counts);
    for (size_t i = 0; i < size; ++i) counts_[i] += local.counts[i];
  }
  return true;
}

namespace {
constexpr char magic[8] = {'O', 'C', 'T', 'M', 'A', 'G', 'N', '1'};
struct Header {
  char magic[8];
  int64_t total;
  int32_t bins, count;
  float last, width;
  int32_t appended, padding;
};
}  // namespace

std::string MagnitudeHistogram::serialize() const {
  Header header{};
  std::memcpy(header.magic, magic, sizeof magic);
  header.total = total_, header.bins = bins_, header.last = last_, header.width = width_;
  header.count = static_cast<int32_t>(counts_.size()), header.appended = appended_ ? 1 : 0;
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
              (header.appended == 1 || header.count == header.bins),
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
  h.appended_ = header.appended == 1;
  return h;
}

}  // namespace octavo
