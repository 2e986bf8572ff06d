// What a product (conv, gemm, matmul) sees of its input, one row for each output position: of a
// quantized one integers q - z. Padding counts as 0.
#pragma once
#include <cstdint>
#include <vector>

#include "graph/tensor.h"
#include "quantize/algorithms/second_moments.h"
#include "quantize/placement/placement.h"

namespace octavo {

// A product as a matrix of rows: output channel o of group g = o / (channels / groups) is the sum
// over k of W[o, k] x[g * length + k].
struct ProductShape {
  const Node* node;
  size_t channels, groups, length;  // length: of one row of the weights
  Ints kernel;                      // of a conv; empty: a matrix
};

// Whether the methods that look at inputs know this product; what they do not know is rounded to
// nearest without correction.
bool has_product_shape(const PlacedWeights& placed);
ProductShape product_shape(const PlacedWeights& placed);

// Sums over all output positions: what the mean of the output follows from.
struct InputSums {
  std::vector<int64_t> sums;  // [groups * length]
  int64_t positions = 0;
  void add(const InputSums& other);
};
InputSums input_sums(const ProductShape& product, const Tensor& x, int32_t zero_point);

// Output positions drawn from several inputs, at most `per_input` of each: one of each of as many
// equal stretches, the same ones for the same seed.
class InputSamples {
 public:
  InputSamples(const ProductShape& product, const std::vector<Tensor>& inputs, int32_t zero_point,
               size_t per_input, uint64_t seed);
  size_t rows() const { return source_.size(); }
  // Row n's inputs of a group as column n - first of a matrix, for n in [first, first + count).
  ShortMatrix gather(size_t group, size_t first, size_t count, ThreadPool& pool) const;
  // Of f32 inputs and one group: [rows, length].
  std::vector<float> gather_floats() const;

 private:
  const ProductShape& product_;
  const std::vector<Tensor>& inputs_;
  int32_t zero_point_;
  size_t taps_;
  std::vector<uint32_t> source_;      // of each row: which input
  std::vector<int64_t> offsets_;      // [taps][rows]: in the input's first channel; -1: padding
  std::vector<size_t> channel_step_;  // of each input
};

}  // namespace octavo
