#include "backends/cpu/conv_int8.h"

#include <algorithm>
#include <cmath>

namespace octavo::cpu {
namespace {

template <Isa isa, GemmInt8Function function>
std::unique_ptr<ConvKernel> gemm(const ConvProblem& problem, std::string& why) {
  static const std::string name = std::string("gemm_int8_") + isa_name(isa);
  if (!accepts_int8(problem, why)) return nullptr;
  return make_gemm_int8(problem, isa, name.c_str(), function);
}

constexpr ConvImplementation implementations[] = {
    {"gemm_int8_vnni", Isa::vnni, gemm<Isa::vnni, gemm_int8_vnni>},
    {"gemm_int8_avx512", Isa::avx512, gemm<Isa::avx512, gemm_int8_avx512>},
    {"gemm_int8_avx2", Isa::avx2, gemm<Isa::avx2, gemm_int8_avx2>},
    {"gemm_int8_portable", Isa::portable, gemm<Isa::portable, gemm_int8_portable>},
};

bool fits_byte(Element e, int32_t value) {
  return e == Element::u8 ? value >= 0 && value <= 255 : value >= -128 && value <= 127;
}

}  // namespace

std::span<const ConvImplementation> conv_int8_list() { return implementations; }

bool accepts_int8(const ConvProblem& p, std::string& why) {
  if (p.x == Element::f32)
    why = "activations are f32";
  else if (!p.weights || !p.multiplier)
    why = "weights or multipliers are missing";
  else if (!fits_byte(p.x, p.x_zero_point))
    why = "the input's zero point is outside its type";
  else if (p.y != Element::f32 && !fits_byte(p.y, p.y_zero_point))
    why = "the output's zero point is outside its type";
  else if (p.residual && *p.residual != Element::f32 &&
           !fits_byte(*p.residual, p.residual_zero_point))
    why = "the residual's zero point is outside its type";
  else
    return true;
  return false;
}

bool is_depthwise(const ConvShape& s) {
  return s.groups > 1 && s.groups == s.c_in && s.groups == s.c_out;
}

uint8_t x_flip(const ConvProblem& p) { return p.x == Element::s8 ? 0x80 : 0; }
int32_t flipped_zero(const ConvProblem& p) { return p.x_zero_point + x_flip(p); }

Int8Epilogue make_epilogue(const ConvProblem& p) {
  Int8Epilogue e{};
  e.lo = p.clamp_lo;
  e.hi = p.clamp_hi;
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
  if (p.residual) {
    e.residual = *p.residual == Element::f32 ? Int8Residual::f32 : Int8Residual::byte;
    e.residual_flip = *p.residual == Element::s8 ? 0x80 : 0;
    e.residual_zero = p.residual_zero_point + e.residual_flip;
    e.residual_multiplier = p.residual_multiplier;
  }
  const float largest = [&] {
    float m = 0;
    for (int64_t c = 0; c < p.shape.c_out; ++c)
      m = std::isnan(p.multiplier[c]) ? INFINITY : std::max(m, std::abs(p.multiplier[c]));
    return m;
  }();
  // |acc| <= 2^31.
  e.narrow = !e.y_float && e.residual == Int8Residual::none && largest < 1;
  return e;
}

int32_t packed_bias(const ConvProblem& p, int64_t channel) {
  const ConvShape& s = p.shape;
  const int64_t count = s.c_in / s.groups * s.kh * s.kw;
  const auto* w = static_cast<const int8_t*>(p.weights) + channel * count;
  uint32_t sum = 0;
  for (int64_t i = 0; i < count; ++i) sum += static_cast<uint32_t>(w[i]);
  const auto bias = static_cast<uint32_t>(p.bias_i32 ? p.bias_i32[channel] : 0);
  return static_cast<int32_t>(bias - static_cast<uint32_t>(flipped_zero(p)) * sum);
}

}  // namespace octavo::cpu
