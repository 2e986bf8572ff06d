// Which layers lose accuracy when they are quantized.
//
// For each layer a network is made in which it alone differs, from float (only, sqnr) or from the
// fully quantized network (all_but). Of it only what follows from the layer is run, on values that
// the float or the fully quantized network has computed once for all layers. Samples are streamed:
// as many at once as `most_bytes` of such values allow, at least one for each thread. Every sample
// is measured by itself, so neither threads, chunks nor interruptions change a result. There is no
// SmoothQuant: networks are as `octavo quantize --smooth none` makes them.
#pragma once
#include <cstdint>
#include <nlohmann/json_fwd.hpp>
#include <string>
#include <vector>

#include "quantize/scores.h"
#include "quantize/variants.h"

namespace octavo {

enum class SensitivityMode {
  only,     // the layer alone is quantized; figures of the network's outputs
  all_but,  // everything is quantized but the layer
  sqnr,     // the layer alone is quantized; SQNR of the layer's own output
};
const char* mode_name(SensitivityMode mode);
// UserError naming the known modes.
SensitivityMode parse_sensitivity_mode(const std::string& name);

struct SensitivityOptions {
  SensitivityMode mode = SensitivityMode::only;
  std::string metric = "sqnr";  // what ranks: "sqnr", "agreement", or the name of `custom`
  Metric custom;                // called in order of samples, on the calling thread
  std::string calibrator = "mse";
  const Dataset* evaluation = nullptr;  // judged on; null: the calibration data
  size_t most_bytes = size_t{1} << 30;  // of held values; half as much of compiled parts
  std::string checkpoint;               // a file; empty: none
  double checkpoint_seconds = 1;        // between writes
};

struct LayerSensitivity {
  QuantizedLayer layer;
  size_t position;  // in the network, from 0
  Figures figures;
};

struct SensitivityResult {
  SensitivityMode mode;
  std::string metric;
  std::vector<LayerSensitivity> layers;  // the most sensitive first
  Figures quantized;                     // everything quantized
  double float_metric = 0;               // of a custom metric, the float network's
  size_t calibration_samples = 0, evaluation_samples = 0;
  std::vector<Score> float_scores;  // of a custom metric, for each sample

  const Figure& figure(const Figures& figures) const;  // the one that ranks
};

// UserError: see Variants; an unknown mode, metric or calibrator; a metric that does not apply or
// gives NaN; a checkpoint that is damaged or of another run.
SensitivityResult sensitivity(Variants& variants, const Dataset& data,
                              const SensitivityOptions& options, const Progress& progress = {});

}  // namespace octavo
