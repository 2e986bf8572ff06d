// 2-D convolution and matrix product. Activations are NHWC, densely packed; a matrix product
// [m, k] x [k, n] is the 1x1 convolution with n=1, h=1, w=m, c_in=k, c_out=n.
//
// INT8 arithmetic (docs: the reference kernel equals every implementation bit for bit; `(float)`
// is int32 to float32 round-half-even; every line below is one float32 rounding):
//   acc  = bias[oc] + sum (x - x_zero_point) * w            int32, wrap-around
//   f    = (float)acc * multiplier[oc]
//   f    = f + (float)(residual - residual_zero_point) * residual_multiplier   (product, then sum)
//   f    = f < 0 ? f * negative_slope : f
//   f    = min(max(f, clamp_lo), clamp_hi)
//   y    = saturate(round_half_even(f) + y_zero_point)       for u8 and s8 outputs
//   y    = f                                                 for f32 outputs
// Dynamic: x's zero point and scale come with each call, one of each or one for each row of a
// matrix product; the bias is f32 and the output too:
//   f    = (float)acc * (x_scale * multiplier[oc])
//   f    = f + bias[oc]
// Taps outside the image count as x = x_zero_point. multiplier, residual_multiplier and the clamp
// are in units of the output's step (step = 1 for f32 outputs); whoever builds the problem computes
// them.
#pragma once
#include <limits>
#include <optional>

#include "backends/cpu/half_type.h"
#include "backends/cpu/kernel.h"
#include "support/buffer.h"

namespace octavo::cpu {

struct ConvShape {
  int64_t n = 1, h = 1, w = 1, c_in = 1;  // input, NHWC
  int64_t oh = 1, ow = 1, c_out = 1;      // output, NHWC
  int64_t kh = 1, kw = 1;
  int64_t stride_h = 1, stride_w = 1;
  int64_t pad_top = 0, pad_left = 0;  // bottom and right follow from oh and ow
  int64_t dilation_h = 1, dilation_w = 1;
  int64_t groups = 1;
};

// Weights of an f32 product that are stored as integers: w = (q - zero_point) * scale in float, one
// rounding. ConvProblem::weights are then one byte each, of the type `element`.
struct StoredIntegers {
  Element element = Element::s8;      // or u8
  int bits = 8;                       // or 4: they lie in [-8, 7] or [0, 15]
  int64_t group = 0;                  // inputs that share a scale (of a matrix product); 0: all
  const float* scales = nullptr;      // [c_out, ceil(c_in / group)]
  const void* zero_points = nullptr;  // the same, of type `element`, or none
};

// Everything known at compile time. Pointers need only live until the kernel is made.
struct ConvProblem {
  ConvShape shape;
  Element x = Element::f32, y = Element::f32;  // weights are s8 when x is u8 or s8, else f32
  const void* weights = nullptr;               // [c_out, c_in/groups, kh, kw], as ONNX has them
  bool weights_by_input = false;               // of an f32 matrix product: [c_in, c_out]
  std::shared_ptr<const Buffer> memory;        // what weights points into, if it never changes
  std::optional<Element> residual;             // NHWC, shape of the output
  float negative_slope = 1;                    // above 0, at most 1
  float clamp_lo = -std::numeric_limits<float>::infinity();
  float clamp_hi = std::numeric_limits<float>::infinity();
  // u8 in, f32 out, a residual of f32 or none; multiplier holds the weights' scales.
  enum class Dynamic : uint8_t { no, tensor, row } dynamic = Dynamic::no;
  // f32 or dynamic only
  const float* bias = nullptr;  // [c_out] or none
  std::optional<StoredIntegers> integers;
  HalfType round = HalfType::none;  // f32 only: of sum and bias, before residual, slope and clamp
  // int8 only
  const int32_t* bias_i32 = nullptr;  // [c_out] or none
  const float* multiplier = nullptr;  // [c_out]
  int32_t x_zero_point = 0, y_zero_point = 0, residual_zero_point = 0;
  float residual_multiplier = 1;
};

struct ConvArgs {
  const void* x = nullptr;
  const void* residual = nullptr;
  void* y = nullptr;
  void* scratch =
      nullptr;  // scratch_bytes() bytes, 64-byte aligned; contents do not survive a call
  // Dynamic only: one of each, or one for each row.
  const float* x_scale = nullptr;
  const uint8_t* x_zero = nullptr;
};

class ConvKernel {
 public:
  virtual ~ConvKernel() = default;
  virtual const char* name() const = 0;
  virtual Isa isa() const = 0;
  // For a pool of `threads` threads.
  virtual size_t scratch_bytes(int threads) const = 0;
  virtual size_t packed_bytes() const = 0;
  // Allocates nothing; the answer does not depend on pool.size().
  virtual void run(const ConvArgs& args, ThreadPool& pool) const = 0;
};

struct ConvImplementation {
  const char* name;
  Isa isa;
  // A kernel, or null with `why` set. Never called when best_isa() < isa.
  std::unique_ptr<ConvKernel> (*create)(const ConvProblem& problem, std::string& why);
};

// Best first; the last one (portable) accepts everything its element types allow.
std::span<const ConvImplementation> conv_int8_list();
std::span<const ConvImplementation> conv_f32_list();

// Takes the first implementation that accepts; appends those that declined to `declined` if given.
std::unique_ptr<ConvKernel> make_conv(const ConvProblem& problem,
                                      std::vector<Declined>* declined = nullptr);

}  // namespace octavo::cpu
