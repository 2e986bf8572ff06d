#include "quantize/activation_statistics.h"

#include <cstring>

#include "support/error.h"

namespace octavo {
namespace {

void put(std::string& out, const std::string& bytes) {
  const uint64_t length = bytes.size();
  out.append(reinterpret_cast<const char*>(&length), sizeof length);
  out += bytes;
}

std::string take(const std::string& in, size_t& at, const std::string& where) {
  uint64_t length = 0;
  if (in.size() - at < sizeof length)
    throw UserError(ErrorKind::file, where, "the statistics are cut off");
  std::memcpy(&length, in.data() + at, sizeof length);
  at += sizeof length;
  if (in.size() - at < length)
    throw UserError(ErrorKind::file, where, "the statistics are cut off");
  at += length;
  return in.substr(at - length, length);
}

}  // namespace

ActivationStatistics::ActivationStatistics(std::vector<std::string> names)
    : names_(std::move(names)) {
  for (const std::string& name : names_) histograms_[name];
}

void ActivationStatistics::collect(std::span<const std::vector<Tensor>> samples, size_t first,
                                   ThreadPool& pool) {
  // Tensors side by side, each with its samples in order.
  auto task = [&](int64_t k, int) {
    const std::string& name = names_[static_cast<size_t>(k)];
    for (size_t i = 0; i < samples.size(); ++i) {
      try {
        histograms_.at(name).collect(samples[i][first + static_cast<size_t>(k)].values<float>());
      } catch (const UserError& e) {
        throw UserError(ErrorKind::value,
                        fmt::format("tensor '{}' of sample {}", name, samples_ + i), e.message(),
                        e.hint());
      }
    }
  };
  pool.run(static_cast<int64_t>(names_.size()), task);
  samples_ += samples.size();
}

std::string ActivationStatistics::serialize() const {
  std::string out;
  put(out, std::to_string(samples_));
  for (const std::string& name : names_) {
    put(out, name);
    put(out, histograms_.at(name).serialize());
  }
  return out;
}

void ActivationStatistics::merge(const std::string& bytes, const std::string& where) {
  size_t at = 0;
  const std::string count = take(bytes, at, where);
  if (count.empty() || count.size() > 18 ||
      count.find_first_not_of("0123456789") != std::string::npos)
    throw UserError(ErrorKind::file, where, "these are no statistics");
  std::map<std::string, HistogramStatistics> theirs;
  for (const std::string& name : names_) {
    if (take(bytes, at, where) != name)
      throw UserError(
          ErrorKind::file, where,
          fmt::format("the statistics are of another network or target: no '{}'", name));
    theirs[name] = HistogramStatistics::deserialize(take(bytes, at, where), where);
  }
  if (at != bytes.size())
    throw UserError(ErrorKind::file, where, "the statistics are of another network or target");
  for (const std::string& name : names_) histograms_.at(name).merge(theirs.at(name));
  samples_ += std::stoull(count);
}

}  // namespace octavo
