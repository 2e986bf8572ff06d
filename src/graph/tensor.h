// A constant or an argument: dense, row-major, shared and by convention immutable once built.
#pragma once
#include <memory>
#include <span>
#include <vector>

#include "graph/dtype.h"
#include "graph/shape.h"
#include "support/buffer.h"
#include "support/error.h"

namespace octavo {

class Tensor {
 public:
  Tensor() = default;
  // Uninitialised elements.
  Tensor(DType dtype, Dims dims);
  // `buffer` holds exactly the elements; InternalError if it is too small.
  Tensor(DType dtype, Dims dims, std::shared_ptr<Buffer> buffer);

  template <class T>
  static Tensor from(Dims dims, std::span<const T> values);
  template <class T>
  static Tensor from(Dims dims, const std::vector<T>& values) {
    return from(std::move(dims), std::span<const T>(values));
  }
  template <class T>
  static Tensor scalar(T value) {
    return from(Dims{}, std::span<const T>(&value, 1));
  }

  explicit operator bool() const { return buffer_ != nullptr; }
  DType dtype() const { return dtype_; }
  const Dims& dims() const { return dims_; }
  TensorType type() const { return {dtype_, Shape(dims_)}; }
  int64_t rank() const { return static_cast<int64_t>(dims_.size()); }
  int64_t size() const { return size_; }  // elements
  size_t bytes() const { return static_cast<size_t>(size_) * dtype_size(dtype_); }
  const std::byte* data() const { return buffer_->data(); }
  std::byte* mutable_data() { return buffer_->mutable_data(); }
  const std::shared_ptr<Buffer>& buffer() const { return buffer_; }

  // Typed access; InternalError if T is not the element type (int8_t and uint8_t are distinct).
  template <class T>
  std::span<const T> values() const {
    check_type(dtype_of<T>());
    return {reinterpret_cast<const T*>(data()), static_cast<size_t>(size_)};
  }
  template <class T>
  std::span<T> mutable_values() {
    check_type(dtype_of<T>());
    return {reinterpret_cast<T*>(mutable_data()), static_cast<size_t>(size_)};
  }

  // The same elements under another shape of as many; shares memory.
  Tensor reshaped(Dims dims) const;
  // Any real element type as doubles or int64 (small constants: shapes, axes, scales).
  std::vector<double> to_doubles() const;
  std::vector<int64_t> to_ints() const;

  // Same dtype, dims and bytes.
  friend bool operator==(const Tensor& a, const Tensor& b);

 private:
  void check_type(DType expected) const;
  DType dtype_ = DType::f32;
  Dims dims_;
  int64_t size_ = 0;
  std::shared_ptr<Buffer> buffer_;
};

// float16 and bfloat16 bits to float and back (round half to even; NaN keeps its first bits, and
// those of float16 and of what is rounded become quiet, as the instructions do).
float half_to_float(uint16_t bits);
uint16_t float_to_half(float value);
float bfloat16_to_float(uint16_t bits);
uint16_t float_to_bfloat16(float value);

// Elements converted to `dtype` as C++ casts do, floats to integers by truncation; half types round
// to nearest even.
Tensor convert(const Tensor& tensor, DType dtype);

template <class T>
Tensor Tensor::from(Dims dims, std::span<const T> values) {
  Tensor tensor(dtype_of<T>(), std::move(dims));
  auto out = tensor.mutable_values<T>();
  OCTAVO_CHECK(out.size() == values.size());
  for (size_t i = 0; i < values.size(); ++i) out[i] = values[i];
  return tensor;
}

}  // namespace octavo
