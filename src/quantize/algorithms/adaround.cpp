#include "quantize/algorithms/adaround.h"

#include <algorithm>
#include <cmath>
#include <optional>

#include "codegen/compile.h"
#include "support/error.h"

namespace octavo {
namespace {

constexpr float low = -0.1f, high = 1.1f;     // of the stretched sigmoid
constexpr size_t least_for_kernels = 200000;  // multiplications: fewer are done at once, here

// y = d H for [rows, size] d and a symmetric H.
class Products {
 public:
  Products(std::vector<float> h, size_t rows, size_t size, ThreadPool& pool)
      : rows_(rows), size_(size), h_(std::move(h)) {
    if (rows * size * size < least_for_kernels) return;
    const Dims square{static_cast<int64_t>(size), static_cast<int64_t>(size)};
    Graph graph;
    graph.stage = Stage::canonical;
    Value* d = graph.add_input("d", {DType::f32, Shape(dims())});
    graph.add_output(
        graph.apply("matmul", {d, graph.add_constant("h", Tensor::from(square, h_))}, {}, "y"));
    program_.emplace(compile(std::move(graph), {.threads = pool.size()}));
  }
  void run(const Tensor& d, std::vector<float>& y) {
    if (program_) {
      const std::vector<Tensor> operands{d};
      const std::vector<Tensor> outputs = program_->run(operands);
      const auto values = outputs[0].values<float>();
      std::copy(values.begin(), values.end(), y.begin());
      return;
    }
    const auto values = d.values<float>();
    std::fill(y.begin(), y.end(), 0.0f);
    for (size_t o = 0; o < rows_; ++o)
      for (size_t i = 0; i < size_; ++i)
        for (size_t j = 0; j < size_; ++j)
          y[o * size_ + j] += values[o * size_ + i] * h_[i * size_ + j];
  }
  Dims dims() const { return {static_cast<int64_t>(rows_), static_cast<int64_t>(size_)}; }

