#include "backends/cpu/layer_norm.h"

#include "backends/cpu/kernel_test.h"

namespace octavo::cpu {
namespace {

class LayerNormTest : public KernelTest {};

TEST_F(LayerNormTest, RowsOfAnyLength) {
  for (int i = 0; i < 100; ++i) {
    LayerNorm args{.rows = pick(1, 30), .count = i % 4 == 0 ? 384 : pick(1, 300)};
    args.epsilon = 1e-5f;
    auto x = values(args.rows * args.count, 3);
    const float offset = real(-5, 5);
    for (float& v : x) v += offset;
    const auto scale = values(args.count), bias = values(args.count);
    args.x = x.data(), args.scale = scale.data();
    args.bias = i % 3 ? bias.data() : nullptr;
    args.q_element = byte_element();
    args.q_zero_point = zero_point(args.q_element);
    args.multiplier = real(10, 60);
    if (i % 5 == 0) args.clamp_lo = -20, args.clamp_hi = 30;
    // y and q in one buffer, so that both are compared between threads.
    const auto count = static_cast<size_t>(args.rows * args.count);
    std::vector<uint8_t> out(5 * count), before;
    args.y = reinterpret_cast<float*>(out.data());
    args.q = out.data() + 4 * count;
    check_kernels(layer_norm_kernels(), args, out, [&] {
      if (before.empty()) before = out;
      ASSERT_EQ(before, out) << "another instruction set";
      for (int64_t r = 0; r < args.rows; ++r) {
        const float* row = x.data() + r * args.count;
        const double n = static_cast<double>(args.count), u = FLT_EPSILON / 2;
        double mean = 0, square = 0, magnitude = 0;
        for (int64_t k = 0; k < args.count; ++k)
          mean += row[k] / n, magnitude += std::abs(row[k]) / n;
        for (int64_t k = 0; k < args.count; ++k) square += (row[k] - mean) * (row[k] - mean) / n;
        const double deviation = std::sqrt(square + static_cast<double>(args.epsilon));
        // The mean: n / 64 + 7 additions and a division. The deviation: it sees the mean's error
        // once, squared, and its own roundings, halved by the root.
        const double mean_error = (n / 64 + 8) * u * magnitude;
        const double relative =
            ((n / 64 + 14) * u + 2 * mean_error * mean_error / (square + 1e-5)) / 2 + 3 * u +
            u * magnitude / deviation;
        for (int64_t k = 0; k < args.count; ++k) {
          const auto at = static_cast<size_t>(r * args.count + k);
          const double s = scale[static_cast<size_t>(k)],
                       b = args.bias ? bias[static_cast<size_t>(k)] : 0;
          const double product = (row[k] - mean) / deviation * s;
          const double got = element_at(Element::f32, out, at);
          const double bound = mean_error / deviation * std::abs(s) * 1.1 +
                               relative * std::abs(product) * 1.1 +
                               2 * u * (std::abs(product) + std::abs(b));
          ASSERT_LE(std::abs(got - (product + b)), bound) << "count " << args.count;
          ASSERT_EQ(byte_value(args.q_element, out[4 * count + at]),
                    finish(static_cast<float>(got) * args.multiplier, args.clamp_lo, args.clamp_hi,
                           args.q_element, args.q_zero_point));
        }
      }
    });
    if (HasFatalFailure()) return;
  }
}

TEST_F(LayerNormTest, FloatOrBytesAlone) {
  LayerNorm args{.rows = 7, .count = 70};
  const auto x = values(490), scale = values(70);
  std::vector<float> y(490);
  std::vector<uint8_t> q(490);
  args.x = x.data(), args.scale = scale.data(), args.multiplier = 20, args.q_zero_point = 128;
  ThreadPool pool(1);
  const auto& kernel = best_kernel(layer_norm_kernels());
  args.y = y.data();
  kernel.run(args, pool);
  args.y = nullptr, args.q = q.data();
  kernel.run(args, pool);
  for (size_t i = 0; i < y.size(); ++i)
    ASSERT_EQ(q[i], finish(y[i] * 20, -1e9f, 1e9f, Element::u8, 128));
}

}  // namespace
}  // namespace octavo::cpu
