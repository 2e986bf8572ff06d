// GPTQ (Frantar et al., arXiv 2210.17323): weights rounded one input after the other, each error
// made good, as far as the data allow, by the weights not yet rounded.
#pragma once
#include <cstdint>
#include <span>
#include <vector>

#include "quantize/integer_weights.h"
#include "quantize/weights.h"
#include "support/thread_pool.h"

namespace octavo {

// Symmetric positive definite, row-major: the second moments of a layer's input.
struct Moments {
  size_t size = 0;
  std::vector<double> values;
};

// Integers in [-127, 127] of rows [first, first + count) of `rows`, [count, rows.length], whose
// inputs have these moments. With d = W / s - Q of a row and H = moments + (damping * mean of their
// diagonal + 1e-12) I, makes d' H d small, and never larger than rounding to nearest does.
// The order of the inputs is by falling diagonal of H; equal ones keep their order.
std::vector<int8_t> gptq_round(const WeightRows& rows, std::span<const float> scales, size_t first,
                               size_t count, const Moments& moments, double damping,
                               ThreadPool& pool);

// The same on the grids that `grouped` has, of any number of bits: each group of a row keeps its
// scale and zero point, which are chosen before, so that inputs can go in any order; the values
// are chosen anew. `moments` are of a row's inputs; a row keeps nearest rounding where that is
// better.
void gptq_round(const WeightRows& rows, GroupedRows& grouped, const Moments& moments,
                double damping, ThreadPool& pool);

// In place: the lower triangle L of a = L L', for a symmetric positive definite matrix whose lower
// triangle is given; the upper one is left alone. False if a is not positive definite.
bool cholesky(std::vector<double>& a, size_t size, ThreadPool& pool);

}  // namespace octavo
