// What the tests of passes share.
#pragma once
#include <gtest/gtest.h>

#include <cmath>
#include <random>
#include <string>
#include <vector>

#include "graph/graph.h"

namespace octavo {

using Names = std::vector<std::string>;

inline Names ops(const Graph& graph) {
  Names names;
  graph.for_each([&](Node& node) { names.emplace_back(node.op_name()); });
  return names;
}

// Normal values for inputs of f32 whose shapes are known.
inline std::vector<Tensor> noise(const Graph& graph, uint64_t seed) {
  std::mt19937_64 generator(seed);
  std::normal_distribution<float> normal;
  std::vector<Tensor> inputs;
  for (const Value* input : graph.inputs()) {
    Tensor x(DType::f32, input->shape().dims());
    for (float& v : x.mutable_values<float>()) v = normal(generator);
    inputs.push_back(x);
  }
  return inputs;
}

inline double largest_difference(const Tensor& a, const Tensor& b) {
  EXPECT_EQ(a.dims(), b.dims());
  const auto p = a.to_doubles(), q = b.to_doubles();
  double most = 0;
  for (size_t i = 0; i < p.size(); ++i) most = std::max(most, std::abs(p[i] - q[i]));
  return most;
}

}  // namespace octavo
