// Post-training quantization, static: one pass over the data feeds the statistics of every
// activation; any number of calibrators then choose ranges from the same statistics.
#pragma once
#include <functional>
#include <map>
#include <memory>
#include <nlohmann/json_fwd.hpp>
#include <string>
#include <vector>

#include "evaluate/dataset.h"
#include "quantize/apply.h"
#include "quantize/placement/placement.h"

namespace octavo {

// Called between samples: what is being done, samples done, samples in all. May throw to interrupt.
using Progress = std::function<void(const char* phase, size_t done, size_t total)>;

struct PtqOptions {
  std::string target = "octavo";
  Rules rules;
  // "mse": the scale of least squared error; "max": the largest magnitude.
  std::string weights = "mse";
  bool correct_bias = true;
  size_t most_samples = 0;  // 0: all
  int threads = 0;
};

class Ptq {
 public:
  // Takes a float graph (captured or canonical); UserError if it is quantized already or nothing in
  // it can be.
  Ptq(Graph graph, PtqOptions options);
  ~Ptq();
  Ptq(Ptq&&) noexcept;

  // The canonical float graph, BN folded.
  const Graph& graph() const;
  const Placement& placement() const;

  // Streams the data once; may be called again with more data.
  void calibrate(const Dataset& data, const Progress& progress = {});
  size_t samples() const;

  // Statistics of all activations as mergeable bytes, and back (shards of one data set).
  std::string statistics() const;
  void merge_statistics(const std::string& bytes, const std::string& where);

  // UserError if nothing was calibrated or the calibrator is not known. `data` feeds the methods
  // that look at samples again (gptq, bias correction).
  Graph quantize(const std::string& calibrator, const Dataset& data,
                 const Progress& progress = {}) const;

  // Ranges and parameters chosen by a calibrator, by value name (for records and reports).
  nlohmann::json describe(const std::string& calibrator) const;

 private:
  struct State;
  std::unique_ptr<State> s_;
};

// SQNR of every quantized tensor and of the outputs, float program against quantized program.
struct TensorError {
  std::string name;
  double sqnr_db;
};
struct Comparison {
  std::vector<TensorError> tensors;  // in graph order
  double output_sqnr_db = 0;
  double agreement = 0, confident_agreement = 0;  // of the first output's last axis
  size_t samples = 0, confident_samples = 0;
};
Comparison compare(const Graph& float_graph, const Graph& quantized, const Dataset& data,
                   int threads, const Progress& progress = {});

// Below this a layer's output carries little of the float signal: warn.
constexpr double collapsed_sqnr_db = 5;

}  // namespace octavo