 private:
  size_t rows_, size_;
  std::vector<float> h_;
  std::optional<Program> program_;
};

// Of one row, q a choice of the two for each weight and g = H (w - q): the weight whose other
// choice lowers (w - q)' H (w - q) most goes there, until none does.
void descend(std::span<const float> below, std::span<const float> above,
             const std::vector<float>& h, std::span<float> q, std::span<float> g) {
  const size_t size = q.size();
  const auto step_of = [&](size_t i) {
    return q[i] == below[i] ? above[i] - q[i] : below[i] - q[i];
  };
  for (size_t n = 0; n < 4 * size; ++n) {  // rounding could make two choices trade places for ever
    float least = -1e-6f;
    size_t which = size;
    for (size_t i = 0; i < size; ++i) {
      const float step = step_of(i), change = step * (step * h[i * size + i] - 2 * g[i]);
      if (change < least) least = change, which = i;
    }
    if (which == size) return;
    const float step = step_of(which);
    q[which] += step;
    for (size_t j = 0; j < size; ++j) g[j] -= step * h[which * size + j];
  }
}

}  // namespace

std::vector<int8_t> adaround(const WeightRows& rows, std::span<const float> scales, size_t first,
                             size_t count, const Moments& moments, ThreadPool& pool,
                             const AdaRoundOptions& options) {
  const size_t size = rows.length, all = count * size;
  OCTAVO_CHECK(moments.size == size && moments.values.size() == size * size &&
               first + count <= rows.channels && scales.size() == rows.channels);
  std::vector<int8_t> result(all);
  if (all == 0) return result;
  double trace = 0;
  for (size_t i = 0; i < size; ++i) trace += moments.values[i * size + i];
  const double unit = trace > 0 ? static_cast<double>(size) / trace : 0;
  std::vector<float> h(size * size);
  for (size_t i = 0; i < h.size(); ++i) h[i] = static_cast<float>(moments.values[i] * unit);
  for (size_t i = 0; i < size; ++i) h[i * size + i] += static_cast<float>(options.damping);
  Products products(h, count, size, pool);

  // In steps: the integer below, the rest above it, v with h(v) = rest.
  std::vector<float> floors(all), rests(all), v(all), mean(all, 0), square(all, 0), y(all);
  for (size_t i = 0; i < all; ++i) {
    const float w = rows.values[first * size + i] / scales[first + i / size];
    floors[i] = std::floor(w);
    rests[i] = w - floors[i];
    const float part = std::clamp((rests[i] - low) / (high - low), 1e-4f, 1 - 1e-4f);
    v[i] = std::log(part / (1 - part));
  }
  Tensor d(DType::f32, products.dims());
  const auto errors = d.mutable_values<float>();
  const int warm = static_cast<int>(options.warm_up * options.iterations);
  const auto each = [&](auto f) {  // of all weights, row by row
    auto task = [&](int64_t o, int) {
      for (size_t i = static_cast<size_t>(o) * size; i < (static_cast<size_t>(o) + 1) * size; ++i)
        f(i);
    };
    pool.run(static_cast<int64_t>(count), task);
  };
  for (int step = 0; step < options.iterations && unit > 0; ++step) {
    each([&](size_t i) {
      const float s = 1 / (1 + std::exp(-v[i]));
      errors[i] = rests[i] - std::clamp(s * (high - low) + low, 0.0f, 1.0f);
    });
    products.run(d, y);
    const bool pushes = step >= warm;
    const double part =
        pushes ? static_cast<double>(step - warm) / std::max(1, options.iterations - warm) : 0;
    const auto power = static_cast<float>(2 + 9 * (1 + std::cos(part * 3.14159265358979)));
    const auto rate = static_cast<float>(options.rate),
               push = static_cast<float>(options.push + part * options.last_push);
    const float mean_left = 1 - std::pow(0.9f, static_cast<float>(step + 1)),
                square_left = 1 - std::pow(0.999f, static_cast<float>(step + 1));
    each([&](size_t i) {
      const float s = 1 / (1 + std::exp(-v[i])), wide = s * (high - low) + low;
      float gradient = 0;
      if (wide > 0 && wide < 1) {
        gradient = -2 * y[i];
        const float away = 2 * wide - 1;  // from the middle
        if (pushes)
          gradient -= push * 2 * power * std::copysign(std::pow(std::fabs(away), power - 1), away);
        gradient *= s * (1 - s) * (high - low);
      }
      mean[i] = 0.9f * mean[i] + 0.1f * gradient;
      square[i] = 0.999f * square[i] + 0.001f * gradient * gradient;
      v[i] -= rate * (mean[i] / mean_left) / (std::sqrt(square[i] / square_left) + 1e-8f);
    });
  }

  std::vector<float> below(all), above(all), nearest(all), learned(all);
  for (size_t i = 0; i < all; ++i) {
    below[i] = std::max(floors[i], -127.0f);
    above[i] = std::min(floors[i] + 1, 127.0f);
    nearest[i] = std::clamp(std::nearbyint(floors[i] + rests[i]), -127.0f, 127.0f);
    learned[i] = v[i] > 0 ? above[i] : below[i];
  }
  // y = d H for d = w - q, and each row's d' H d.
  const auto forms = [&](const std::vector<float>& q) {
    each([&](size_t i) { errors[i] = floors[i] + rests[i] - q[i]; });
    products.run(d, y);
    std::vector<double> sums(count, 0);
    for (size_t i = 0; i < all; ++i) sums[i / size] += static_cast<double>(errors[i]) * y[i];
    return sums;
  };
  std::vector<float> best = nearest;
  std::vector<double> least = forms(best);
  for (std::vector<float>* start : {&nearest, &learned}) {
    if (!(unit > 0)) break;
    forms(*start);
    auto task = [&](int64_t o, int) {
      const size_t at = static_cast<size_t>(o) * size;
      descend({&below[at], size}, {&above[at], size}, h, {&(*start)[at], size}, {&y[at], size});
    };
    pool.run(static_cast<int64_t>(count), task);
    const std::vector<double> reached = forms(*start);
    for (size_t o = 0; o < count; ++o) {
      if (!(reached[o] < least[o])) continue;
      least[o] = reached[o];
      std::copy_n(&(*start)[o * size], size, &best[o * size]);
    }
  }
  for (size_t i = 0; i < all; ++i) result[i] = static_cast<int8_t>(best[i]);
  return result;
}

}  // namespace octavo
