// The operators' arguments as what liboctavo's elementwise functions take, checked.
#pragma once
#include <string_view>

#include "tensors.h"

namespace octavo::torch_ops {

// One or two arrays of parameters; `elements` points into them.
template <class T>
struct Affine {
  AffineElements<T> elements;
  Tensor scale, zero;
};

// The nvidia arithmetic: scale = bound / amax, in amax's shape. ValueError on negative, NaN or
// infinite amax, or bits that do not fit.
template <class T>
struct Nvidia {
  T bound = 0, least = 0;
  T one = 0;     // the scale if there is one
  Tensor scale;  // the scales else; 0 where amax counts as 0
};
template <class T>
Nvidia<T> nvidia_scales(const Tensor& amax, int64_t num_bits, bool is_unsigned, bool narrow_range,
                        const char* op);
// Over dense x; points into `n`.
template <class T>
Affine<T> nvidia_affine(const Nvidia<T>& n, const Tensor& x, const char* op);

// step = (max - min) / (2^bits - 1) and the zero point, of fake_affine_tensor_quant.
template <class T>
Affine<T> range_affine(const Tensor& x, const Tensor& least, const Tensor& most, int64_t num_bits);

struct SchemeArguments {
  int64_t axis, group_size, bits;
  bool is_signed, narrow;
  std::string_view arithmetic;
};
Scheme checked_scheme(const SchemeArguments& arguments, bool symmetric);
at::ScalarType storage_type(const Scheme& scheme);
template <class T>
Affine<T> scheme_affine(const Tensor& x, const Tensor& scale,
                        const std::optional<Tensor>& zero_point, const SchemeArguments& arguments,
                        const char* op);

// low and high, broadcast to each other. ValueError on NaN.
template <class T>
struct Bounds {
  BoundsElements<T> elements;
  Tensor low, high;
};
template <class T>
Bounds<T> bounds(const Tensor& x, const Tensor& low, const Tensor& high, const char* op);

}  // namespace octavo::torch_ops
