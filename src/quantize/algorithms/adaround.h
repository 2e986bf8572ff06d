// AdaRound (Nagel et al., arXiv 2004.10568): whether each weight is rounded up or down is learned.
// A weight w becomes s (floor(w / s) + h(v)), h a sigmoid stretched to [-0.1, 1.1] and clipped to
// [0, 1]; Adam minimises the squared error of the layer's outputs plus a term that drives every h
// to 0 or 1, sum of 1 - |2 h - 1|^b, b falling from 20 to 2.
//
// Of the paper's two objectives this is the layer's output before the activation: with
// d = W / s - Q, d' H d, H the centred second moments of the quantized network's inputs. So no data
// are needed in the loop.
#pragma once
#include <cstdint>
#include <span>
#include <vector>

#include "quantize/algorithms/gptq.h"

namespace octavo {

struct AdaRoundOptions {
  int iterations = 200;
  double rate = 0.03;    // of Adam
  double push = 0.2;     // weight of the second term, the mean of H's diagonal being 1
  double warm_up = 0.2;  // part of the iterations without it
};

// As gptq_round: [count, rows.length] in [-127, 127]. A row keeps nearest rounding where that has
// the smaller quadratic form.
std::vector<int8_t> adaround(const WeightRows& rows, std::span<const float> scales, size_t first,
                             size_t count, const Moments& moments, ThreadPool& pool,
                             const AdaRoundOptions& options = {});

}  // namespace octavo
