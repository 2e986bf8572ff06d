// Every FP32 convolution kernel against a naive one in float64, within the bound of any order of
// summation, on every instruction set of this machine; bit-equal for any number of threads.
#include <gtest/gtest.h>

#include <array>
#include <cfloat>
#include <cmath>
#include <cstring>
#include <random>

#include "backends/cpu/conv.h"
#include "graph/tensor.h"
#include "support/buffer.h"

namespace octavo::cpu {
namespace {

// Inputs end where their allocation ends, so that a sanitizer sees reads beyond them.
struct Case {
  ConvProblem p;
  std::vector<float> weights, bias, x, residual;
};

struct Expected {
  std::vector<double> y, bound;
};

double half(const Case& c, double sum) {
  const Tensor one = Tensor::scalar(sum);
  const DType type = c.p.round == HalfType::f16 ? DType::f16 : DType::bf16;
  return convert(convert(one, type), DType::f64).values<double>()[0];
}

Expected expected(const Case& c) {
  const ConvShape& s = c.p.shape;
  const int64_t in = s.c_in / s.groups, out = s.c_out / s.groups;
  Expected e;
  for (int64_t n = 0; n < s.n; ++n)
    for (int64_t oy = 0; oy < s.oh; ++oy)
      for (int64_t ox = 0; ox < s.ow; ++ox)
        for (int64_t oc = 0; oc < s.c_out; ++oc) {
          double sum = c.p.bias ? c.p.bias[oc] : 0, magnitude = std::abs(sum);
          for (int64_t ky = 0; ky < s.kh; ++ky)
            for (int64_t kx = 0; kx < s.kw; ++kx) {
              const int64_t iy = oy * s.stride_h + ky * s.dilation_h - s.pad_top;
              const int64_t ix = ox * s.stride_w + kx * s.dilation_w - s.pad_left;
              if (iy < 0 || iy >= s.h || ix < 0 || ix >= s.w) continue;
              for (int64_t ci = 0; ci < in; ++ci) {
                const int64_t i = ((n * s.h + iy) * s.w + ix) * s.c_in + oc / out * in + ci;
                const int64_t w = ((oc * in + ci) * s.kh + ky) * s.kw + kx;
                const double product = static_cast<double>(c.x[static_cast<size_t>(i)]) *
                                       c.weights[static_cast<size_t>(w)];
                sum += product;
                magnitude += std::abs(product);
              }
            }
          // u a product and u an addition: K + 4 roundings on the longest path, u = eps / 2.
          const double roundings = static_cast<double>(in * s.kh * s.kw + 4);
          double step = 0;
          if (c.p.round != HalfType::none) {
            // Where the sum lies near the middle of two halves it may become the other one.
            const double off = roundings * FLT_EPSILON / 2 * 1.001 * magnitude;
            step = half(c, sum + off) - half(c, sum - off);
            sum = half(c, sum);
            magnitude = std::abs(sum);
          }
          if (c.p.residual) {
            const double r = c.residual[e.y.size()];
            sum += r;
            magnitude += std::abs(r);
          }
          if (sum < 0) sum *= c.p.negative_slope;
          // Of a sum that is rounded only what follows: residual and slope, two roundings.
          const double after = c.p.round == HalfType::none ? roundings : 2;
          e.bound.push_back(step + after * FLT_EPSILON / 2 * 1.001 * (magnitude + step));
          sum = std::max(sum, static_cast<double>(c.p.clamp_lo));
          e.y.push_back(std::min(sum, static_cast<double>(c.p.clamp_hi)));
        }
  return e;
}

std::vector<float> run(const ConvKernel& kernel, const Case& c, ThreadPool& pool) {
  const ConvShape& s = c.p.shape;
  std::vector<float> y(static_cast<size_t>(s.n * s.oh * s.ow * s.c_out), NAN);
  const auto scratch = Buffer::allocate(kernel.scratch_bytes(pool.size()));
  if (scratch->size() > 0) std::memset(scratch->mutable_data(), 0xff, scratch->size());
  kernel.run({c.x.data(), c.residual.empty() ? nullptr : c.residual.data(), y.data(),
              scratch->mutable_data()},
             pool);
  return y;
}

void check(const Case& c) {
  const ConvShape& s = c.p.shape;
  SCOPED_TRACE(
      fmt::format("n {} h {} w {} c_in {} oh {} ow {} c_out {} k {}x{} stride {}x{} pad "
                  "{},{} dilation {}x{} groups {}",
                  s.n, s.h, s.w, s.c_in, s.oh, s.ow, s.c_out, s.kh, s.kw, s.stride_h, s.stride_w,
                  s.pad_top, s.pad_left, s.dilation_h, s.dilation_w, s.groups));
  static ThreadPool one(1), two(2), three(3);
  const Expected e = expected(c);
  for (const ConvImplementation& implementation : conv_f32_list()) {
    if (implementation.isa > hardware_isa()) continue;
    std::string why;
    const auto kernel = implementation.create(c.p, why);
    if (!kernel) {
      EXPECT_FALSE(why.empty());
      continue;
    }
    EXPECT_STREQ(kernel->name(), implementation.name);
    EXPECT_EQ(kernel->isa(), implementation.isa);
    const std::vector<float> y = run(*kernel, c, one);
    for (size_t i = 0; i < y.size(); ++i)
      ASSERT_LE(std::abs(y[i] - e.y[i]), e.bound[i]) << implementation.name << " at " << i;
    for (ThreadPool* pool : {&two, &three}) {
      const std::vector<float> again = run(*kernel, c, *pool);
      ASSERT_EQ(0, std::memcmp(y.data(), again.data(), y.size() * sizeof(float)))
          << implementation.name << " with " << pool->size() << " threads";
    }
  }
}

class ConvF32 : public testing::Test {
 protected:
  void SetUp() override {
    seed_ = std::random_device{}();
    if (const char* text = std::getenv("OCTAVO_TEST_SEED"))
      seed_ = static_cast<unsigned>(std::stoul(text));
    random_.seed(seed_);
    RecordProperty("seed", std::to_string(seed_));
  }
  void TearDown() override {
    if (HasFailure()) printf("repeat with OCTAVO_TEST_SEED=%u\n", seed_);
  }

