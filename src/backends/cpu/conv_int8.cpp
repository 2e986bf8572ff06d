#include "backends/cpu/conv_int8.h"

#include <algorithm>
#include <cmath>

namespace octavo::cpu {
namespace {

constexpr const char* gemm_names[] = {"gemm_int8_portable", "gemm_int8_avx2", "gemm_int8_avx512",
                                      "gemm_int8_vnni", "gemm_int8_amx"};
constexpr const char* depthwise_names[] = {"depthwise_int8_portable", "depthwise_int8_avx2",
                                           "depthwise_int8_avx512", "depthwise_int8_vnni"};

template <Isa isa, GemmInt8Function function>
std::unique_ptr<ConvKernel> gemm(const ConvProblem& problem, std::string& why) {
  if (!accepts_int8(problem, why)) return nullptr;
  return make_gemm_int8(problem, isa, gemm_names[static_cast<int>(isa)], function);
}

template <Isa isa, DepthwiseInt8Function function>
std::unique_ptr<ConvKernel> depthwise(const ConvProblem& problem, std::string& why) {
  if (!accepts_int8(problem, why)) return nullptr;
  if (problem.negative_slope != 1 || problem.dynamic == ConvProblem::Dynamic::row) {
    why = problem.negative_slope != 1 ? "negative outputs have a slope" : "each row has a scale";
    return nullptr;
  }
  return make_depthwise_int8(problem, isa, depthwise_names[static_cast<int>(isa)], function, why);
}

bool accepts_tiles(const ConvProblem& problem, std::string& why) {
  if (!accepts_int8(problem, why)) return false;
  const int64_t k4 = segment_k4(problem.shape);
  if (tile_k_step(k4) >= 4) return true;
  why = fmt::format("a window's row of {} bytes fills little of a tile", 4 * k4);
  return false;
}

std::unique_ptr<ConvKernel> amx(const ConvProblem& problem, std::string& why) {
  if (!accepts_tiles(problem, why)) return nullptr;
  if (!int8_tiles_work()) {
    why = "this machine's tiles fail the self-test";
    return nullptr;
  }
  return make_gemm_int8(problem, Isa::amx, gemm_names[static_cast<int>(Isa::amx)], gemm_int8_amx);
}

template <Isa isa, GemmInt8Function function>
constexpr ConvImplementation gemm_row{gemm_names[static_cast<int>(isa)], isa, gemm<isa, function>};
template <Isa isa, DepthwiseInt8Function function>
constexpr ConvImplementation depthwise_row{depthwise_names[static_cast<int>(isa)], isa,
                                           depthwise<isa, function>};

constexpr ConvImplementation implementations[] = {
    {gemm_names[static_cast<int>(Isa::amx)], Isa::amx, amx},
    depthwise_row<Isa::vnni, depthwise_int8_vnni>,
    gemm_row<Isa::vnni, gemm_int8_vnni>,
    depthwise_row<Isa::avx512, depthwise_int8_avx512>,
    gemm_row<Isa::avx512, gemm_int8_avx512>,
    depthwise_row<Isa::avx2, depthwise_int8_avx2>,
    gemm_row<Isa::avx2, gemm_int8_avx2>,
    depthwise_row<Isa::portable, depthwise_int8_portable>,
    gemm_row<Isa::portable, gemm_int8_portable>,
};

bool fits_byte(Element e, int32_t value) {
  return e == Element::u8 ? value >= 0 && value <= 255 : value >= -128 && value <= 127;
}

// No value before the clamp leaves int32; byte residuals only.
bool stays_int32(const ConvProblem& p) {
  const ConvShape& s = p.shape;
  const int64_t count = s.c_in / s.groups * s.kh * s.kw;
  const auto* w = static_cast<const int8_t*>(p.weights);
  const double residual =
      p.residual ? 255.0 * std::abs(static_cast<double>(p.residual_multiplier)) : 0;
  for (int64_t c = 0; c < s.c_out; ++c) {
    uint32_t weights = 0;
    for (int64_t i = 0; i < count; ++i)
      weights += static_cast<uint32_t>(std::abs(w[c * count + i]));
    const double bias = p.bias_i32 ? std::abs(static_cast<double>(p.bias_i32[c])) : 0;
    const double sum = bias + 255.0 * weights;
    // Sums that wrap are at most 2^31; each float32 rounding adds less than 2^-23 of the value.
    if (!(std::min(sum, 0x1p31) * std::abs(static_cast<double>(p.multiplier[c])) + residual <
          0x1p31 - 4096))
      return false;
  }
  return true;
}

}  // namespace

std::span<const ConvImplementation> conv_int8_list() { return implementations; }

// Not every machine that reports AMX was here to be tested: one product on this one, once.
bool int8_tiles_work() {
  static const bool work = [] {
    constexpr int64_t pixels = 41, depth = 208, channels = 56;
    std::vector<uint8_t> x(pixels * depth), want(pixels * channels), got(want);
    std::vector<int8_t> w(channels * depth);
    for (size_t i = 0; i < x.size(); ++i) x[i] = static_cast<uint8_t>(i * 37 + i / 251);
    for (size_t i = 0; i < w.size(); ++i) w[i] = static_cast<int8_t>(i * 91 + i / 127);
    const std::vector<float> multiplier(channels, 1e-3f);
    ConvProblem p;
    p.shape.w = p.shape.ow = pixels;
    p.shape.c_in = depth;
    p.shape.c_out = channels;
    p.x = p.y = Element::u8;
    p.weights = w.data();
    p.multiplier = multiplier.data();
    p.x_zero_point = 100;
    p.y_zero_point = 128;
    ThreadPool pool(1);
    const auto run = [&](Isa isa, GemmInt8Function function, std::vector<uint8_t>& y) {
      const auto kernel = make_gemm_int8(p, isa, gemm_names[static_cast<int>(isa)], function);
      AlignedArray<uint8_t> scratch(static_cast<int64_t>(kernel->scratch_bytes(1)));
      kernel->run({x.data(), nullptr, y.data(), scratch.data()}, pool);
    };
    run(Isa::portable, gemm_int8_portable, want);
    run(Isa::amx, gemm_int8_amx, got);
    return got == want;
  }();
  return work;
}

std::unique_ptr<ConvKernel> make_emulated_amx_int8(const ConvProblem& problem, std::string& why) {
  if (!accepts_tiles(problem, why)) return nullptr;
  return make_gemm_int8(problem, Isa::vnni, "gemm_int8_emulated", gemm_int8_emulated);
}

bool accepts_int8(const ConvProblem& p, std::string& why) {
  const ConvShape& s = p.shape;
  if (p.x == Element::f32)
    why = "activations are f32";
  else if (std::min({s.n, s.h, s.w, s.c_in, s.oh, s.ow, s.c_out, s.kh, s.kw}) < 1)
    why = "a size is zero";
  else if (!(p.negative_slope > 0 && p.negative_slope <= 1))
    why = "the negative slope is not above 0 and at most 1";
  else if (!p.weights || !p.multiplier)
    why = "weights or multipliers are missing";
  else if (!fits_byte(p.x, p.x_zero_point))
    why = "the input's zero point is outside its type";
  else if (p.y != Element::f32 && !fits_byte(p.y, p.y_zero_point))
    why = "the output's zero point is outside its type";
  else if (p.residual && *p.residual != Element::f32 &&
           !fits_byte(*p.residual, p.residual_zero_point))
    why = "the residual's zero point is outside its type";
  else if (p.dynamic != ConvProblem::Dynamic::no &&
           (p.x != Element::u8 || p.y != Element::f32 || (p.residual && *p.residual != p.y)))
    why = "dynamic products read u8 and write f32";
  else
    return true;
  return false;
}

uint8_t x_flip(const ConvProblem& p) { return p.x == Element::s8 ? 0x80 : 0; }
int32_t flipped_zero(const ConvProblem& p) { return p.x_zero_point + x_flip(p); }

Int8Epilogue make_output_epilogue(const ConvProblem& p) {
  Int8Epilogue e{};
  e.lo = p.clamp_lo;
  e.hi = p.clamp_hi;
  e.slope = p.negative_slope;
  e.y_float = p.y == Element::f32;
  if (!e.y_float) {
    e.y_flip = p.y == Element::s8 ? 0x80 : 0;
    e.y_zero = p.y_zero_point + e.y_flip;
    // Saturation is one more clamp, to integers, so it commutes with rounding and joins the first.
    const auto least = static_cast<float>(-e.y_zero), most = static_cast<float>(255 - e.y_zero);
    e.lo = std::min(std::max(e.lo, least), most);
    e.hi = std::min(std::max(e.hi, least), most);
    e.byte_lo = static_cast<uint8_t>(static_cast<int32_t>(std::nearbyint(e.lo)) + e.y_zero);
    e.byte_hi = static_cast<uint8_t>(static_cast<int32_t>(std::nearbyint(e.hi)) + e.y_zero);
  }
  return e;
}

Int8Epilogue make_epilogue(const ConvProblem& p) {
  Int8Epilogue e = make_output_epilogue(p);
  if (p.residual) {
    e.residual = *p.residual == Element::f32 ? Int8Residual::f32 : Int8Residual::byte;
    e.residual_flip = *p.residual == Element::s8 ? 0x80 : 0;
    e.residual_zero = p.residual_zero_point + e.residual_flip;
    e.residual_multiplier = p.residual_multiplier;
  }
  e.narrow = !e.y_float && e.residual != Int8Residual::f32 && stays_int32(p) &&
             (e.slope == 1 || e.residual == Int8Residual::none);
  return e;
}

int32_t weight_sum(const ConvProblem& p, int64_t channel) {
  const ConvShape& s = p.shape;
  const int64_t count = s.c_in / s.groups * s.kh * s.kw;
  const auto* w = static_cast<const int8_t*>(p.weights) + channel * count;
  uint32_t sum = 0;
  for (int64_t i = 0; i < count; ++i) sum += static_cast<uint32_t>(w[i]);
  return static_cast<int32_t>(sum);
}

int32_t packed_bias(const ConvProblem& p, int64_t channel) {
  const auto sum = static_cast<uint32_t>(weight_sum(p, channel));
  const auto bias = static_cast<uint32_t>(p.bias_i32 ? p.bias_i32[channel] : 0);
  return static_cast<int32_t>(bias - static_cast<uint32_t>(flipped_zero(p)) * sum);
}

}  // namespace octavo::cpu
