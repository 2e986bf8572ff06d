#include "quantize/algorithms/input_moments.h"

#include <gtest/gtest.h>

#include <cmath>
#include <random>

#include "support/error.h"

namespace octavo {
namespace {

class Samples : public Dataset {
 public:
  std::vector<Tensor> tensors;
  size_t size() const override { return tensors.size(); }
  std::vector<Tensor> sample(size_t i) const override { return {tensors[i]}; }
};

Tensor noise(std::mt19937_64& random, const Dims& dims) {
  std::normal_distribution<float> normal(0.3f);
  Tensor t(DType::f32, dims);
  for (float& v : t.mutable_values<float>()) v = normal(random);
  return t;
}

// Sums of float32 products of n rows, 256 at a time: each rounding is eps / 2 of a partial sum.
void expect_near(double got, double want, double magnitude, size_t n) {
  const double steps = static_cast<double>(std::min<size_t>(n, 256)) + 2;
  EXPECT_NEAR(got, want, steps * 0x1p-24 * magnitude);
}

TEST(InputMoments, OfMatricesAreSharedByTheirReaders) {
  const auto seed = static_cast<uint64_t>(std::random_device{}());
  SCOPED_TRACE(fmt::format("seed {}", seed));
  std::mt19937_64 random(seed);
  Graph graph;
  graph.stage = Stage::canonical;
  Value* x = graph.add_input("x", {DType::f32, Shape(Dims{2, 37, 11})});
  std::vector<PlacedWeights> products;
  for (const char* name : {"a", "b"}) {
    Value* w = graph.add_constant(std::string("w") + name, noise(random, {11, 5}));
    Value* y = graph.apply("matmul", {x, w}, {}, name);
    graph.add_output(y);
    products.push_back({y->producer(), 1});
  }
  Samples data;
  for (int i = 0; i < 9; ++i) data.tensors.push_back(noise(random, {2, 37, 11}));
  std::vector<double> want(121, 0), magnitude(121, 0), mean(11, 0);
  for (const Tensor& t : data.tensors) {
    const auto v = t.values<float>();
    for (size_t n = 0; n < 74; ++n)
      for (size_t i = 0; i < 11; ++i) {
        mean[i] += std::fabs(static_cast<double>(v[n * 11 + i])) / (9 * 74);
        for (size_t j = 0; j < 11; ++j) {
          const double product = static_cast<double>(v[n * 11 + i]) * v[n * 11 + j];
          want[i * 11 + j] += product / (9 * 74);
          magnitude[i * 11 + j] += std::fabs(product) / (9 * 74);
        }
      }
  }
  std::vector<double> first;
  for (const int threads : {1, 3}) {
    int visits = 0;
    const size_t samples =
        see_inputs(graph, products, data, {.threads = threads}, {},
                   [&](std::span<const size_t> readers, const SeenInput& input) {
                     ++visits;
                     EXPECT_EQ(std::vector<size_t>(readers.begin(), readers.end()),
                               (std::vector<size_t>{0, 1}));
                     EXPECT_EQ(input.rows, 9u * 74);
                     ASSERT_EQ(input.moments.size, 11u);
                     for (size_t k = 0; k < 121; ++k)
                       expect_near(input.moments.values[k], want[k], magnitude[k], input.rows);
                     for (size_t k = 0; k < 11; ++k)
                       EXPECT_NEAR(input.magnitudes[k], mean[k], 1e-12);
                     if (first.empty()) first = input.moments.values;
                     EXPECT_EQ(first, input.moments.values);
                   });
    EXPECT_EQ(samples, 9u);
    EXPECT_EQ(visits, 1);
  }
}

TEST(InputMoments, OfConvolutionsAreOfPatches) {
  std::mt19937_64 random(17);
  Graph graph;
  graph.stage = Stage::canonical;
  Value* x = graph.add_input("x", {DType::f32, Shape(Dims{1, 3, 6, 5})});
  Value* w = graph.add_constant("w", noise(random, {4, 3, 3, 2}));
  Value* y =
      graph.apply("conv", {x, w}, {{"strides", Ints{2, 1}}, {"pads", Ints{1, 0, 1, 1}}}, "c");
  Value* w2 = graph.add_constant("w2", noise(random, {7, 4, 1, 1}));
  Value* z = graph.apply("conv", {y, w2}, {}, "d");
  graph.add_output(z);
  Samples data;
  for (int i = 0; i < 3; ++i) data.tensors.push_back(noise(random, {1, 3, 6, 5}));
  // 3 x 5 positions; rows from -1 by 2, columns from 0 by 1, one of padding on the right.
  std::vector<double> want(18 * 18, 0);
  for (const Tensor& t : data.tensors) {
    const auto v = t.values<float>();
    for (int r = 0; r < 3; ++r)
      for (int c = 0; c < 5; ++c) {
        double patch[18];
        for (int k = 0; k < 18; ++k) {
          const int h = 2 * r - 1 + k / 2 % 3, u = c + k % 2;
          patch[k] = h < 0 || h >= 6 || u >= 5 ? 0 : v[static_cast<size_t>(k / 6 * 30 + h * 5 + u)];
        }
        for (size_t i = 0; i < 18; ++i)
          for (size_t j = 0; j < 18; ++j) want[i * 18 + j] += patch[i] * patch[j] / 45;
      }
  }
  const std::vector<PlacedWeights> products{{y->producer(), 0}, {z->producer(), 0}};
  std::vector<size_t> visited;
  // A limit below one input's: each is a pass of its own.
  see_inputs(graph, products, data, {.most_bytes = 1, .threads = 2}, {},
             [&](std::span<const size_t> readers, const SeenInput& input) {
               ASSERT_EQ(readers.size(), 1u);
               visited.push_back(readers[0]);
               EXPECT_EQ(input.rows, 45u);
               ASSERT_EQ(input.moments.size, readers[0] == 1 ? 4u : 18u);
               if (readers[0] == 1) return;
               for (size_t k = 0; k < want.size(); ++k)
                 // No partial sum exceeds 45 * 5^2, ten standard deviations of a value apart.
                 expect_near(input.moments.values[k], want[k], 25, input.rows);
             });
  EXPECT_EQ(visited, (std::vector<size_t>{0, 1}));
}

TEST(InputMoments, NeedSamples) {
  std::mt19937_64 random(1);
  Graph graph;
  graph.stage = Stage::canonical;
  Value* x = graph.add_input("x", {DType::f32, Shape(Dims{2, 3})});
  Value* y = graph.apply("matmul", {x, graph.add_constant("w", noise(random, {3, 2}))}, {}, "y");
  graph.add_output(y);
  const std::vector<PlacedWeights> products{{y->producer(), 1}};
  const auto never = [](std::span<const size_t>, const SeenInput&) { FAIL(); };
  EXPECT_THROW(see_inputs(graph, products, Samples(), {}, {}, never), UserError);
}

}  // namespace
}  // namespace octavo