  int64_t pick(int64_t lo, int64_t hi) {
    return std::uniform_int_distribution<int64_t>(lo, hi)(random_);
  }
  std::vector<float> values(int64_t count) {
    std::normal_distribution<float> normal;
    std::vector<float> v(static_cast<size_t>(count));
    for (float& f : v) f = normal(random_);
    return v;
  }
  // Fills the output size from the padding behind, and the data.
  void fill_and_check(ConvShape s, int64_t pad_bottom, int64_t pad_right) {
    s.oh = (s.h + s.pad_top + pad_bottom - (s.kh - 1) * s.dilation_h - 1) / s.stride_h + 1;
    s.ow = (s.w + s.pad_left + pad_right - (s.kw - 1) * s.dilation_w - 1) / s.stride_w + 1;
    Case c;
    c.p.shape = s;
    c.weights = values(s.c_out * s.c_in / s.groups * s.kh * s.kw);
    c.bias = values(s.c_out);
    c.x = values(s.n * s.h * s.w * s.c_in);
    c.p.weights = c.weights.data();
    if (pick(0, 2) > 0) c.p.bias = c.bias.data();
    if (pick(0, 2) == 0) {
      c.p.residual = Element::f32;
      c.residual = values(s.n * s.oh * s.ow * s.c_out);
    }
    c.p.round = std::array{HalfType::none, HalfType::f16, HalfType::bf16}[pick(0, 4) % 3];
    if (pick(0, 2) == 0) c.p.negative_slope = 0.1f;
    if (pick(0, 1)) c.p.clamp_lo = 0;
    if (pick(0, 1)) c.p.clamp_hi = 6;
    check(c);
  }

