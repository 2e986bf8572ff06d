// What the integers of a quantized tensor mean: one type for descriptors, observers, ONNX and
// kernels.
#pragma once
#include <cstdint>
#include <vector>

#include "graph/dtype.h"
#include "graph/shape.h"

namespace octavo {

// Which elements share a scale.
enum class Granularity {
  tensor,  // all: one parameter
  axis,    // those of one index of `axis`: dims[axis] parameters
  group,   // `group_size` neighbours along `axis` (the last group may be shorter): parameters of
           // the tensor's shape, with ceil(dims[axis] / group_size) along the axis, row-major
};

struct Scheme {
  int bits = 8;  // 2 to 16
  bool is_signed = true;
  bool narrow = false;    // leaves out the least signed integer, so that -x is there for each x
  bool symmetric = true;  // zero_point is 0
  Granularity granularity = Granularity::tensor;
  int64_t axis = 0;                // may be negative: from the end
  int64_t group_size = 0;          // of Granularity::group
  DType scale_dtype = DType::f32;  // f32; f16 and bf16 round the scales to that type

  // UserError on bits outside 2..16, narrow without sign, a group without a size, or a scale that
  // is not floating point.
  void validate() const;
  // The integers' bounds: bound() = 2^(bits - is_signed) - 1; signed: [-bound - 1 + narrow, bound],
  // unsigned: [0, bound].
  int32_t least() const;
  int32_t most() const;
  int32_t bound() const { return most(); }
  int32_t levels() const { return most() - least() + 1; }
  // i8, u8, i16 or u16: the smallest that holds the integers.
  DType storage() const;
  // How many scales a tensor of these dims has. UserError if the axis is not one of its.
  int64_t parameter_count(const Dims& dims) const;

  friend bool operator==(const Scheme&, const Scheme&) = default;
};

}  // namespace octavo
