// C++ types for all element types, and conversions between any two of them.
#pragma once
#include <bit>
#include <cmath>
#include <type_traits>

#include "graph/tensor.h"

namespace octavo {

struct Half {
  uint16_t bits;
};
struct BFloat16 {
  uint16_t bits;
};

// Calls f with a value of the C++ type that stores `dtype`.
template <class F>
auto visit_dtype(DType dtype, F f) {
  switch (dtype) {
    case DType::f32:
      return f(float{});
    case DType::f64:
      return f(double{});
    case DType::f16:
      return f(Half{});
    case DType::bf16:
      return f(BFloat16{});
    case DType::i8:
      return f(int8_t{});
    case DType::u8:
      return f(uint8_t{});
    case DType::i16:
      return f(int16_t{});
    case DType::u16:
      return f(uint16_t{});
    case DType::i32:
      return f(int32_t{});
    case DType::u32:
      return f(uint32_t{});
    case DType::i64:
      return f(int64_t{});
    case DType::u64:
      return f(uint64_t{});
    case DType::boolean:
      return f(bool{});
  }
  throw InternalError("unknown dtype");
}

template <class T>
constexpr bool is_float_element =
    std::is_floating_point_v<T> || std::is_same_v<T, Half> || std::is_same_v<T, BFloat16>;

// The number that an element stands for.
template <class T>
T load_element(T value) {
  return value;
}
inline float load_element(Half value) { return half_to_float(value.bits); }
inline float load_element(BFloat16 value) { return bfloat16_to_float(value.bits); }

// A float that converts to a half as `value` itself would: double to float to half rounds twice,
// unless the first rounding is to odd.
inline float round_to_odd(double value) {
  const auto nearest = static_cast<float>(value);
  if (static_cast<double>(nearest) == value || !(std::abs(value) < 3e38)) return nearest;
  uint32_t bits = std::bit_cast<uint32_t>(nearest);
  if (std::abs(static_cast<double>(nearest)) > std::abs(value)) --bits;  // towards zero
  return std::bit_cast<float>(bits | 1);
}

// As C++ casts do, floats to integers by truncation; half types round to nearest even.
template <class To, class From>
To store_element(From value) {
  if constexpr (std::is_same_v<To, Half> || std::is_same_v<To, BFloat16>) {
    const float f = [&] {
      if constexpr (std::is_same_v<From, double>)
        return round_to_odd(value);
      else
        return static_cast<float>(value);
    }();
    if constexpr (std::is_same_v<To, Half>)
      return {float_to_half(f)};
    else
      return {float_to_bfloat16(f)};
  } else if constexpr (std::is_same_v<To, bool>) {
    return value != From{};
  } else if constexpr (std::is_floating_point_v<From> && std::is_integral_v<To>) {
    // Out of range is undefined in C++: here it wraps around from 64 bits, as x86 and NumPy do;
    // NaN and what 64 bits cannot hold give the least int64.
    if constexpr (std::is_same_v<To, uint64_t>)
      if (value >= From(0x1p63) && value < From(0x1p64)) return static_cast<To>(value);
    constexpr From bound = From(0x1p63);
    const int64_t wide = value >= -bound && value < bound ? static_cast<int64_t>(value) : INT64_MIN;
    return static_cast<To>(wide);
  } else {
    return static_cast<To>(value);
  }
}

// Typed access for the stored types, halves included.
template <class T>
std::span<const T> elements(const Tensor& tensor) {
  return {reinterpret_cast<const T*>(tensor.data()), static_cast<size_t>(tensor.size())};
}
template <class T>
std::span<T> mutable_elements(Tensor& tensor) {
  return {reinterpret_cast<T*>(tensor.mutable_data()), static_cast<size_t>(tensor.size())};
}

}  // namespace octavo