  unsigned seed_ = 0;
  std::mt19937 random_;
};

TEST_F(ConvF32, RandomShapes) {
  for (int i = 0; i < 150; ++i) {
    ConvShape s;
    s.groups = pick(0, 3) ? 1 : pick(2, 4);
    s.c_in = s.groups * pick(1, pick(0, 1) ? 5 : 40);
    s.c_out = s.groups * pick(1, pick(0, 1) ? 20 : 150);
    s.kh = pick(1, 4), s.kw = pick(1, 4);
    s.stride_h = pick(1, 3), s.stride_w = pick(1, 3);
    s.dilation_h = pick(1, 2), s.dilation_w = pick(0, 3) ? 1 : 2;
    s.pad_top = pick(0, 3), s.pad_left = pick(0, 3);
    s.n = pick(1, 2);
    s.h = (s.kh - 1) * s.dilation_h + pick(1, 8), s.w = (s.kw - 1) * s.dilation_w + pick(1, 12);
    fill_and_check(s, pick(0, 3), pick(0, 3));
    if (HasFatalFailure()) return;
  }
}

TEST_F(ConvF32, Depthwise) {
  for (int i = 0; i < 100; ++i) {
    ConvShape s;
    s.c_in = s.c_out = s.groups = pick(2, 70);
    s.kh = pick(1, 5), s.kw = pick(1, 5);
    s.stride_h = pick(1, 2), s.stride_w = pick(1, 3);
    s.dilation_h = pick(1, 2), s.dilation_w = pick(0, 3) ? 1 : 2;
    s.pad_top = pick(0, 4), s.pad_left = pick(0, 4);
    s.n = pick(1, 2);
    s.h = pick(1, 8) + (s.kh - 1) * s.dilation_h, s.w = pick(1, 24) + (s.kw - 1) * s.dilation_w;
    fill_and_check(s, pick(0, 4), pick(0, 4));
    if (HasFatalFailure()) return;
  }
}

TEST_F(ConvF32, WindowLargerThanTheImage) {
  for (int64_t groups : {1, 19}) {
    ConvShape s{.n = 1,
                .h = 2,
                .w = 3,
                .c_in = 19,
                .c_out = 19,
                .kh = 5,
                .kw = 7,
                .pad_top = 3,
                .pad_left = 6,
                .groups = groups};
    fill_and_check(s, 2, 5);
  }
  fill_and_check(
      {.h = 2, .w = 3, .c_in = 3, .c_out = 33, .kh = 5, .kw = 7, .pad_top = 3, .pad_left = 6}, 2,
      5);
}

// Sums deep enough to be cut, inside a segment and between segments.
TEST_F(ConvF32, Deep) {
  fill_and_check({.w = 19, .c_in = 2050, .c_out = 70}, 0, 0);
  fill_and_check({.w = 1, .c_in = 1280, .c_out = 1000}, 0, 0);
  fill_and_check(
      {.h = 5, .w = 5, .c_in = 300, .c_out = 37, .kh = 3, .kw = 3, .pad_top = 1, .pad_left = 1}, 1,
      1);
  fill_and_check(
      {.h = 4, .w = 3, .c_in = 1030, .c_out = 20, .kh = 3, .kw = 2, .pad_top = 1, .pad_left = 1}, 1,
      1);
  fill_and_check(
      {.h = 14, .w = 14, .c_in = 11, .c_out = 20, .kh = 11, .kw = 9, .pad_top = 5, .pad_left = 4},
      5, 4);
}

TEST_F(ConvF32, ManyRows) {
  fill_and_check({.n = 2, .h = 17, .w = 19, .c_in = 16, .c_out = 96}, 0, 0);
  fill_and_check(
      {.h = 31, .w = 33, .c_in = 3, .c_out = 32, .kh = 3, .kw = 3, .stride_h = 2, .stride_w = 2}, 1,
      1);
  fill_and_check({.h = 40,
                  .w = 30,
                  .c_in = 3,
                  .c_out = 64,
                  .kh = 7,
                  .kw = 7,
                  .stride_h = 2,
                  .stride_w = 2,
                  .pad_top = 3,
                  .pad_left = 3},
                 3, 3);
}

TEST(ConvF32List, DeclinersSayWhy) {
  const std::vector<float> weights(9);
  ConvProblem p;
  p.weights = weights.data();
  p.shape = {.h = 3, .w = 3, .kh = 3, .kw = 3};
  p.y = Element::u8;
  std::vector<Declined> declined;
  EXPECT_EQ(make_conv(p, &declined), nullptr);
  EXPECT_EQ(declined.size(), conv_f32_list().size());
  for (const Declined& d : declined) EXPECT_FALSE(d.reason.empty()) << d.kernel;
}

}  // namespace
}  // namespace octavo::cpu
