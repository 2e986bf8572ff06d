#include "graph/tensor.h"

#include <bit>
#include <cstring>

#include "graph/element.h"
#include "support/error.h"

namespace octavo {
namespace {

template <class To>
void convert_into(const Tensor& from, To* out) {
  visit_dtype(from.dtype(), [&](auto tag) {
    using From = decltype(tag);
    const auto* in = reinterpret_cast<const From*>(from.data());
    for (int64_t i = 0; i < from.size(); ++i) out[i] = store_element<To>(load_element(in[i]));
    return 0;
  });
}

}  // namespace

Tensor::Tensor(DType dtype, Dims dims)
    : dtype_(dtype),
      dims_(std::move(dims)),
      size_(element_count(dims_)),
      buffer_(Buffer::allocate(bytes())) {}

Tensor::Tensor(DType dtype, Dims dims, std::shared_ptr<Buffer> buffer)
    : dtype_(dtype),
      dims_(std::move(dims)),
      size_(element_count(dims_)),
      buffer_(std::move(buffer)) {
  OCTAVO_CHECK(buffer_ && buffer_->size() >= bytes());
}

void Tensor::check_type(DType expected) const { OCTAVO_CHECK(dtype_ == expected); }

Tensor Tensor::reshaped(Dims dims) const {
  OCTAVO_CHECK(element_count(dims) == size_);
  return {dtype_, std::move(dims), buffer_};
}

std::vector<double> Tensor::to_doubles() const {
  std::vector<double> out(static_cast<size_t>(size_));
  convert_into(*this, out.data());
  return out;
}

std::vector<int64_t> Tensor::to_ints() const {
  std::vector<int64_t> out(static_cast<size_t>(size_));
  convert_into(*this, out.data());
  return out;
}

bool operator==(const Tensor& a, const Tensor& b) {
  if (!a || !b) return !a && !b;
  return a.dtype_ == b.dtype_ && a.dims_ == b.dims_ &&
         std::memcmp(a.data(), b.data(), a.bytes()) == 0;
}

float bfloat16_to_float(uint16_t bits) {
  return std::bit_cast<float>(static_cast<uint32_t>(bits) << 16);
}

uint16_t float_to_bfloat16(float value) {
  const auto bits = std::bit_cast<uint32_t>(value);
  if ((bits & 0x7fffffffu) > 0x7f800000u) return static_cast<uint16_t>((bits >> 16) | 0x40);  // NaN
  return static_cast<uint16_t>((bits + 0x7fffu + ((bits >> 16) & 1)) >> 16);
}

float half_to_float(uint16_t bits) {
  const uint32_t sign = static_cast<uint32_t>(bits & 0x8000) << 16;
  const uint32_t exponent = (bits >> 10) & 31, mantissa = bits & 1023;
  if (exponent == 0) {  // zero or subnormal: mantissa * 2^-24, exact in float
    const float value = static_cast<float>(mantissa) * 0x1p-24f;
    return std::bit_cast<float>(std::bit_cast<uint32_t>(value) | sign);
  }
  const uint32_t wide = exponent == 31 ? 255 : exponent + 112;
  const uint32_t quiet = exponent == 31 && mantissa != 0 ? 0x400000 : 0;
  return std::bit_cast<float>(sign | wide << 23 | mantissa << 13 | quiet);
}

uint16_t float_to_half(float value) {
  const auto bits = std::bit_cast<uint32_t>(value);
  const auto sign = static_cast<uint16_t>((bits >> 16) & 0x8000);
  const uint32_t magnitude = bits & 0x7fffffffu;
  if (magnitude > 0x7f800000u)  // NaN
    return static_cast<uint16_t>(sign | 0x7e00 | ((magnitude >> 13) & 0x3ff));
  if (magnitude >= 0x477ff000u) return static_cast<uint16_t>(sign | 0x7c00);  // rounds to infinity
  if (magnitude < 0x38800000u) {  // subnormal half: adding 0.5 rounds at its last bit
    const float shifted = std::bit_cast<float>(magnitude) + 0.5f;
    return static_cast<uint16_t>(sign | (std::bit_cast<uint32_t>(shifted) - 0x3f000000u));
  }
  const uint32_t rounded = magnitude + 0xfffu + ((magnitude >> 13) & 1);
  return static_cast<uint16_t>(sign | ((rounded - 0x38000000u) >> 13));
}

Tensor convert(const Tensor& tensor, DType dtype) {
  if (tensor.dtype() == dtype) return tensor;
  Tensor out(dtype, tensor.dims());
  visit_dtype(dtype, [&](auto tag) {
    convert_into(tensor, reinterpret_cast<decltype(tag)*>(out.mutable_data()));
    return 0;
  });
  return out;
}

}  // namespace octavo
