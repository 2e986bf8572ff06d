#include "backends/cpu/elementwise.h"

#include "backends/cpu/kernel_test.h"

namespace octavo::cpu {
namespace {

class Elementwise : public KernelTest {};

float apply(BinaryOp op, float a, float b) {
  switch (op) {
    case BinaryOp::add:
      return a + b;
    case BinaryOp::sub:
      return a - b;
    case BinaryOp::mul:
      return a * b;
    case BinaryOp::div:
      return a / b;
    case BinaryOp::min:
      return std::isnan(a) || a < b ? a : b;
    default:
      return std::isnan(a) || a > b ? a : b;
  }
}

constexpr BinaryOp binary_ops[] = {BinaryOp::add, BinaryOp::sub, BinaryOp::mul,
                                   BinaryOp::div, BinaryOp::min, BinaryOp::max};

TEST_F(Elementwise, BinaryOfEveryLayoutIsOneRounding) {
  for (int i = 0; i < 120; ++i) {
    Binary args;
    args.op = binary_ops[i % 6];
    args.outer = pick(1, 40), args.inner = pick(0, 9) ? pick(1, 90) : 40000;
    args.a_inner = pick(0, 3) > 0, args.b_inner = pick(0, 3) > 0;
    args.a_outer = pick(0, 3) ? (args.a_inner ? args.inner : 1) : 0;
    args.b_outer = pick(0, 3) ? (args.b_inner ? args.inner : 1) : 0;
    if (pick(0, 1)) args.clamp_lo = 0;
    if (pick(0, 1)) args.clamp_hi = 0.5f;
    auto a = values(args.outer * args.inner), b = values(args.outer * args.inner);
    a[0] = NAN;
    if (pick(0, 1)) b[0] = NAN;
    std::vector<float> y(a.size());
    args.a = a.data(), args.b = b.data(), args.y = y.data();
    check_kernels(binary_kernels(), args, y, [&] {
      for (int64_t o = 0, at = 0; o < args.outer; ++o)
        for (int64_t k = 0; k < args.inner; ++k, ++at) {
          const float va = a[static_cast<size_t>(o * args.a_outer + k * args.a_inner)];
          const float vb = b[static_cast<size_t>(o * args.b_outer + k * args.b_inner)];
          float f = apply(args.op, va, vb);
          if (std::isfinite(args.clamp_lo) || std::isfinite(args.clamp_hi)) {
            f = f < args.clamp_lo ? args.clamp_lo : f;  // NaN stays
            f = f > args.clamp_hi ? args.clamp_hi : f;
          }
          const float got = y[static_cast<size_t>(at)];
          ASSERT_TRUE(got == f || (std::isnan(got) && std::isnan(f)))
              << static_cast<int>(args.op) << " of " << va << ", " << vb << ": " << got;
        }
    });
    if (HasFatalFailure()) return;
  }
}

TEST_F(Elementwise, BinaryStrided) {
  // [3, 1, 5, 4] and [2, 1, 4]
  const auto a = values(60), b = values(8);
  std::vector<float> y(120);
  BinaryStrided args{.op = BinaryOp::sub,
                     .rank = 4,
                     .dims = {3, 2, 5, 4},
                     .a_steps = {20, 0, 4, 1},
                     .b_steps = {0, 4, 0, 1},
                     .clamp_lo = -0.5f,
                     .a = a.data(),
                     .b = b.data(),
                     .y = y.data()};
  check_kernels(binary_strided_kernels(), args, y, [&] {
    for (size_t i = 0; i < 120; ++i) {
      const size_t c = i % 4, h = i / 4 % 5, m = i / 20 % 2, n = i / 40;
      ASSERT_EQ(y[i], std::max(-0.5f, a[n * 20 + h * 4 + c] - b[m * 4 + c]));
    }
  });
}

struct UnaryCase {
  UnaryOp op;
  const char* name;
  double (*exact)(double);
  double ulp;       // of the exact result
  double absolute;  // times |x|
  float alpha = 0, beta = 0;
};

double exact_sigmoid(double x) { return 1 / (1 + std::exp(-x)); }

constexpr double smallest_ulp = 1.401298464324817e-45;
double ulp_of(double y) {
  int exponent;
  std::frexp(std::abs(y), &exponent);
  return std::isfinite(y) ? std::max(smallest_ulp, std::ldexp(1.0, exponent - 24)) : 1;
}

const UnaryCase unary_cases[] = {
    {UnaryOp::relu, "relu", [](double x) { return x > 0 || std::isnan(x) ? x : 0; }, 0, 0},
    {UnaryOp::clip, "clip", [](double x) { return std::isnan(x) ? x : std::clamp(x, -1.5, 3.0); },
     0, 0, -1.5f, 3},
    {UnaryOp::leaky_relu, "leaky_relu", [](double x) { return x < 0 ? 0.125 * x : x; }, 0.5, 0,
     0.125f},
    {UnaryOp::elu, "elu", [](double x) { return x < 0 ? std::expm1(x) : x; }, 2, 0, 1},
    {UnaryOp::sigmoid, "sigmoid", exact_sigmoid, 3, 0},
    {UnaryOp::hard_sigmoid, "hard_sigmoid",
     [](double x) { return std::isnan(x) ? x : std::clamp(0.25 * x + 0.5, 0.0, 1.0); }, 0.5, 0,
     0.25f, 0.5f},
    // x / 6 has one rounding, the sum another, at most u and 1.5 u of the gate.
    {UnaryOp::hard_swish, "hard_swish",
     [](double x) {
       return std::isnan(x) ? x : x <= -3 ? 0 : x >= 3 ? x : x * (x / 6 + 0.5);
     },
     0.5, FLT_EPSILON},
    {UnaryOp::silu, "silu", [](double x) { return x * exact_sigmoid(x); }, 4, 0},
    {UnaryOp::softplus, "softplus",
     [](double x) { return std::max(x, 0.0) + std::log1p(std::exp(-std::abs(x))); }, 2, 0},
    {UnaryOp::tanh, "tanh", [](double x) { return std::tanh(x); }, 2, 0},
    {UnaryOp::erf, "erf", [](double x) { return std::erf(x); }, 2, 0},
    {UnaryOp::gelu, "gelu", [](double x) { return 0.5 * x * (1 + std::erf(x / std::sqrt(2.0))); },
     0.5, 4 * FLT_EPSILON},
    {UnaryOp::exp, "exp", [](double x) { return std::exp(x); }, 2, 0},
    {UnaryOp::log, "log", [](double x) { return std::log(x); }, 1, 0},
    {UnaryOp::sqrt, "sqrt", [](double x) { return std::sqrt(x); }, 0.5, 0},
    {UnaryOp::reciprocal, "reciprocal", [](double x) { return 1 / x; }, 0.5, 0},
    {UnaryOp::neg, "neg", [](double x) { return -x; }, 0, 0},
    {UnaryOp::abs, "abs", [](double x) { return std::abs(x); }, 0, 0},
    {UnaryOp::floor, "floor", [](double x) { return std::floor(x); }, 0, 0},
    {UnaryOp::ceil, "ceil", [](double x) { return std::ceil(x); }, 0, 0},
    {UnaryOp::round, "round", [](double x) { return std::nearbyint(x); }, 0, 0},
};

TEST_F(Elementwise, UnaryWithinTheStatedError) {
  std::vector<float> x = {0.0f,    -0.0f,   INFINITY,     -INFINITY, NAN,     0.5f,
                          -0.5f,   1.5f,    2.5f,         88.722f,   88.73f,  -87.4f,
                          -100.0f, -104.0f, 1e-30f,       -1e-30f,   3.4e38f, -3.4e38f,
                          0.625f,  -0.625f, 0.927734375f, 4.0f,      -4.0f,   1e-41f};
  for (float scale : {0.01f, 1.0f, 10.0f, 100.0f})
    for (float f : values(20000, scale)) x.push_back(f);
  for (int exponent = -60; exponent < 60; ++exponent)
    for (float f : {1.1f, -1.3f, 1.7f, -1.9f}) x.push_back(std::ldexp(f, exponent));
  std::vector<float> y(x.size());
  for (const UnaryCase& c : unary_cases) {
    SCOPED_TRACE(c.name);
    Unary args{c.op, c.alpha, c.beta, static_cast<int64_t>(x.size()), x.data(), y.data()};
    check_kernels(unary_kernels(), args, y, [&] {
      double worst = 0;
      for (size_t i = 0; i < x.size(); ++i) {
        const double want = c.exact(static_cast<double>(x[i])), got = y[i];
        if (std::isnan(want) || std::isinf(static_cast<float>(want))) {
          // gelu and silu of -infinity are 0 * infinity.
          ASSERT_TRUE(std::isnan(want) ? std::isnan(got) : got == static_cast<float>(want))
              << "x " << x[i] << " got " << got;
          continue;
        }
        if (std::abs(x[i]) > 1e38f) continue;
        // Denormal values on the way cost two of the smallest steps, times x for silu.
        const double size = std::abs(static_cast<double>(x[i]));
        const double denormal = std::abs(want) < FLT_MIN * std::max(1.0, size)
                                    ? 2 * smallest_ulp * std::max(1.0, size)
                                    : 0;
        const double bound = c.ulp * ulp_of(want) + c.absolute * size + denormal;
        const double error = std::abs(got - want);
        worst = std::max(worst, (error - denormal - c.absolute * size) / ulp_of(want));
        ASSERT_LE(error, bound) << "x " << x[i] << " want " << want << " got " << got;
      }
      RecordProperty(c.name, std::to_string(worst));
    });
    if (HasFatalFailure()) return;
  }
}

TEST_F(Elementwise, UnaryOfAnyCountInPlace) {
  for (int64_t count : {0, 1, 3, 7, 17, 31, 100, 16385}) {
    const auto x = values(count);
    std::vector<float> y = x;
    ThreadPool pool(2);
    for (const Kernel<Unary>& kernel : unary_kernels()) {
      if (kernel.isa > hardware_isa()) continue;
      y = x;
      kernel.run({.op = UnaryOp::relu, .count = count, .x = y.data(), .y = y.data()}, pool);
      for (size_t i = 0; i < y.size(); ++i) ASSERT_EQ(y[i], std::max(0.0f, x[i]));
    }
  }
}

}  // namespace
}  // namespace octavo::cpu
