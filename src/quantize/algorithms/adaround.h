// AdaRound (Nagel et al., arXiv 2004.10568): whether each weight is rounded up or down is learned.
// A weight w becomes s (floor(w / s) + h(v)), h a sigmoid stretched to [-0.1, 1.1] and clipped to
// [0, 1]; Adam minimises the squared error of the layer's outputs plus a term that drives every h
// to 0 or 1, sum of 1 - |2 h - 1|^b, b falling from 20 to 2.
//
// Of the paper's two objectives this is the layer's output before the activation: with
// d = W / s - Q, d' H d, H the centred second moments of the quantized network's inputs. So no data
// are needed in the loop.
//
// Three things are not the paper's, which takes 10,000 steps. The second term's weight grows: with
// a constant one a sixth of the weights had not settled when 200 steps were over, and rounding them
// then undid much of what was learned, most in wide layers. What is learned is a start: as H is
// known, single weights change their side while that lowers d' H d. And H is damped, since what it
// gains by the moments of few samples does not carry over to others.
#pragma once
#include <cstdint>
#include <span>
#include <vector>

#include "quantize/algorithms/gptq.h"

namespace octavo {

struct AdaRoundOptions {
  int iterations = 100;
  double rate = 0.08;  // of Adam
  // Weight of the second term, the mean of H's diagonal being 1: when it starts, and what is added
  // until the end.
  double push = 0.1, last_push = 4;
  double warm_up = 0.2;  // part of the iterations without it
  double damping = 0.3;  // added to H's diagonal
};

// As gptq_round: [count, rows.length] in [-127, 127]. No row has a
// larger quadratic form than rounding to nearest.
std::vector<int8_t> adaround(const WeightRows& rows, std::span<const float> scales, size_t first,
                             size_t count, const Moments& moments, ThreadPool& pool,
                             const AdaRoundOptions& options = {});

}  // namespace octavo
