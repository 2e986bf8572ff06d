#include "backends/cpu/linear_int8.h"

#include <algorithm>
#include <cmath>
#include <cstring>

#include "backends/cpu/histogram.h"
#include "backends/cpu/near.h"
#include "backends/cpu/parallel.h"
#include "backends/cpu/quantized.h"
#include "support/error.h"

namespace octavo::cpu {
namespace {

constexpr int64_t max_blocks = 4;
// As gemm_int8.cpp's: smaller tasks cost more to hand out than they balance.
constexpr int64_t task_macs = 512 * 1024, task_rows = 24;

GemmInt8Function function_for(Isa isa, int64_t k4) {
  switch (isa) {
    case Isa::amx:
      if (tile_k_step(k4) >= 4 && int8_tiles_work()) return gemm_int8_amx;
      [[fallthrough]];
    case Isa::vnni:
      return gemm_int8_vnni;
    case Isa::avx512:
      return gemm_int8_avx512;
    case Isa::avx2:
      return gemm_int8_avx2;
    case Isa::portable:
      break;
  }
  return gemm_int8_portable;
}

// Extremes of a range that holds 0. False on NaN or infinity.
bool extremes(const float* x, int64_t count, ThreadPool& pool, float& min, float& max) {
  constexpr int64_t grain = 1 << 16;
  const auto find = histogram_kernels().extremes;
  if (count <= grain) {
    const Extremes all = find(x, count);
    min = std::min(all.min, 0.0f);
    max = std::max(all.max, 0.0f);
    return all.finite;
  }
  std::vector<Extremes> parts(static_cast<size_t>(ceil_div(count, grain)));
  parallel_chunks(pool, count, grain, [&](int64_t begin, int64_t end) {
    parts[static_cast<size_t>(begin / grain)] = find(x + begin, end - begin);
  });
  min = max = 0;
  for (const Extremes& part : parts) {
    if (!part.finite) return false;
    min = std::min(min, part.min);
    max = std::max(max, part.max);
  }
  return true;
}

}  // namespace

LinearInt8::LinearInt8(const LinearInt8Weights& w, Isa isa)
    : k_(w.k), n_(w.n), k4_(ceil_div(w.k, 4)), has_bias_(w.bias != nullptr) {
  if (w.k < 1 || w.n < 1) throw InternalError("linear_int8: no weights");
  if (w.zero_point)
    for (int64_t c = 0; c < n_; ++c) {
      if (w.zero_point[c] < -128 || w.zero_point[c] > 127)
        throw InternalError("linear_int8: a weight's zero point is outside s8");
      if (w.zero_point[c] != 0) segments_ = std::max<int64_t>(segments_, 2);
      if (w.zero_point[c] == -128) segments_ = 3;  // 127 + 128 = 127 + 127 + 1
    }
  function_ = function_for(isa, k4_);
  const int64_t blocks = ceil_div(n_, 16), panels = ceil_div(blocks, max_blocks);
  for (int64_t i = 0, block = 0, at = 0; i < panels; ++i) {  // of nearly equal width
    const int64_t width = blocks / panels + (i < blocks % panels);
    panels_.push_back({block * 16, at, static_cast<int>(width),
                       static_cast<int>(std::min(width * 16, n_ - block * 16))});
    at += segments_ * k4_ * width * 64;
    block += width;
  }
  weights_ = AlignedArray<int8_t>(segments_ * k4_ * blocks * 64);
  step_ = AlignedArray<float>(blocks * 16);
  bias_ = AlignedArray<float>(blocks * 16);
  sum_ = AlignedArray<int32_t>(blocks * 16);
  abs_sum_ = AlignedArray<double>(blocks * 16);
  for (const Panel& panel : panels_)
    for (int c = 0; c < panel.channels; ++c) {
      const int64_t channel = panel.channel + c;
      step_[channel] = w.step[channel];
      if (has_bias_) bias_[channel] = w.bias[channel];
      const int zero = w.zero_point ? w.zero_point[channel] : 0;
      int8_t* to = weights_.data() + panel.weights + (c / 16) * 64 + c % 16 * 4;
      for (int64_t i = 0; i < k_; ++i) {
        const int value = w.weights[channel * k_ + i] - zero;
        int8_t* at = to + i / 4 * panel.blocks * 64 + i % 4;
        for (int rest = value; rest != 0; at += k4_ * panel.blocks * 64) {
          *at = static_cast<int8_t>(std::clamp(rest, -128, 127));
          rest -= *at;
        }
        sum_[channel] += value;
        abs_sum_[channel] += std::abs(value);
      }
    }
}

void LinearInt8::run(int64_t rows, const void* x, Element x_element, float x_step,
                     int32_t x_zero_point, const LinearInt8Output& out, ThreadPool& pool) const {
  const auto* bytes = static_cast<const uint8_t*>(x);
  if (x_element == Element::u8 && k_ % 4 == 0)
    return multiply(rows, bytes, k_, x_step, x_zero_point, out, pool);
  const int64_t pitch = k4_ * 4;
  const uint8_t flip = x_element == Element::s8 ? 0x80 : 0;
  AlignedArray<uint8_t> padded(rows * pitch);
  for (int64_t row = 0; row < rows; ++row)
    for (int64_t i = 0; i < k_; ++i)
      padded[row * pitch + i] = static_cast<uint8_t>(bytes[row * k_ + i] ^ flip);
  multiply(rows, padded.data(), pitch, x_step, x_zero_point + flip, out, pool);
}

bool LinearInt8::run_dynamic(int64_t rows, const float* x, const LinearInt8Output& out,
                             ThreadPool& pool) const {
  DynamicRows quantized;
  if (!quantize_rows(rows, x, quantized, pool)) return false;
  multiply_rows(0, rows, quantized, out, pool);
  return true;
}

bool LinearInt8::quantize_rows(int64_t rows, const float* x, DynamicRows& to,
                               ThreadPool& pool) const {
  if (rows == 0) return true;
  float min, max;
  if (!extremes(x, rows * k_, pool, min, max)) return false;
  to.step = static_cast<float>((static_cast<double>(max) - min) / 255);
  if (!(to.step >= std::numeric_limits<float>::min())) to.step = 1;
  to.zero_point = static_cast<int32_t>(
      std::clamp(std::nearbyint(-static_cast<double>(min) / to.step), 0.0, 255.0));
  const int64_t pitch = k4_ * 4, padded = ceil_div(n_, 16) * 16;
  if (static_cast<int64_t>(to.bytes.bytes()) < rows * pitch)
    to.bytes = AlignedArray<uint8_t>(rows * pitch);
  if (!to.bias.data()) {
    to.multiplier = AlignedArray<float>(padded);
    to.bias = AlignedArray<int32_t>(padded);
  }
  const auto zero = static_cast<uint32_t>(-to.zero_point);
  for (int64_t c = 0; c < padded; ++c) {
    to.multiplier[c] = to.step * step_[c];
    to.bias[c] = static_cast<int32_t>(zero * static_cast<uint32_t>(sum_[c]));
  }
  Quantize quantize;
  quantize.reciprocal = true;
  quantize.step = &to.step;
  quantize.zero_point = &to.zero_point;
  const auto run = best_kernel(quantize_kernels()).run;
  quantize.channels = pitch == k_ ? rows * k_ : k_;
  for (int64_t row = 0; row < (pitch == k_ ? 1 : rows); ++row) {
    quantize.x = x + row * k_;
    quantize.q = to.bytes.data() + row * pitch;
    run(quantize, pool);
  }
  return true;
}

void LinearInt8::multiply_rows(int64_t first, int64_t rows, const DynamicRows& x,
                               const LinearInt8Output& out, ThreadPool& pool) const {
  ConvProblem problem;  // what the epilogue's maker reads
  problem.clamp_lo = out.clamp_lo;
  problem.clamp_hi = out.clamp_hi;
  Int8Epilogue epilogue = make_output_epilogue(problem);
  if (has_bias_) {
    epilogue.residual = Int8Residual::f32;
    epilogue.residual_multiplier = 1;
  }
  const int64_t pitch = k4_ * 4;
  multiply({rows, x.bytes.data() + first * pitch, pitch, x.multiplier.data(), x.bias.data(),
            has_bias_ ? bias_.data() : nullptr, &epilogue, out.y, element_size(Element::f32)},
           pool);
}

std::shared_ptr<const LinearInt8::Prepared> LinearInt8::prepared(
    float x_step, int32_t x_zero_point, const LinearInt8Output& out) const {
  const bool bytes = out.element != Element::f32;
  if (bytes) {
    const std::lock_guard lock(mutex_);
    if (last_ && last_->x_step == x_step && last_->x_zero_point == x_zero_point &&
        last_->out.element == out.element && last_->out.step == out.step &&
        last_->out.zero_point == out.zero_point && last_->out.clamp_lo == out.clamp_lo &&
        last_->out.clamp_hi == out.clamp_hi)
      return last_;
  }
  const int64_t padded = ceil_div(n_, 16) * 16;
  auto made = std::make_shared<Prepared>();
  Prepared& p = *made;
  p.x_step = x_step;
  p.x_zero_point = x_zero_point;
  p.out = out;
  p.multiplier = AlignedArray<float>(padded);
  p.bias = AlignedArray<int32_t>(padded);
  const double scale = static_cast<double>(x_step);
  const auto zero = static_cast<uint32_t>(-x_zero_point);
  for (int64_t c = 0; c < n_; ++c) {
    p.multiplier[c] = static_cast<float>(scale * step_[c] / out.step);
    p.bias[c] = static_cast<int32_t>(zero * static_cast<uint32_t>(sum_[c]));
  }
  ConvProblem problem;  // what the epilogue's maker reads
  problem.y = out.element;
  problem.y_zero_point = out.zero_point;
  problem.clamp_lo = out.clamp_lo / out.step;
  problem.clamp_hi = out.clamp_hi / out.step;
  p.epilogue = make_output_epilogue(problem);
  p.float_bias = has_bias_;
  if (bytes) prepare_bytes(p);
  if (p.float_bias) {
    p.bias_f32 = AlignedArray<float>(padded);
    for (int64_t c = 0; c < n_; ++c)
      p.bias_f32[c] = static_cast<float>(static_cast<double>(bias_[c]) / out.step);
    p.epilogue.residual = Int8Residual::f32;
    p.epilogue.residual_multiplier = 1;
    p.epilogue.narrow = false;
  }
  if (bytes) {
    const std::lock_guard lock(mutex_);
    last_ = made;
  }
  return made;
}

// Takes the biases into the accumulators if all fit.
void LinearInt8::prepare_bytes(Prepared& p) const {
  bool whole = true, narrow = true;
  std::vector<int32_t> steps(static_cast<size_t>(n_));
  for (int64_t c = 0; c < n_; ++c) {
    const double step = static_cast<double>(p.x_step) * step_[c], bias = bias_[c] / step;
    whole = whole && std::abs(bias) < 0x1p30;
    if (whole) steps[static_cast<size_t>(c)] = static_cast<int32_t>(std::nearbyint(bias));
    // int8_data.h's `narrow`: each float32 rounding adds less than 2^-23 of the value.
    narrow = narrow && (std::abs(bias) + 255 * abs_sum_[c]) * (step / p.out.step) < 0x1p31 - 4096;
  }
  p.epilogue.narrow = narrow;
  p.float_bias = has_bias_ && !whole;
  for (int64_t c = 0; c < n_ && whole; ++c)
    p.bias[c] = static_cast<int32_t>(static_cast<uint32_t>(p.bias[c]) +
                                     static_cast<uint32_t>(steps[static_cast<size_t>(c)]));
}

void LinearInt8::multiply(int64_t rows, const uint8_t* x, int64_t pitch, float x_step,
                          int32_t x_zero_point, const LinearInt8Output& out,
                          ThreadPool& pool) const {
  const std::shared_ptr<const Prepared> p = prepared(x_step, x_zero_point, out);
  multiply({rows, x, pitch, p->multiplier.data(), p->bias.data(),
            p->float_bias ? p->bias_f32.data() : nullptr, &p->epilogue, out.y,
            element_size(out.element)},
           pool);
}

void LinearInt8::multiply(const Product& p, ThreadPool& pool) const {
  const int64_t rows = p.rows;
  if (rows == 0) return;
  const int64_t panels = static_cast<int64_t>(panels_.size());
  const int64_t macs = rows * segments_ * k4_ * 4 * ceil_div(n_, 16) * 16;
  const int64_t wanted = std::clamp<int64_t>(macs / task_macs, 1, int64_t{8} * pool.size());
  // Few rows: cut the weights, so that each core reads a part of them; else cut the rows.
  const int64_t row_tasks = std::min(ceil_div(rows, task_rows), wanted);
  const int64_t panel_tasks = std::min(panels, ceil_div(wanted, row_tasks));
  auto task = [&](int64_t i, int) {
    const int64_t row = rows * (i / panel_tasks) / row_tasks;
    const int64_t row_end = rows * (i / panel_tasks + 1) / row_tasks;
    const int64_t first = panels * (i % panel_tasks) / panel_tasks;
    const int64_t last = panels * (i % panel_tasks + 1) / panel_tasks;
    GemmInt8Tile tile{};
    tile.a = p.x + row * p.pitch;
    tile.pixel_step = p.pitch;
    tile.segment_at = segment_at_;
    tile.segments = segments_;
    tile.k4 = k4_;
    tile.y_step = n_ * p.y_size;
    tile.pixels = row_end - row;
    tile.epilogue = p.epilogue;
    for (int64_t j = first; j < last; ++j) {
      const Panel& panel = panels_[static_cast<size_t>(j)];
      tile.weights = weights_.data() + panel.weights;
      tile.bias = p.bias + panel.channel;
      tile.multiplier = p.multiplier + panel.channel;
      tile.y = static_cast<uint8_t*>(p.y) + (row * n_ + panel.channel) * p.y_size;
      if (p.residual) tile.residual = p.residual + panel.channel;
      tile.blocks = panel.blocks;
      tile.channels = panel.channels;
      function_(tile);
    }
  };
  run_near(pool, row_tasks * panel_tasks, task);
}

}  // namespace octavo::cpu
