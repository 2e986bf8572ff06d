// Products quantized one after the other, in graph order: each sees what the quantized products
// before it make of the data, rounds its weights for that, and corrects its bias by the mean error
// that is left.
//
// The float network's part, a mean for each output channel, does not depend on ranges or rounding
// and is measured once. Of the quantized network only the integer tensors between one product and
// the next are held, for all samples or, if they exceed a limit, for as many, evenly spread, as it
// allows. Sums are exact or taken in order: the result depends on no thread count.
#pragma once
#include <map>
#include <string>
#include <vector>

#include "evaluate/dataset.h"
#include "quantize/apply.h"
#include "quantize/placement/placement.h"
#include "quantize/progress.h"

namespace octavo {

struct LayerMethods {
  std::string weights = "gptq";  // max, mse, gptq or adaround
  bool correct_bias = true;
};

class LayerByLayer {
 public:
  // At most `most_samples` of the data (0: all) and `most_bytes` of tensors are held. The arguments
  // must outlive this.
  LayerByLayer(const Graph& graph, const Placement& placement, const Dataset& data,
               size_t most_samples, size_t most_bytes, int threads);

  // By node name, as apply_quantization wants them.
  std::map<std::string, WeightParams> run(
      const std::map<std::string, ActivationParams>& activations, const LayerMethods& methods,
      const Progress& progress);

  // How many samples it looks at: known after the first run.
  size_t samples() const { return chosen_.size(); }

 private:
  void choose_samples(const Graph& quantized, const std::vector<std::vector<std::string>>& cuts);
  void measure_float(const Progress& progress);

  const Graph& graph_;
  const Placement& placement_;
  const Dataset& data_;
  size_t most_samples_, most_bytes_;
  int threads_;
  std::vector<size_t> chosen_;
  std::vector<std::vector<double>> float_means_;  // of each product, its residual added
};

}  // namespace octavo
