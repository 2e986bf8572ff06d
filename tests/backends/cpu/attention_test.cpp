#include "backends/cpu/attention.h"

#include <array>

#include "backends/cpu/attention_rows.h"
#include "backends/cpu/kernel_test.h"

namespace octavo::cpu {
namespace {

struct Scratch {
  explicit Scratch(size_t bytes)
      : data(static_cast<std::byte*>(::operator new (bytes + 64, std::align_val_t{64}))) {
    std::memset(data, 0xa5, bytes + 64);
  }
  ~Scratch() { ::operator delete (data, std::align_val_t{64}); }
  Scratch(const Scratch&) = delete;
  Scratch& operator=(const Scratch&) = delete;
  std::byte* data;
};

class AttentionTest : public KernelTest {
 protected:
  AttentionProblem problem(int i) {
    AttentionProblem p;
    p.batch = pick(1, 3), p.heads = pick(1, 4);
    p.queries = pick(1, 70), p.keys = pick(1, 150);
    p.depth = i % 3 == 0 ? 32 : pick(1, 80);
    p.v_depth = i % 3 == 0 ? 32 : pick(1, 80);
    p.q_row = p.heads * p.depth + pick(0, 5), p.k_row = p.heads * p.depth + pick(0, 5);
    p.v_row = p.heads * p.v_depth + pick(0, 5), p.y_row = p.heads * p.v_depth + pick(0, 5);
    p.mask = i % 2 == 0;
    p.mask_query = pick(0, 1) ? p.keys : 0;
    p.mask_head = pick(0, 1) ? p.keys * p.queries : 0;
    p.mask_batch = pick(0, 1) ? p.keys * p.queries * p.heads : 0;
    return p;
  }

  std::vector<float> mask_for(const AttentionProblem& p) {
    auto mask = values(p.batch * p.heads * p.queries * p.keys);
    for (float& m : mask)
      if (pick(0, 3) == 0) m = pick(0, 1) ? -INFINITY : -1e9f;
    return mask;
  }

  // Every kernel, 1 to 3 threads; verify() looks at y, which must not change from then on if
  // `equal`.
  template <class T, class Verify>
  void check(const std::vector<std::unique_ptr<AttentionKernel>>& kernels,
             const AttentionArgs& args, std::vector<T>& y, bool equal, const Verify& verify) {
    static ThreadPool one(1), two(2), three(3);
    std::vector<T> first;
    for (const auto& kernel : kernels) {
      SCOPED_TRACE(kernel->name());
      if (!equal) first.clear();
      for (ThreadPool* pool : {&one, &two, &three}) {
        const Scratch scratch(kernel->scratch_bytes(pool->size()));
        std::memset(y.data(), 0x5a, y.size() * sizeof(T));
        AttentionArgs with = args;
        with.y = y.data();
        with.scratch = scratch.data;
        kernel->run(with, *pool);
        if (first.empty()) {
          first = y;
          verify();
        } else {
          ASSERT_EQ(0, std::memcmp(first.data(), y.data(), y.size() * sizeof(T)))
              << pool->size() << " threads";
        }
        if (HasFatalFailure()) return;
      }
    }
  }

