// elementwise.h over a `Vec` of vec_*.h, which must come first.
#pragma once
#include "backends/cpu/elementwise.h"
#include "backends/cpu/parallel.h"
#include "backends/cpu/vec_math.h"
#include "backends/cpu/vec_parts.h"

namespace octavo::cpu {
namespace {  // NOLINT(google-build-namespaces)

constexpr int64_t elementwise_grain = 16384;  // elements: a few µs, inside the level 2 cache

// What a loop reads is its own: a vector's store may be to anything, so the compiler would read
// what it refers to again after each.
template <class F>
void store_vectors(float* y, int64_t begin, int64_t end, F f) {
  for_vectors(begin, end, [y, f](int64_t i, int n) { store_part(y + i, f(i, n), n); });
}

template <class Op>
void binary_op(const Binary& args, ThreadPool& pool, const Op& op) {
  constexpr float infinity = __builtin_inff();
  const bool clamped = args.clamp_lo > -infinity || args.clamp_hi < infinity;
  const VecF lo = Vec::set(args.clamp_lo), hi = Vec::set(args.clamp_hi);
  parallel_rows(pool, args.outer, args.inner, elementwise_grain,
                [&](int64_t row, int64_t begin, int64_t end) {
                  const float* a = args.a + row * args.a_outer;
                  const float* b = args.b + row * args.b_outer;
                  float* y = args.y + row * args.inner;
                  const VecF one_a = Vec::set(*a), one_b = Vec::set(*b);
                  if (clamped)
                    store_vectors(y, begin, end,
                                  [=, many_a = args.a_inner != 0, many_b = args.b_inner != 0](
                                      int64_t i, int n) {
                                    const VecF v = op(many_a ? load_part(a + i, n) : one_a,
                                                      many_b ? load_part(b + i, n) : one_b);
                                    return clamp(v, lo, hi);
                                  });
                  else if (args.a_inner && args.b_inner)
                    store_vectors(y, begin, end, [=](int64_t i, int n) {
                      return op(load_part(a + i, n), load_part(b + i, n));
                    });
                  else if (args.a_inner)
                    store_vectors(y, begin, end,
                                  [=](int64_t i, int n) { return op(load_part(a + i, n), one_b); });
                  else if (args.b_inner)
                    store_vectors(y, begin, end,
                                  [=](int64_t i, int n) { return op(one_a, load_part(b + i, n)); });
                  else
                    store_vectors(y, begin, end, [=](int64_t, int) { return op(one_a, one_b); });
                });
}

void binary(const Binary& args, ThreadPool& pool) {
  if (args.outer * args.inner == 0) return;  // nothing to read a scalar from
  switch (args.op) {
    case BinaryOp::add:
      return binary_op(args, pool, [](VecF a, VecF b) { return Vec::add(a, b); });
    case BinaryOp::sub:
      return binary_op(args, pool, [](VecF a, VecF b) { return Vec::sub(a, b); });
    case BinaryOp::mul:
      return binary_op(args, pool, [](VecF a, VecF b) { return Vec::mul(a, b); });
    case BinaryOp::div:
      return binary_op(args, pool, [](VecF a, VecF b) { return Vec::div(a, b); });
    case BinaryOp::pow:
      return binary_op(args, pool, [](VecF a, VecF b) {
        alignas(64) float x[Vec::width], y[Vec::width];
        Vec::store(x, a);
        Vec::store(y, b);
        for (int i = 0; i < Vec::width; ++i) x[i] = __builtin_powf(x[i], y[i]);
        return Vec::load(x);
      });
    case BinaryOp::min:
      return binary_op(args, pool, [](VecF a, VecF b) { return keep_nan(a, Vec::min(a, b)); });
    case BinaryOp::max:
      return binary_op(args, pool, [](VecF a, VecF b) { return keep_nan(a, Vec::max(a, b)); });
    case BinaryOp::prelu:
      return binary_op(args, pool, [](VecF a, VecF b) {
        return Vec::select(Vec::less(a, Vec::set(0)), Vec::mul(a, b), a);
      });
  }
}

template <class F>
void map_vectors(const Unary& args, ThreadPool& pool, const F& f) {
  parallel_chunks(pool, args.count, elementwise_grain, [&](int64_t begin, int64_t end) {
    store_vectors(args.y, begin, end,
                  [f, x = args.x](int64_t i, int n) { return f(load_part(x + i, n)); });
  });
}

// One at a time: the C library's function, or one that the compiler vectorises.
template <class F>
void map_scalars(const Unary& args, ThreadPool& pool, const F& f) {
  parallel_chunks(pool, args.count, elementwise_grain / 4, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) args.y[i] = f(args.x[i]);
  });
}

