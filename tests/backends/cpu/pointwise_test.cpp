#include "backends/cpu/pointwise.h"

#include <gtest/gtest.h>

#include <cmath>
#include <random>

namespace octavo::cpu {
namespace {

// y0 = (a - b) * s, y1 = a + y0 (and a is read once more), y2 = sqrt(|b|) / y1, each in float32.
Pointwise program(int64_t count) {
  Pointwise p;
  p.count = count;
  p.dims = {count};
  p.inputs.resize(3);
  p.inputs[2].form = PointwiseInput::Form::scalar;
  const auto binary = [&](BinaryOp op, int a, int b, int y) {
    p.code.push_back({.kind = PointwiseKind::binary, .binary = op, .a = a, .b = b, .y = y});
  };
  const auto unary = [&](UnaryOp op, int a, int y) {
    p.code.push_back({.kind = PointwiseKind::unary, .unary = op, .a = a, .y = y});
  };
  binary(BinaryOp::sub, 0, 1, 3);
  binary(BinaryOp::mul, 3, 2, 3);
  binary(BinaryOp::add, 0, 3, 4);
  unary(UnaryOp::abs, 1, 5);
  unary(UnaryOp::sqrt, 5, 5);
  binary(BinaryOp::div, 5, 4, 5);
  p.temporaries = 3;
  p.outputs = {
      {.from = 3, .boolean = false}, {.from = 4, .boolean = false}, {.from = 5, .boolean = false}};
  finish_pointwise(p);
  return p;
}

struct Expected {
  std::vector<float> y[3];
};
Expected expected(const std::vector<float>& a, const std::vector<float>& b, float s) {
  Expected e;
  for (size_t i = 0; i < a.size(); ++i) {
    const float y0 = (a[i] - b[i]) * s, y1 = a[i] + y0;
    e.y[0].push_back(y0);
    e.y[1].push_back(y1);
    e.y[2].push_back(std::sqrt(std::abs(b[i])) / y1);
  }
  return e;
}

class PointwiseTest : public testing::TestWithParam<std::tuple<int64_t, int>> {
 protected:
  void SetUp() override {
    std::mt19937 random(1);
    std::uniform_real_distribution<float> number(-2, 2);
    a.resize(static_cast<size_t>(count));
    b = a;
    for (auto* x : {&a, &b})
      for (float& value : *x) value = number(random);
  }

  void run(std::array<float*, 3> out) {
    const Pointwise p = program(count);
    ThreadPool pool(threads);
    std::vector<std::byte> memory(pointwise_scratch_bytes(p, threads) + 64);
    auto* scratch = memory.data() + 64 - reinterpret_cast<uintptr_t>(memory.data()) % 64;
    const void* in[] = {a.data(), b.data(), &s};
    void* outputs[] = {out[0], out[1], out[2]};
    run_pointwise(p, in, outputs, scratch, pool);
  }

  const int64_t count = std::get<0>(GetParam());
  const int threads = std::get<1>(GetParam());
  const float s = 0.75f;
  std::vector<float> a, b;
};

TEST_P(PointwiseTest, IntoMemoryOfItsOwn) {
  const Expected e = expected(a, b, s);
  std::vector<float> y[3];
  for (auto& values : y) values.resize(a.size());
  run({y[0].data(), y[1].data(), y[2].data()});
  for (size_t k = 0; k < 3; ++k) EXPECT_EQ(y[k], e.y[k]) << k;
}

// y0 may not be written over `a`, or y1 over `b`, before what reads these has run.
TEST_P(PointwiseTest, OverInputsThatAreReadBehindIt) {
  const Expected e = expected(a, b, s);
  std::vector<float> y2(a.size());
  run({a.data(), b.data(), y2.data()});
  EXPECT_EQ(a, e.y[0]);
  EXPECT_EQ(b, e.y[1]);
  EXPECT_EQ(y2, e.y[2]);
}

TEST_P(PointwiseTest, OverInputsThatAreReadBeforeIt) {
  const Expected e = expected(a, b, s);
  std::vector<float> y0(a.size());
  run({y0.data(), a.data(), b.data()});
  EXPECT_EQ(y0, e.y[0]);
  EXPECT_EQ(a, e.y[1]);
  EXPECT_EQ(b, e.y[2]);
}

// Parts of a vector, of a tile, of what a thread takes, and many of these.
INSTANTIATE_TEST_SUITE_P(Counts, PointwiseTest,
                         testing::Combine(testing::Values(1, 15, 1024, 1030, 8192, 70001, 900007),
                                          testing::Values(1, 2)));

}  // namespace
}  // namespace octavo::cpu