  static std::vector<std::unique_ptr<AttentionKernel>> all(
      std::span<const AttentionImplementation> list, const AttentionProblem& p) {
    EXPECT_EQ(list.back().isa, Isa::portable);
    std::vector<std::unique_ptr<AttentionKernel>> kernels;
    for (const AttentionImplementation& implementation : list) {
      if (implementation.isa > hardware_isa()) continue;
      std::string why;
      if (auto kernel = implementation.create(p, why))
        kernels.push_back(std::move(kernel));
      else
        EXPECT_EQ(implementation.isa, Isa::amx) << why;  // too shallow for tiles
    }
    return kernels;
  }
};

TEST_F(AttentionTest, Float) {
  for (int i = 0; i < 60; ++i) {
    AttentionProblem p = problem(i);
    p.score_multiplier = real(0.05f, 1.5f);
    const auto q = values(p.batch * p.queries * p.q_row), k = values(p.batch * p.keys * p.k_row);
    const auto v = values(p.batch * p.keys * p.v_row);
    auto mask = mask_for(p);
    // One key of each row stays, so that the answer is a number.
    for (size_t at = 0; at < mask.size(); at += static_cast<size_t>(p.keys)) mask[at] = 0.5f;
    std::vector<float> y(static_cast<size_t>(p.batch * p.queries * p.y_row));
    const AttentionArgs args{q.data(), k.data(), v.data(), p.mask ? mask.data() : nullptr,
                             nullptr,  nullptr};
    check(all(attention_f32_list(), p), args, y, false, [&] {
      std::vector<double> weight(static_cast<size_t>(p.keys)), slack(weight);
      for (int64_t b = 0; b < p.batch; ++b)
        for (int64_t h = 0; h < p.heads; ++h)
          for (int64_t r = 0; r < p.queries; ++r) {
            constexpr double u = FLT_EPSILON / 2;
            double most = -INFINITY, sum = 0;
            for (int64_t j = 0; j < p.keys; ++j) {
              double s = 0, magnitude = 0;
              for (int64_t d = 0; d < p.depth; ++d) {
                const double term =
                    static_cast<double>(
                        q[static_cast<size_t>((b * p.queries + r) * p.q_row + h * p.depth + d)]) *
                    k[static_cast<size_t>((b * p.keys + j) * p.k_row + h * p.depth + d)];
                s += term, magnitude += std::abs(term);
              }
              s *= p.score_multiplier, magnitude *= static_cast<double>(p.score_multiplier);
              const double m = p.mask
                                   ? mask[static_cast<size_t>(b * p.mask_batch + h * p.mask_head +
                                                              r * p.mask_query + j)]
                                   : 0;
              weight[static_cast<size_t>(j)] = s + m;
              // A score's error: depth + 1 roundings of the terms, one of the sum with the mask.
              slack[static_cast<size_t>(j)] =
                  u * (static_cast<double>(p.depth + 1) * magnitude + std::abs(s) +
                       (std::isfinite(m) ? std::abs(m) + std::abs(s) : 0));
              most = std::max(most, s + m);
            }
            double worst = 0;  // relative error of a weight: its score's and the maximum's error,
                               // the difference's rounding, 2 ulp of exp (elementwise.h)
            for (int64_t j = 0; j < p.keys; ++j) {
              double& w = weight[static_cast<size_t>(j)];
              const double t = w - most;
              w = std::exp(t);
              sum += w;
              // Weights below e^-40 do not matter beside the largest, whose slack counts.
              if (t > -40) worst = std::max(worst, slack[static_cast<size_t>(j)] - u * t);
            }
            // Twice for numerator and denominator, and their sums of `keys` terms and division.
            const double n = static_cast<double>(p.keys);
            const double relative = 2 * (2 * worst + 4 * u + n * u) + 2 * u;
            for (int64_t d = 0; d < p.v_depth; ++d) {
              double want = 0, magnitude = 0;
              for (int64_t j = 0; j < p.keys; ++j) {
                const double term =
                    weight[static_cast<size_t>(j)] / sum *
                    v[static_cast<size_t>((b * p.keys + j) * p.v_row + h * p.v_depth + d)];
                want += term, magnitude += std::abs(term);
              }
              const double got =
                  y[static_cast<size_t>((b * p.queries + r) * p.y_row + h * p.v_depth + d)];
              ASSERT_LE(std::abs(got - want), relative * 1.01 * magnitude + 1e-12)
                  << "keys " << p.keys << ", depth " << p.depth;
            }
          }
    });
    if (HasFatalFailure()) return;
  }
}

// attention.h's formulas, one operation after another.
class Oracle {
 public:
  Oracle(const AttentionProblem& p, const std::vector<uint8_t>& q, const std::vector<uint8_t>& k,
         const std::vector<uint8_t>& v, const float* mask)
      : p_(p), q_(q), k_(k), v_(v), mask_(mask) {}

  void row(int64_t b, int64_t h, int64_t r, std::vector<double>& y) const {
    const auto keys = static_cast<size_t>(p_.keys);
    std::vector<float> f(keys);
    std::vector<int32_t> steps(keys);
    float most = -INFINITY;
    for (size_t j = 0; j < keys; ++j) {
      const auto at = static_cast<int64_t>(j);
      int32_t a = 0;
      for (int64_t d = 0; d < p_.depth; ++d)
        a += (byte_value(p_.q, q_[index(b, p_.queries, r, p_.q_row, h * p_.depth + d)]) -
              p_.q_zero_point) *
             centred(p_.k, k_[index(b, p_.keys, at, p_.k_row, h * p_.depth + d)]);
      f[j] = static_cast<float>(a) * p_.score_multiplier;
      if (mask_) {
        const float m =
            mask_[b * p_.mask_batch + h * p_.mask_head + r * p_.mask_query + at] * 1.44269504f;
        f[j] = f[j] + m;
      }
      most = std::max(most, f[j]);
    }
    int32_t sum = 0;
    for (size_t j = 0; j < keys; ++j) sum += steps[j] = step(f[j] - most);
    sum = std::max(sum, 1);
    const float ratio = p_.y_multiplier / static_cast<float>(sum);
    for (int64_t d = 0; d < p_.v_depth; ++d) {
      int32_t total = 0;
      for (size_t j = 0; j < keys; ++j)
        total +=
            steps[j] *
            centred(p_.v,
                    v_[index(b, p_.keys, static_cast<int64_t>(j), p_.v_row, h * p_.v_depth + d)]);
      const int32_t zero = p_.v_zero_point - (p_.v == Element::u8 ? 128 : 0);
      const float difference = static_cast<float>(total) - static_cast<float>(zero * sum);
      y[static_cast<size_t>(d)] =
          finish(difference * ratio, p_.clamp_lo, p_.clamp_hi, p_.y, p_.y_zero_point);
    }
  }

