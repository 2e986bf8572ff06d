// Post-training quantization. Of what is static, one pass over the data feeds the statistics of
// every activation; any number of calibrators then choose ranges from the same statistics, and each
// has its weights and biases fitted layer by layer. The rest needs no data.
#pragma once
#include <map>
#include <memory>
#include <nlohmann/json_fwd.hpp>
#include <set>
#include <string>
#include <vector>

#include "evaluate/dataset.h"
#include "quantize/apply.h"
#include "quantize/compare.h"
#include "quantize/placement/placement.h"
#include "quantize/progress.h"

namespace octavo {

struct PtqOptions {
  QuantizeMode mode = QuantizeMode::static_;
  std::string target = "octavo";
  Rules rules;          // those of products that none names come from `mode`
  std::string weights;  // of weight_method_names; empty: gptq of static products, else mse
  bool correct_bias = true;
  std::string weight_scales = "channel";  // of static products: or "tensor"
  int weight_bits = 8;                    // of mode weight_only: 8 or 4
  int64_t group_size = 0;                 // of mode weight_only: see Rule::group_size
  std::string activation = "tensor";      // of mode dynamic: or "row", see Rule::by_row
  size_t most_samples = 0;                // 0: all
  size_t most_bytes = size_t{2} << 30;    // of tensors held while layers are fitted
  int threads = 0;
  // Of activations, by name, whose range is all that the data reach, whatever the calibrator: their
  // channels were scaled for it.
  std::set<std::string> whole_ranges = {};
};

// The options' rules, and what mode, bits and group size make of products that none names.
Rules effective_rules(const PtqOptions& options);

struct LayerReport {
  std::string node, op;
  double weight_sqnr_db;
  bool calibrated = true;  // weights of the others do not depend on the calibrator
};

struct PtqResult {
  Graph graph;
  std::vector<LayerReport> layers;  // in graph order
  size_t fitted_samples = 0;        // that weights and biases were fitted on; 0: none needed
};

class Ptq {
 public:
  // Takes a float graph (captured or canonical); UserError if it is quantized already or nothing in
  // it can be.
  Ptq(Graph graph, PtqOptions options);
  ~Ptq();
  Ptq(Ptq&&) noexcept;

  // The canonical float graph, BN folded, every node and value with a name of its own.
  const Graph& graph() const;
  const Placement& placement() const;
  // Whether any product is static, so that there must be data.
  bool needs_data() const;
  // Whether weight-only products are fitted to data.
  bool fits_weights() const;
  const std::string& weight_method() const;

  // Streams the data once; may be called again with more data.
  void calibrate(const Dataset& data, const Progress& progress = {});
  size_t samples() const;

  // Statistics of all activations as mergeable bytes, and back (shards of one data set).
  std::string statistics() const;
  void merge_statistics(const std::string& bytes, const std::string& where);

  // One result for each calibrator. UserError if nothing was calibrated or a calibrator is not
  // known. `data` feeds the methods that look at samples again (gptq, bias correction); what does
  // not depend on the calibrator is measured once.
  std::vector<PtqResult> quantize(const std::vector<std::string>& calibrators, const Dataset& data,
                                  const Progress& progress = {}) const;
  // The one result of a network without static products; UserError if there are any. `data`: for
  // weight-only products that are fitted.
  PtqResult quantize(const Dataset* data = nullptr, const Progress& progress = {}) const;

  // Ranges and parameters chosen by a calibrator, by value name (for records and reports).
  nlohmann::json describe(const std::string& calibrator) const;

 private:
  struct State;
  std::unique_ptr<State> s_;
};

}  // namespace octavo
