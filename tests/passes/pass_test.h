// What the tests of passes share.
#pragma once
#include <gtest/gtest.h>

#include <cmath>
#include <random>
#include <string>
#include <vector>

#include "graph/graph.h"
#include "graph/same_graph.h"
#include "graph/text.h"
#include "graph/verify.h"

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

// What one pass makes of it, dead nodes gone, checked against the stage's grammar.
inline Graph after(const Graph& before, void (*pass)(Graph&), Stage stage = Stage::captured) {
  Graph graph = before.clone();
  pass(graph);
  graph.remove_dead();
  verify(graph, stage, "pass");
  return graph;
}

// Both as text: nodes, their order, attributes and constants, and the names of outputs. Nodes and
// constants that a pass makes may have any name.
inline void expect_graph(const Graph& got, const char* text) {
  const Graph want = parse_graph(text);
  std::string difference;
  EXPECT_TRUE(same_graph(want, got, &difference, {.names = false})) << difference << "\n"
                                                                    << print_graph(got);
  ASSERT_EQ(want.outputs().size(), got.outputs().size());
  for (size_t i = 0; i < want.outputs().size(); ++i)
    EXPECT_EQ(want.outputs()[i]->name(), got.outputs()[i]->name());
}

}  // namespace octavo
