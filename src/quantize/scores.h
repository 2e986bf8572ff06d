// What is measured of a quantized network, sample by sample, and figures made of it.
#pragma once
#include <functional>
#include <nlohmann/json_fwd.hpp>
#include <span>
#include <string>
#include <vector>

#include "evaluate/bootstrap.h"
#include "graph/tensor.h"

namespace octavo {

// A caller's own measure of one sample's outputs; more is better.
using Metric = std::function<double(std::span<const Tensor> outputs, size_t sample)>;

// Of one sample; figures of many are made of sums, so that order and grouping do not matter.
struct Score {
  double signal = 0, noise = 0;  // sum y^2, sum (y - y')^2 over all f32 outputs
  int64_t rows = 0, same = 0;    // of the first output, and where its largest element agrees
  double metric = 0;             // the caller's
};

// Compares outputs with the float network's.
Score score_of(std::span<const Tensor> truth, std::span<const Tensor> outputs);

struct Figure {
  double value = 0;
  Interval interval;  // of 95% confidence, see bootstrap.h
};

constexpr double not_finite_db = -1000;  // SQNR of outputs that are NaN or infinite

struct Figures {
  Figure sqnr_db;    // infinite where nothing is lost
  Figure agreement;  // of the largest element along the first output's last axis
  bool has_agreement = false;
  Figure metric;
};
Figures figures_of(std::span<const Score> scores);

// {"value", "interval": [low, high]}; null for infinite values.
nlohmann::json to_json(const Figure& figure);

}  // namespace octavo
