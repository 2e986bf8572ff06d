// The histograms of all placed activations: collected in one pass, merged, saved.
#pragma once
#include <map>
#include <span>
#include <string>
#include <vector>

#include "graph/tensor.h"
#include "quantize/calibrators/statistics.h"
#include "support/thread_pool.h"

namespace octavo {

class ActivationStatistics {
 public:
  explicit ActivationStatistics(std::vector<std::string> names);

  const std::vector<std::string>& names() const { return names_; }
  const HistogramStatistics& at(const std::string& name) const { return histograms_.at(name); }
  size_t samples() const { return samples_; }

  // For each sample a tensor for each name, from index `first` on. UserError naming tensor and
  // sample on NaN or infinity; of these samples some tensors are then counted.
  void collect(std::span<const std::vector<Tensor>> samples, size_t first, ThreadPool& pool);

  // A count, then for each tensor its name and histogram, each preceded by its length.
  std::string serialize() const;
  // As if this had seen the other's data too. UserError (file) on damaged bytes or those of another
  // network; the statistics are then as before.
  void merge(const std::string& bytes, const std::string& where);

 private:
  std::vector<std::string> names_;
  std::map<std::string, HistogramStatistics> histograms_;
  size_t samples_ = 0;
};

}  // namespace octavo
