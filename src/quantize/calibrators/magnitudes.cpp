#include "quantize/calibrators/magnitudes.h"

#include <algorithm>
#include <cfloat>
#include <cmath>
#include <cstring>
#include <limits>

#include "backends/cpu/histogram.h"
#include "support/error.h"
#include "support/thread_pool.h"

namespace octavo {
namespace {

constexpr int64_t chunk = 1 << 15;      // values per task: 128 KiB, small against the L2
constexpr int64_t part_size = 1 << 30;  // values that a uint32_t counts
constexpr size_t tables = 4;            // take turns, so that equal neighbours do not wait
constexpr float shrink = 0x1p-40F;      // keeps |v| * n finite; a power of two changes no quotient

// Adds one chunk to tables[tables][bins].
void count_chunk(std::span<const float> values, int bins, float last, uint32_t* counts) {
  const auto n = static_cast<float>(bins);
  const float factor = last > FLT_MAX / n ? shrink : 1.0F;
  const float divisor = last * factor;
  constexpr size_t block = 256;
  int32_t index[block];
  for (size_t start = 0; start < values.size(); start += block) {
    const size_t size = std::min(block, values.size() - start);
    const float* x = values.data() + start;
    for (size_t i = 0; i < size; ++i)
      index[i] = std::min(static_cast<int32_t>(std::fabs(x[i]) * factor * n / divisor), bins - 1);
    const auto stride = static_cast<size_t>(bins);
    for (size_t i = 0; i < size; ++i)
      ++counts[(i % tables) * stride + static_cast<size_t>(index[i])];
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
  const auto tasks = static_cast<int64_t>((values.size() + chunk - 1) / chunk);
  std::vector<cpu::Extremes> extremes(static_cast<size_t>(tasks));
  std::vector<int64_t> zeros(static_cast<size_t>(tasks), 0);
  const cpu::HistogramKernels& kernels = cpu::histogram_kernels();
  auto look = [&](int64_t i, int) {
    const auto start = static_cast<size_t>(i * chunk);
    const auto p = values.subspan(start, std::min<size_t>(chunk, values.size() - start));
    extremes[static_cast<size_t>(i)] = kernels.extremes(p.data(), static_cast<int64_t>(p.size()));
    if (skip_zeros) zeros[static_cast<size_t>(i)] = std::ranges::count(p, 0.0F);
  };
  ThreadPool& pool = default_pool();
  pool.run(tasks, look);
  float most = 0;
  int64_t skipped = 0;
  for (size_t i = 0; i < extremes.size(); ++i) {
    if (!extremes[i].finite)
      throw UserError(ErrorKind::value, "calibration", "the data hold NaN or infinity",
                      "clean the data");
    most = std::max({most, -extremes[i].min, extremes[i].max});
    skipped += zeros[i];
  }
  reach(most);
  if (last_ == 0)
    counts_[0] += static_cast<int64_t>(values.size());
  else
    for (size_t start = 0; start < values.size(); start += part_size)
      count(values.subspan(start, std::min<size_t>(part_size, values.size() - start)));
  counts_[0] -= skipped;
  total_ += static_cast<int64_t>(values.size()) - skipped;
}

void MagnitudeHistogram::count(std::span<const float> values) {
  const auto tasks = static_cast<int64_t>((values.size() + chunk - 1) / chunk);
  ThreadPool& pool = default_pool();
  std::vector<std::vector<uint32_t>> local(static_cast<size_t>(pool.size()));
  const size_t bins = counts_.size();
  auto task = [&](int64_t i, int thread) {
    auto& counts = local[static_cast<size_t>(thread)];
    if (counts.empty()) counts.assign(tables * bins, 0);
    const auto start = static_cast<size_t>(i * chunk);
    count_chunk(values.subspan(start, std::min<size_t>(chunk, values.size() - start)),
                static_cast<int>(bins), last_, counts.data());
  };
  pool.run(tasks, task);
  for (const auto& counts : local)
    for (size_t i = 0; i < counts.size(); ++i) counts_[i % bins] += counts[i];
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
