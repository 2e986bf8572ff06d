// Steps of recurrent layers: gates against their formulas in float64, and all steps against the
// same products and gates taken one step at a time, bit for bit.
#include "backends/cpu/kernel_test.h"
#include "backends/cpu/recurrent_int8.h"

namespace octavo::cpu {
namespace {

constexpr RecurrentMode modes[] = {RecurrentMode::lstm, RecurrentMode::gru, RecurrentMode::tanh,
                                   RecurrentMode::relu};

double sigmoid(double x) { return 1 / (1 + std::exp(-x)); }

class RecurrentSteps : public KernelTest {
 protected:
  ~RecurrentSteps() override { set_isa_limit(hardware_isa()); }

  LinearInt8 layer(int64_t k, int64_t n) {
    std::vector<int8_t> weights;
    for (int64_t i = 0; i < k * n; ++i) weights.push_back(static_cast<int8_t>(pick(-127, 127)));
    std::vector<float> step;
    for (int64_t i = 0; i < n; ++i) step.push_back(real(0.0001f, 0.0005f));
    const std::vector<float> bias = values(n);
    LinearInt8Weights w;
    w.k = k;
    w.n = n;
    w.weights = weights.data();
    w.step = step.data();
    w.bias = pick(0, 3) ? bias.data() : nullptr;
    return LinearInt8(w);
  }
};

TEST_F(RecurrentSteps, GatesAreTheirFormulas) {
  static ThreadPool one(1), three(3);
  for (const auto& kernel : recurrent_step_kernels()) {
    if (kernel.isa > hardware_isa()) continue;
    for (const RecurrentMode mode : modes)
      for (const int64_t width : {1, 37, 5000}) {
        SCOPED_TRACE(fmt::format("{} {} {}", kernel.name, static_cast<int>(mode), width));
        const int64_t rows = 3, gates = recurrent_gates(mode);
        const auto x = values(rows * width * gates, 3), h_gates = values(rows * width * gates, 3);
        const auto h = values(rows * width), c = values(rows * width, 2);
        std::vector<float> first_h;
        for (ThreadPool* pool : {&one, &three}) {
          auto new_h = h, new_c = c, y = h;
          kernel.run(
              {mode, rows, width, x.data(), h_gates.data(), new_h.data(), new_c.data(), y.data()},
              *pool);
          EXPECT_EQ(y, new_h);
          if (first_h.empty()) first_h = y;
          EXPECT_EQ(y, first_h);
          for (int64_t i = 0; i < rows * width; ++i) {
            const auto at = static_cast<size_t>(i);
            const auto part = [&](const std::vector<float>& from, int64_t gate) {
              const int64_t row = i / width;
              return static_cast<double>(
                  from[static_cast<size_t>((row * gates + gate) * width + i % width)]);
            };
            const auto sum = [&](int64_t gate) { return part(x, gate) + part(h_gates, gate); };
            double want = 0, size = 1;  // in float32's epsilons a few of it
            switch (mode) {
              case RecurrentMode::lstm: {
                const double want_c = sigmoid(sum(1)) * c[at] + sigmoid(sum(0)) * std::tanh(sum(2));
                // A sum's rounding moves a gate by at most as much; three ulps of the functions.
                size = 2 + std::abs(c[at]) + std::abs(sum(0)) + std::abs(sum(1)) * std::abs(c[at]) +
                       std::abs(sum(2)) + std::abs(sum(3));
                ASSERT_NEAR(new_c[at], want_c, 4 * FLT_EPSILON * size);
                want = sigmoid(sum(3)) * std::tanh(want_c);
                break;
              }
              case RecurrentMode::gru: {
                const double r = sigmoid(sum(0)), z = sigmoid(sum(1));
                const double n = std::tanh(part(x, 2) + r * part(h_gates, 2));
                want = n + z * (h[at] - n);
                size = 2 + std::abs(h[at]) + std::abs(part(x, 2)) +
                       std::abs(part(h_gates, 2)) * (2 + std::abs(sum(0))) +
                       std::abs(sum(1)) * (1 + std::abs(h[at]));
                break;
              }
              case RecurrentMode::tanh:
                want = std::tanh(sum(0));
                size = 1 + std::abs(sum(0));
                break;
              case RecurrentMode::relu:
                want = std::max(sum(0), 0.0);
                size = std::abs(sum(0));
                break;
            }
            ASSERT_NEAR(y[at], want, 8 * FLT_EPSILON * size) << i;
          }
        }
      }
  }
}

TEST_F(RecurrentSteps, AllStepsAreEachOfThem) {
  static ThreadPool one(1), three(3);
  const std::vector<std::vector<int64_t>> sizes{
      {1}, {2, 2, 2}, {7, 7, 3, 1, 1}, std::vector<int64_t>(150, 1), {90, 70, 65, 3}};
  for (const Isa isa : {Isa::portable, Isa::avx2, Isa::vnni})
    for (const RecurrentMode mode : modes)
      for (const auto& rows : sizes)
        for (const bool reverse : {false, true}) {
          if (isa > hardware_isa()) continue;
          set_isa_limit(isa);
          const int64_t k = pick(1, 40), width = pick(1, 50), gates = width * recurrent_gates(mode);
          SCOPED_TRACE(fmt::format("{} mode {} steps {} reverse {} k {} width {}", isa_name(isa),
                                   static_cast<int>(mode), rows.size(), reverse, k, width));
          const LinearInt8 x_layer = layer(k, gates), h_layer = layer(width, gates);
          int64_t total = 0;
          for (const int64_t n : rows) total += n;
          const auto x = values(total * k), h0 = values(rows[0] * width);
          const auto c0 = values(rows[0] * width);

          std::vector<float> want(static_cast<size_t>(total * width)), h = h0, c = c0;
          std::vector<float> x_gates(static_cast<size_t>(total * gates)),
              h_gates(static_cast<size_t>(rows[0] * gates));
          LinearInt8Output out;
          out.y = x_gates.data();
          ASSERT_TRUE(x_layer.run_dynamic(total, x.data(), out, one));
          out.y = h_gates.data();
          const auto steps = static_cast<int64_t>(rows.size());
          for (int64_t i = 0; i < steps; ++i) {
            const int64_t t = reverse ? steps - 1 - i : i, n = rows[static_cast<size_t>(t)];
            int64_t first = 0;
            for (int64_t s = 0; s < t; ++s) first += rows[static_cast<size_t>(s)];
            ASSERT_TRUE(h_layer.run_dynamic(n, h.data(), out, one));
            best_kernel(recurrent_step_kernels())
                .run({mode, n, width, x_gates.data() + first * gates, h_gates.data(), h.data(),
                      c.data(), want.data() + first * width},
                     one);
          }
          for (ThreadPool* pool : {&one, &three}) {
            std::vector<float> y(want.size()), last_h = h0, last_c = c0;
            RecurrentInt8 args;
            args.mode = mode;
            args.reverse = reverse;
            args.x_layer = &x_layer;
            args.h_layer = &h_layer;
            args.sizes = rows;
            args.x = x.data();
            args.y = y.data();
            args.h = last_h.data();
            args.c = last_c.data();
            ASSERT_TRUE(run_recurrent_int8(args, *pool));
            ASSERT_EQ(y, want);
            ASSERT_EQ(last_h, h);
            ASSERT_EQ(last_c, c);
          }
        }
}

TEST_F(RecurrentSteps, SaysWhereNumbersAreNotFinite) {
  ThreadPool pool(1);
  const LinearInt8 x_layer = layer(3, 5), h_layer = layer(5, 5);
  const std::vector<int64_t> rows{2, 1};
  for (const bool in_state : {false, true}) {
    std::vector<float> x(9, 1), h(10, 1), y(15);
    (in_state ? h : x)[4] = NAN;
    RecurrentInt8 args;
    args.mode = RecurrentMode::tanh;
    args.x_layer = &x_layer;
    args.h_layer = &h_layer;
    args.sizes = rows;
    args.x = x.data();
    args.y = y.data();
    args.h = h.data();
    EXPECT_FALSE(run_recurrent_int8(args, pool));
  }
}

}  // namespace
}  // namespace octavo::cpu
