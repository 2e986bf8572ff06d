// Element types of tensors.
#pragma once
#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>

namespace octavo {

enum class DType : uint8_t { f32, f64, f16, bf16, i8, u8, i16, u16, i32, u32, i64, u64, boolean };

constexpr int dtype_count = 13;
size_t dtype_size(DType dtype);            // bytes per element
const char* dtype_name(DType dtype);       // "f32", …, "bool", as the text form prints them
DType parse_dtype(std::string_view name);  // UserError on an unknown name
bool is_float(DType dtype);
bool is_integer(DType dtype);  // bool excluded

// The C++ type of an element, for the types that have one.
template <class T>
constexpr DType dtype_of();
template <>
constexpr DType dtype_of<float>() {
  return DType::f32;
}
template <>
constexpr DType dtype_of<double>() {
  return DType::f64;
}
template <>
constexpr DType dtype_of<int8_t>() {
  return DType::i8;
}
template <>
constexpr DType dtype_of<uint8_t>() {
  return DType::u8;
}
template <>
constexpr DType dtype_of<int16_t>() {
  return DType::i16;
}
template <>
constexpr DType dtype_of<uint16_t>() {
  return DType::u16;
}
template <>
constexpr DType dtype_of<int32_t>() {
  return DType::i32;
}
template <>
constexpr DType dtype_of<uint32_t>() {
  return DType::u32;
}
template <>
constexpr DType dtype_of<int64_t>() {
  return DType::i64;
}
template <>
constexpr DType dtype_of<uint64_t>() {
  return DType::u64;
}
template <>
constexpr DType dtype_of<bool>() {
  return DType::boolean;
}

}  // namespace octavo
