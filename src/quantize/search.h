// Mixed precision: which layers to leave in float so that a network is accurate enough, at the
// least latency.
//
//  1. Each layer's harm is what quantizing it alone costs (sensitivity, mode only), its gain what
//     the fully quantized network takes longer when the layer is float, measured.
//  2. Layers go to float in the order of harm per microsecond. Of the networks on the way some are
//     tried: with 0, 1, 2, 3, 4, 6, 8, 12, … float layers, all of them, and by bisection between
//     the last that is not accurate enough and the first that is.
//  3. Each is quantized as `octavo quantize --smooth none` would, judged, and timed against the
//     others.
// This follows the order of sensitivity of "HAWQ-V3: Dyadic Neural Network Quantization" (Yao et
// al., 2021) with measured times in place of modelled ones, greedily.
#pragma once
#include <optional>
#include <string>
#include <vector>

#include "quantize/latency.h"
#include "quantize/sensitivity.h"

namespace octavo {

struct SearchOptions {
  SensitivityOptions sensitivity;  // its mode is only
  // Exactly one: the most that may be lost against float (agreement, a custom metric), or the least
  // that must be reached.
  std::optional<double> max_drop, least;
  std::string weights = "gptq";  // of the networks that are tried
  bool correct_bias = true;
  Latency latency;  // empty: measure_latency
};

struct SearchPoint {
  std::vector<std::string> float_layers;  // names
  Rules rules;
  Figures figures;
  double value = 0;  // of the metric
  double drop = 0;   // float's less this; infinite for sqnr
  double microseconds = 0;
  bool enough = false;    // accurate enough
  bool on_front = false;  // none is as accurate and as fast, and better in one of both
};

struct SearchResult {
  SensitivityResult sensitivity;
  std::vector<double> gains;        // microseconds, of each layer of `sensitivity`
  std::vector<SearchPoint> points;  // the fewest float layers first; the last is all float
  std::vector<Graph> graphs;        // of the points
  size_t chosen = 0;                // the fastest that is accurate enough
};

// UserError: as sensitivity; no limit or two; a drop of sqnr; a limit that float does not reach.
SearchResult search(Variants& variants, const Dataset& data, const SearchOptions& options,
                    const Progress& progress = {});

}  // namespace octavo
