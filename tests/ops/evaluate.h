// One op by its reference kernel, for tests against formulas.
#pragma once
#include <gtest/gtest.h>

#include <cmath>
#include <random>

#include "backends/reference/interpreter.h"
#include "graph/graph.h"
#include "support/error.h"

namespace octavo::testing {

template <class T>
Tensor tensor(Dims dims, const std::vector<T>& values) {
  return Tensor::from(std::move(dims), values);
}
inline Tensor bools(Dims dims, const std::vector<int>& values) {
  Tensor t(DType::boolean, std::move(dims));
  for (size_t i = 0; i < values.size(); ++i) t.mutable_values<bool>()[i] = values[i] != 0;
  return t;
}

// Null tensors are inputs left out; all are inputs of the graph, so that nothing is constant.
inline std::vector<Tensor> evaluate(std::string_view op, const std::vector<Tensor>& inputs,
                                    Attributes attributes = {}) {
  Graph graph;
  std::vector<Value*> values;
  std::vector<Tensor> given;
  for (const Tensor& input : inputs) {
    values.push_back(input ? graph.add_input(fmt::format("x{}", given.size()), input.type())
                           : nullptr);
    if (input) given.push_back(input);
  }
  Node* node = graph.add(op, std::move(values), std::move(attributes), "node");
  for (Value* output : node->outputs()) graph.add_output(output);
  return interpret(graph, given);
}

inline Tensor evaluate_one(std::string_view op, const std::vector<Tensor>& inputs,
                           Attributes attributes = {}) {
  return evaluate(op, inputs, std::move(attributes)).front();
}

// Uniform; the seed is the test's.
inline Tensor uniform(Dims dims, uint64_t seed, double low = -2, double high = 2) {
  std::mt19937_64 generator(seed);
  std::uniform_real_distribution<double> distribution(low, high);
  Tensor t(DType::f32, std::move(dims));
  for (float& v : t.mutable_values<float>()) v = static_cast<float>(distribution(generator));
  return t;
}

// A float64 result rounded once to the element type is at most half a unit in the last place away,
// and a little for the float64 arithmetic before it.
inline void expect_rounded(const Tensor& y, const std::vector<double>& wanted, double slack = 0) {
  const double half_unit = y.dtype() == DType::f32    ? 0x1p-24
                           : y.dtype() == DType::f16  ? 0x1p-11
                           : y.dtype() == DType::bf16 ? 0x1p-8
                                                      : 0x1p-50;
  const double least = y.dtype() == DType::f16 ? 0x1p-25 : 0x1p-150;
  const auto got = y.to_doubles();
  ASSERT_EQ(got.size(), wanted.size());
  for (size_t i = 0; i < got.size(); ++i) {
    if (std::isnan(wanted[i])) {
      EXPECT_TRUE(std::isnan(got[i])) << "element " << i;
    } else if (std::isinf(wanted[i]) || got[i] == wanted[i]) {
      EXPECT_EQ(got[i], wanted[i]) << "element " << i;
    } else {
      EXPECT_LE(std::abs(got[i] - wanted[i]),
                std::max(half_unit * 1.0001 * std::abs(wanted[i]), least) + slack)
          << "element " << i << ": " << got[i] << " instead of " << wanted[i];
    }
  }
}

inline std::string error_of(const std::function<void()>& f) {
  try {
    f();
  } catch (const UserError& e) {
    return e.what();
  }
  return "no error";
}

}  // namespace octavo::testing