  static int32_t step(float t) {
    t = t > -30 ? t : -30;
    const float n = std::nearbyint(t), r = t - n;
    float p = exp2_c4 * r;
    p = p + exp2_c3;
    p = p * r;
    p = p + exp2_c2;
    p = p * r;
    p = p + exp2_c1;
    p = p * r;
    p = p + 1;
    return static_cast<int32_t>(std::nearbyint(p * 255 * std::exp2(n)));
  }

 private:
  static size_t index(int64_t b, int64_t length, int64_t position, int64_t row, int64_t at) {
    return static_cast<size_t>((b * length + position) * row + at);
  }
  static int32_t centred(Element e, uint8_t byte) {
    return e == Element::s8 ? static_cast<int8_t>(byte) : byte - 128;
  }
  const AttentionProblem& p_;
  const std::vector<uint8_t>&q_, &k_, &v_;
  const float* mask_;
};

// The steps of 2^x are those of the true function but where 255 * 2^x is within the polynomial's
// 3e-6, and three roundings, of a half.
TEST_F(AttentionTest, PowersOfTwo) {
  for (int i = 0; i < 20000; ++i) {
    const float t = -real(0, 34);
    const double exact = 255 * std::exp2(static_cast<double>(t));
    ASSERT_LE(std::abs(Oracle::step(t) - exact), 0.5 + exact * 4e-6) << t;
  }
  EXPECT_EQ(Oracle::step(0), 255);
}

TEST_F(AttentionTest, Integer) {
  constexpr std::array outputs{Element::u8, Element::s8, Element::f32};
  for (int i = 0; i < 90; ++i) {
    AttentionProblem p = problem(i);
    p.q = byte_element(), p.k = byte_element(), p.v = byte_element();
    p.y = outputs[static_cast<size_t>(i) % 3];
    p.q_zero_point = zero_point(p.q), p.v_zero_point = zero_point(p.v);
    if (p.y != Element::f32) p.y_zero_point = zero_point(p.y);
    // Scores from flat to steep.
    p.score_multiplier = real(0.1f, 20) / (6000 * std::sqrt(static_cast<float>(p.depth)));
    p.y_multiplier = real(0.3f, 3);
    if (pick(0, 2) == 0) p.clamp_lo = real(-60, 0), p.clamp_hi = real(1, 60);
    const auto q = bytes(p.batch * p.queries * p.q_row), k = bytes(p.batch * p.keys * p.k_row);
    const auto v = bytes(p.batch * p.keys * p.v_row);
    const auto mask = mask_for(p);  // some rows may be all -inf
    const int64_t y_size = p.y == Element::f32 ? 4 : 1;
    std::vector<uint8_t> y(static_cast<size_t>(p.batch * p.queries * p.y_row * y_size));
    const AttentionArgs args{q.data(), k.data(), v.data(), p.mask ? mask.data() : nullptr,
                             nullptr,  nullptr};
    auto kernels = all(attention_int8_list(), p);
    if (hardware_isa() >= Isa::vnni) kernels.push_back(make_emulated_amx_attention(p));
    check(kernels, args, y, true, [&] {
      const Oracle oracle(p, q, k, v, args.mask);
      std::vector<double> want(static_cast<size_t>(p.v_depth));
      for (int64_t b = 0; b < p.batch; ++b)
        for (int64_t h = 0; h < p.heads; ++h)
          for (int64_t r = 0; r < p.queries; ++r) {
            oracle.row(b, h, r, want);
            for (int64_t d = 0; d < p.v_depth; ++d)
              ASSERT_EQ(element_at(
                            p.y, y,
                            static_cast<size_t>((b * p.queries + r) * p.y_row + h * p.v_depth + d)),
                        want[static_cast<size_t>(d)])
                  << "keys " << p.keys << ", query " << r << ", d " << d;
          }
    });
    if (HasFatalFailure()) return;
  }
}

TEST_F(AttentionTest, DeclinesSayWhy) {
  AttentionProblem p;
  std::vector<Declined> declined;
  p.y = Element::u8;
  EXPECT_EQ(make_attention(p, &declined), nullptr);
  ASSERT_FALSE(declined.empty());
  EXPECT_EQ(declined.back().reason, "q, k, v and y must all be f32");
  p.q = Element::u8;
  EXPECT_EQ(make_attention(p, &declined), nullptr);
  EXPECT_EQ(declined.back().reason, "q, k and v must all be integers");
  p.k = p.v = Element::u8;
  p.keys = 0;
  EXPECT_EQ(make_attention(p, &declined), nullptr);
  EXPECT_EQ(declined.back().reason, "a size is zero");
}

}  // namespace
}  // namespace octavo::cpu
