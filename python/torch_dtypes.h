#pragma once

// torch's element types as Octavo's, for the operators and for captured programs.

#include <c10/core/ScalarType.h>

#include <optional>

#include "graph/dtype.h"

namespace octavo {

/// Null for a type that Octavo does not have.
inline std::optional<DType> dtype_of(at::ScalarType type) {
  switch (type) {
    case at::kFloat:
      return DType::f32;
    case at::kDouble:
      return DType::f64;
    case at::kHalf:
      return DType::f16;
    case at::kBFloat16:
      return DType::bf16;
    case at::kLong:
      return DType::i64;
    case at::kInt:
      return DType::i32;
    case at::kShort:
      return DType::i16;
    case at::kChar:
      return DType::i8;
    case at::kByte:
      return DType::u8;
    case at::kUInt16:
      return DType::u16;
    case at::kBool:
      return DType::boolean;
    default:
      return std::nullopt;
  }
}

}  // namespace octavo
