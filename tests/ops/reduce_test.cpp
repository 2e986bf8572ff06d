// Reductions, orders, running sums, softmax and norms against float64 loops.
#include <functional>
#include <numeric>

#include "ops/evaluate.h"

namespace octavo {
namespace {

using namespace octavo::testing;

// The values of each row of [2, 3, 4] along axis 1: 2 x 4 rows of 3.
std::vector<std::vector<double>> rows_of(const Tensor& x) {
  const auto v = x.to_doubles();
  std::vector<std::vector<double>> rows;
  for (size_t o = 0; o < 2; ++o)
    for (size_t i = 0; i < 4; ++i)
      rows.push_back({v[o * 12 + i], v[o * 12 + 4 + i], v[o * 12 + 8 + i]});
  return rows;
}

using Fold = std::function<double(const std::vector<double>&)>;

double sum_of(const std::vector<double>& row, const std::function<double(double)>& f) {
  double sum = 0;
  for (const double v : row) sum += f(v);
  return sum;
}
double same(double v) { return v; }

TEST(Reduce, FloatsAlongAnAxis) {
  const std::pair<const char*, Fold> cases[] = {
      {"reduce_sum", [](auto& r) { return sum_of(r, same); }},
      {"reduce_mean", [](auto& r) { return sum_of(r, same) / 3; }},
      {"reduce_prod", [](auto& r) { return r[0] * r[1] * r[2]; }},
      {"reduce_max", [](auto& r) { return *std::max_element(r.begin(), r.end()); }},
      {"reduce_min", [](auto& r) { return *std::min_element(r.begin(), r.end()); }},
      {"reduce_l1", [](auto& r) { return sum_of(r, [](double v) { return std::abs(v); }); }},
      {"reduce_l2", [](auto& r) { return std::sqrt(sum_of(r, [](double v) { return v * v; })); }},
      {"reduce_sum_square", [](auto& r) { return sum_of(r, [](double v) { return v * v; }); }},
      {"reduce_log_sum", [](auto& r) { return std::log(sum_of(r, same)); }},
      {"reduce_log_sum_exp",
       [](auto& r) { return std::log(sum_of(r, [](double v) { return std::exp(v); })); }},
  };
  for (const auto& [op, formula] : cases)
    for (const DType dtype : {DType::f32, DType::f64, DType::f16}) {
      SCOPED_TRACE(fmt::format("{} {}", op, dtype_name(dtype)));
      const Tensor x = convert(uniform({2, 3, 4}, 3, 0.1, 4), dtype);
      std::vector<double> wanted;
      for (const auto& row : rows_of(x)) wanted.push_back(formula(row));
      const Tensor kept = evaluate_one(op, {x}, {{"axes", Ints{-2}}});
      EXPECT_EQ(kept.dims(), (Dims{2, 1, 4}));
      expect_rounded(kept, wanted, 0x1p-46);
      const Tensor gone = evaluate_one(op, {x}, {{"axes", Ints{1}}, {"keepdims", int64_t{0}}});
      EXPECT_EQ(gone, kept.reshaped({2, 4}));
      // As an input, known only when the program runs.
      EXPECT_EQ(evaluate_one(op, {x, tensor<int64_t>({1}, {1})}), kept);
    }
}

TEST(Reduce, IntegersAndAllAxes) {
  const Tensor x = tensor<int32_t>({2, 2}, {INT32_MAX, 1, -5, 3});
  EXPECT_EQ(evaluate_one("reduce_sum", {x}, {{"keepdims", int64_t{0}}}).to_ints(),
            Ints{INT32_MAX - 1});
  EXPECT_EQ(evaluate_one("reduce_min", {x}, {{"axes", Ints{1}}}).to_ints(), (Ints{1, -5}));
  EXPECT_EQ(evaluate_one("reduce_l1", {x}, {{"axes", Ints{0}}}).to_ints(),
            (Ints{INT32_MIN + 4, 4}));  // wraps around
  EXPECT_EQ(evaluate_one("reduce_sum", {x}, {{"noop_empty", int64_t{1}}}), x);
}

TEST(Reduce, OfNothing) {
  const Tensor x(DType::f32, {2, 0});
  EXPECT_EQ(evaluate_one("reduce_sum", {x}, {{"axes", Ints{1}}}).to_doubles(), (Floats{0, 0}));
  EXPECT_EQ(evaluate_one("reduce_max", {x}, {{"axes", Ints{1}}}).to_doubles(),
            (Floats{-INFINITY, -INFINITY}));
  EXPECT_EQ(evaluate_one("reduce_min", {Tensor(DType::i8, {1, 0})}, {{"axes", Ints{1}}}).to_ints(),
            Ints{127});
}

TEST(Reduce, LogSumExpDoesNotOverflow) {
  const Tensor x = tensor<float>({2}, {1000, 1000});
  expect_rounded(evaluate_one("reduce_log_sum_exp", {x}), {1000 + std::log(2.0)});
}

TEST(Order, ArgumentsOfExtremes) {
  const Tensor x = tensor<float>({2, 3}, {1, 5, 5, 2, 0, 0});
  const Attributes axis{{"axis", int64_t{1}}, {"keepdims", int64_t{0}}};
  EXPECT_EQ(evaluate_one("argmax", {x}, axis).to_ints(), (Ints{1, 0}));
  EXPECT_EQ(evaluate_one("argmin", {x}, axis).to_ints(), (Ints{0, 1}));
  Attributes last = axis;
  last["last"] = int64_t{1};
  EXPECT_EQ(evaluate_one("argmax", {x}, last).to_ints(), (Ints{2, 0}));
  EXPECT_EQ(evaluate_one("argmin", {x}, last).to_ints(), (Ints{0, 2}));
}

TEST(Order, TopK) {
  const Tensor x = tensor<int64_t>({2, 4}, {3, 9, 1, 9, 4, 4, 8, 0});
  const auto large = evaluate("topk", {x}, {{"k", int64_t{3}}});
  EXPECT_EQ(large[0].to_ints(), (Ints{9, 9, 3, 8, 4, 4}));
  EXPECT_EQ(large[1].to_ints(), (Ints{1, 3, 0, 2, 0, 1}));
  const auto small = evaluate("topk", {x, tensor<int64_t>({1}, {1})},
                              {{"largest", int64_t{0}}, {"axis", int64_t{0}}});
  EXPECT_EQ(small[0].to_ints(), (Ints{3, 4, 1, 0}));
  EXPECT_EQ(small[1].to_ints(), (Ints{0, 1, 0, 1}));
  EXPECT_NE(error_of([&] {
              evaluate("topk", {x}, {{"k", int64_t{5}}});
            }).find("within the axis"),
            std::string::npos);
}

TEST(Order, RunningSumsAndProducts) {
  const Tensor x = tensor<int32_t>({4}, {1, 2, 3, 4});
  const Attributes exclusive{{"exclusive", int64_t{1}}}, reverse{{"reverse", int64_t{1}}};
  EXPECT_EQ(evaluate_one("cumsum", {x}).to_ints(), (Ints{1, 3, 6, 10}));
  EXPECT_EQ(evaluate_one("cumsum", {x}, exclusive).to_ints(), (Ints{0, 1, 3, 6}));
  EXPECT_EQ(evaluate_one("cumsum", {x}, reverse).to_ints(), (Ints{10, 9, 7, 4}));
  EXPECT_EQ(evaluate_one("cumprod", {x}).to_ints(), (Ints{1, 2, 6, 24}));
  EXPECT_EQ(evaluate_one("cumprod", {x}, exclusive).to_ints(), (Ints{1, 1, 2, 6}));
  EXPECT_EQ(evaluate_one("cumsum", {tensor<float>({2, 2}, {1, 2, 3, 4}), tensor<int64_t>({}, {-1})})
                .to_doubles(),
            (Floats{1, 3, 3, 7}));
}

TEST(Softmax, AndItsLogarithmAndHardForm) {
  const Tensor x = uniform({2, 3, 4}, 8, -50, 50);
  std::vector<double> soft(24), logs(24), hard(24);
  const auto rows = rows_of(x);
  for (size_t r = 0; r < rows.size(); ++r) {
    double sum = 0;
    for (const double v : rows[r]) sum += std::exp(v);
    const auto most = std::max_element(rows[r].begin(), rows[r].end()) - rows[r].begin();
    for (size_t k = 0; k < 3; ++k) {
      const size_t at = r / 4 * 12 + k * 4 + r % 4;
      soft[at] = std::exp(rows[r][k]) / sum;
      logs[at] = rows[r][k] - std::log(sum);
      hard[at] = static_cast<std::ptrdiff_t>(k) == most ? 1 : 0;
    }
  }
  const Attributes axis{{"axis", int64_t{1}}};
  expect_rounded(evaluate_one("softmax", {x}, axis), soft, 0x1p-46);
  expect_rounded(evaluate_one("log_softmax", {x}, axis), logs, 0x1p-44);
  expect_rounded(evaluate_one("hardmax", {x}, axis), hard);
}

// exp(x - max) / sum with each step rounded, which one rounding at the end does not equal.
TEST(Softmax, RoundsEachStepInFloat16) {
  const auto half = [](double v) {
    return static_cast<double>(half_to_float(float_to_half(static_cast<float>(v))));
  };
  const Tensor x = convert(uniform({2, 3, 4}, 9, -4, 4), DType::f16);
  std::vector<double> wanted(24), once(24);
  const auto rows = rows_of(x);
  for (size_t r = 0; r < rows.size(); ++r) {
    const double most = *std::max_element(rows[r].begin(), rows[r].end());
    double sum = 0, exact_sum = 0;
    for (const double v : rows[r]) sum += half(std::exp(half(v - most)));
    for (const double v : rows[r]) exact_sum += std::exp(v - most);
    for (size_t k = 0; k < 3; ++k) {
      const size_t at = r / 4 * 12 + k * 4 + r % 4;
      wanted[at] = half(half(std::exp(half(rows[r][k] - most))) / half(sum));
      once[at] = half(std::exp(rows[r][k] - most) / exact_sum);
    }
  }
  EXPECT_EQ(evaluate_one("softmax", {x}, {{"axis", int64_t{1}}}).to_doubles(), wanted);
  EXPECT_NE(wanted, once);
  // 100,000 ones add up to more than float16 holds.
  const Tensor equal = convert(uniform({100000}, 10, 1, 1), DType::f16);
  EXPECT_EQ(evaluate_one("softmax", {equal}).to_doubles()[0], half(1e-5));
}

struct Statistics {
  double mean = 0, variance = 0;
};
Statistics statistics(const std::vector<double>& values) {
  Statistics s;
  const auto n = static_cast<double>(values.size());
  for (const double v : values) s.mean += v / n;
  for (const double v : values) s.variance += (v - s.mean) * (v - s.mean) / n;
  return s;
}

TEST(Normalization, LayerAndRms) {
  const Tensor x = uniform({4, 6}, 2), scale = uniform({6}, 3), bias = uniform({6}, 4);
  const auto v = x.to_doubles(), a = scale.to_doubles(), b = bias.to_doubles();
  std::vector<double> layer, rms, means;
  for (size_t r = 0; r < 4; ++r) {
    const std::vector<double> row(v.begin() + static_cast<std::ptrdiff_t>(r * 6),
                                  v.begin() + static_cast<std::ptrdiff_t>(r * 6 + 6));
    const Statistics s = statistics(row);
    double square = 0;
    for (const double value : row) square += value * value / 6;
    means.push_back(s.mean);
    for (size_t i = 0; i < 6; ++i) {
      layer.push_back((row[i] - s.mean) / std::sqrt(s.variance + 0.01) * a[i] + b[i]);
      rms.push_back(row[i] / std::sqrt(square + 0.01) * a[i]);
    }
  }
  const Attributes epsilon{{"epsilon", 0.01}};
  const auto y = evaluate("layer_norm", {x, scale, bias}, epsilon);
  expect_rounded(y[0], layer, 0x1p-46);
  expect_rounded(y[1], means, 0x1p-46);
  expect_rounded(evaluate_one("rms_norm", {x, scale}, epsilon), rms, 0x1p-46);
}

TEST(Normalization, GroupInstanceAndBatch) {
  const Tensor x = uniform({2, 4, 3}, 5), scale = uniform({4}, 6), bias = uniform({4}, 7);
  const auto v = x.to_doubles(), a = scale.to_doubles(), b = bias.to_doubles();
  for (const size_t groups : {2u, 4u}) {
    std::vector<double> wanted(24);
    const size_t length = 12 / groups;
    for (size_t g = 0; g < 2 * groups; ++g) {
      const Statistics s = statistics({v.begin() + static_cast<std::ptrdiff_t>(g * length),
                                       v.begin() + static_cast<std::ptrdiff_t>((g + 1) * length)});
      for (size_t i = g * length; i < (g + 1) * length; ++i)
        wanted[i] = (v[i] - s.mean) / std::sqrt(s.variance + 1e-5) * a[i / 3 % 4] + b[i / 3 % 4];
    }
    // 0 stands for one group per channel.
    const auto attribute = static_cast<int64_t>(groups == 4 ? 0 : groups);
    expect_rounded(evaluate_one("group_norm", {x, scale, bias}, {{"groups", attribute}}), wanted,
                   0x1p-46);
  }
  const Tensor mean = uniform({4}, 8), variance = uniform({4}, 9, 0.5, 2);
  std::vector<double> wanted(24);
  for (size_t i = 0; i < 24; ++i) {
    const size_t c = i / 3 % 4;
    wanted[i] =
        (v[i] - mean.to_doubles()[c]) / std::sqrt(variance.to_doubles()[c] + 1e-5) * a[c] + b[c];
  }
  expect_rounded(evaluate_one("batch_norm", {x, scale, bias, mean, variance}), wanted, 0x1p-46);
}

TEST(Normalization, LpAndLocalResponse) {
  const Tensor x = tensor<float>({2, 2}, {3, 4, 0, 0});
  expect_rounded(evaluate_one("lp_norm", {x}), {0.6, 0.8, 0, 0});
  expect_rounded(evaluate_one("lp_norm", {x}, {{"p", int64_t{1}}}), {3.0 / 7, 4.0 / 7, 0, 0});
  const Tensor channels = tensor<float>({1, 4, 1}, {1, 2, 3, 4});
  const auto over = [](double value, double sum) {
    return value / std::pow(1 + 0.5 / 3 * sum, 0.75);
  };
  expect_rounded(evaluate_one("lrn", {channels}, {{"size", int64_t{3}}, {"alpha", 0.5}}),
                 {over(1, 5), over(2, 14), over(3, 29), over(4, 25)}, 0x1p-46);
}

}  // namespace
}  // namespace octavo
