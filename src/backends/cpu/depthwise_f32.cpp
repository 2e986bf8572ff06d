#include <algorithm>
#include <cstring>

#include "backends/cpu/conv_f32.h"
#include "backends/cpu/near.h"
#include "support/buffer.h"

namespace octavo::cpu {
namespace {

class DepthwiseF32 final : public ConvKernel {
 public:
  DepthwiseF32(const ConvProblem& p, const char* name, Isa isa, const ConvF32Kernels& kernels)
      : name_(name),
        isa_(isa),
        run_row_(kernels.depthwise),
        shape_(p.shape),
        residual_(p.residual) {
    const ConvShape& s = shape_;
    const int64_t taps = s.kh * s.kw, width = kernels.width;
    const int64_t padded = (s.c_out + width - 1) / width * width;
    packed_ = Buffer::allocate(static_cast<size_t>((taps + 1) * padded) * sizeof(float));
    auto* bias = reinterpret_cast<float*>(packed_->mutable_data());
    float* weights = bias + padded;
    std::memset(bias, 0, packed_->size());
    const auto* from = static_cast<const float*>(p.weights);
    for (int64_t c = 0; c < s.c_out; ++c) {
      bias[c] = p.bias ? p.bias[c] : 0;
      for (int64_t tap = 0; tap < taps; ++tap) weights[tap * padded + c] = from[c * taps + tap];
    }

    row_.pixel_step = s.stride_w * s.c_in;
    row_.row_step = s.dilation_h * s.w * s.c_in;
    row_.column_step = s.dilation_w * s.c_in;
    row_.kw = s.kw;
    row_.weights = weights;
    row_.bias = bias;
    row_.channels = s.c_out;
    row_.padded_channels = padded;
    row_.pixels = s.ow;
    row_.w = s.w;
    row_.x_first = -s.pad_left;
    row_.stride = s.stride_w;
    row_.dilation = s.dilation_w;
    row_.inner_begin = std::min(s.ow, (s.pad_left + s.stride_w - 1) / s.stride_w);
    const int64_t room = s.w - 1 - (s.kw - 1) * s.dilation_w + s.pad_left;  // of the first tap
    row_.inner_end =
        std::max(row_.inner_begin, room < 0 ? 0 : std::min(s.ow, room / s.stride_w + 1));
    row_.round = p.round;
    row_.slope = p.negative_slope;
    row_.lo = p.clamp_lo;
    row_.hi = p.clamp_hi;
  }

  const char* name() const override { return name_; }
  Isa isa() const override { return isa_; }
  size_t scratch_bytes(int) const override { return 0; }
  size_t packed_bytes() const override { return packed_->size(); }

  void run(const ConvArgs& args, ThreadPool& pool) const override {
    const auto* x = static_cast<const float*>(args.x);
    const auto* residual = residual_ ? static_cast<const float*>(args.residual) : nullptr;
    auto* y = static_cast<float*>(args.y);
    auto task = [&](int64_t i, int) {
      const ConvShape& s = shape_;
      const int64_t n = i / s.oh, top = i % s.oh * s.stride_h - s.pad_top;
      DepthwiseF32Row row = row_;
      row.ky_begin = 0;
      row.ky_end = s.kh;
      while (row.ky_begin < row.ky_end && top + row.ky_begin * s.dilation_h < 0) ++row.ky_begin;
      while (row.ky_end > row.ky_begin && top + (row.ky_end - 1) * s.dilation_h >= s.h)
        --row.ky_end;
      row.x = x + ((n * s.h + top) * s.w - s.pad_left) * s.c_in;
      row.y = y + i * s.ow * s.c_out;
      row.residual = residual ? residual + i * s.ow * s.c_out : nullptr;
      run_row_(row);
    };
    run_near(pool, shape_.n * shape_.oh, task);
  }

 private:
  const char* name_;
  Isa isa_;
  void (*run_row_)(const DepthwiseF32Row&);
  ConvShape shape_;
  bool residual_;
  std::shared_ptr<Buffer> packed_;
  DepthwiseF32Row row_{};  // all but what depends on the row
};

}  // namespace

std::unique_ptr<ConvKernel> make_depthwise_f32(const ConvProblem& problem, const char* name,
                                               Isa isa, const ConvF32Kernels& kernels) {
  return std::make_unique<DepthwiseF32>(problem, name, isa, kernels);
}

}  // namespace octavo::cpu