void unary(const Unary& args, ThreadPool& pool) {
  const VecF zero = Vec::set(0), one = Vec::set(1), alpha = Vec::set(args.alpha),
             beta = Vec::set(args.beta);
  // max and min give their second operand where one is NaN: x stands second, so that NaN stays.
  switch (args.op) {
    case UnaryOp::relu:
      return map_vectors(args, pool, [=](VecF x) { return Vec::max(zero, x); });
    case UnaryOp::clip:
      return map_vectors(args, pool, [=](VecF x) { return clamp(x, alpha, beta); });
    case UnaryOp::leaky_relu:
      return map_vectors(args, pool, [=](VecF x) {
        return Vec::select(Vec::less(x, zero), Vec::mul(alpha, x), x);
      });
    case UnaryOp::elu:
      return map_vectors(args, pool, [=](VecF x) {
        return Vec::select(Vec::less(x, zero), Vec::mul(alpha, expm1_f32(x)), x);
      });
    case UnaryOp::sigmoid:
      return map_vectors(args, pool, sigmoid_f32);
    case UnaryOp::hard_sigmoid:
      return map_vectors(
          args, pool, [=](VecF x) { return clamp(Vec::add(Vec::mul(alpha, x), beta), zero, one); });
    case UnaryOp::hard_swish:
      return map_vectors(args, pool, [=](VecF x) {
        const VecF gate = Vec::add(Vec::div(x, Vec::set(6)), Vec::set(0.5f));
        return Vec::mul(x, clamp(gate, zero, one));
      });
    case UnaryOp::silu:
      return map_vectors(args, pool, [](VecF x) { return Vec::mul(x, sigmoid_f32(x)); });
    case UnaryOp::softplus:
      return map_scalars(args, pool, [](float x) {
        const float rest = __builtin_log1pf(__builtin_expf(-__builtin_fabsf(x)));
        return x > 0 ? x + rest : rest;
      });
    case UnaryOp::tanh:
      return map_vectors(args, pool, tanh_f32);
    case UnaryOp::erf:
      return map_vectors(args, pool, erf_f32);
    case UnaryOp::gelu:
      return map_vectors(args, pool, gelu_f32);
    case UnaryOp::gelu_tanh:  // (1 + tanh(u)) / 2 = sigmoid(2 u)
      return map_vectors(args, pool, [](VecF x) {
        constexpr float twice = 1.5957691216057308f;  // 2 sqrt(2 / pi)
        const VecF cube = Vec::mul(Vec::mul(x, x), x);
        const VecF u = Vec::fma(cube, Vec::set(0.044715f), x);
        return Vec::mul(x, sigmoid_f32(Vec::mul(Vec::set(twice), u)));
      });
    case UnaryOp::swish:
      return map_vectors(args, pool,
                         [=](VecF x) { return Vec::mul(x, sigmoid_f32(Vec::mul(alpha, x))); });
    case UnaryOp::mish:  // tanh(ln(1 + e^x)) = n / (n + 2), n = e^x (e^x + 2)
      return map_vectors(args, pool, [](VecF x) {
        const VecF bound = Vec::set(20), two = Vec::set(2);  // beyond it the quotient rounds to 1
        const VecF e = exp_f32(Vec::min(bound, x));
        const VecF n = Vec::mul(e, Vec::add(e, two));
        return Vec::select(Vec::less(bound, x), x, Vec::mul(x, Vec::div(n, Vec::add(n, two))));
      });
    case UnaryOp::celu:
      return map_vectors(args, pool, [=](VecF x) {
        return Vec::select(Vec::less(x, zero), Vec::mul(alpha, expm1_f32(Vec::div(x, alpha))), x);
      });
    case UnaryOp::selu:
      return map_vectors(args, pool, [=](VecF x) {
        const VecF y = Vec::select(Vec::less(x, zero), Vec::mul(alpha, expm1_f32(x)), x);
        return Vec::mul(beta, y);
      });
    case UnaryOp::softsign:
      return map_vectors(args, pool,
                         [&](VecF x) { return Vec::div(x, Vec::add(one, Vec::abs(x))); });
    case UnaryOp::exp:
      return map_vectors(args, pool, exp_f32);
    case UnaryOp::log:
      return map_scalars(args, pool, [](float x) { return __builtin_logf(x); });
    case UnaryOp::sqrt:
      return map_vectors(args, pool, [](VecF x) { return Vec::sqrt(x); });
    case UnaryOp::reciprocal:
      return map_vectors(args, pool, [=](VecF x) { return Vec::div(one, x); });
    case UnaryOp::neg:
      return map_vectors(args, pool, negate);
    case UnaryOp::abs:
      return map_vectors(args, pool, [](VecF x) { return Vec::abs(x); });
    case UnaryOp::floor:
      return map_scalars(args, pool, [](float x) { return __builtin_floorf(x); });
    case UnaryOp::ceil:
      return map_scalars(args, pool, [](float x) { return __builtin_ceilf(x); });
    case UnaryOp::round:
      return map_scalars(args, pool, [](float x) { return __builtin_nearbyintf(x); });
    case UnaryOp::round_f16:
      return map_vectors(args, pool, [](VecF x) { return Vec::round_f16(x); });
    case UnaryOp::round_bf16:
      return map_vectors(args, pool, [](VecF x) { return Vec::round_bf16(x); });
  }
}

}  // namespace
}  // namespace octavo::cpu
