#include "quantize/scheme.h"

#include "support/error.h"

namespace octavo {
namespace {
[[noreturn]] void fail(const std::string& message, const std::string& hint = "") {
  throw UserError(ErrorKind::value, "quantization scheme", message, hint);
}
}  // namespace

void Scheme::validate() const {
  if (bits < 2 || bits > 16) fail(fmt::format("{} bits", bits), "use 2 to 16");
  if (narrow && !is_signed)
    fail("a narrow range leaves out the least signed integer",
         "use signed integers, or the whole range");
  if (granularity == Granularity::group && group_size < 1)
    fail(fmt::format("groups of {} elements", group_size), "give a group_size of 1 or more");
  if (scale_dtype != DType::f32 && scale_dtype != DType::f16 && scale_dtype != DType::bf16)
    fail(fmt::format("scales of type {}", dtype_name(scale_dtype)), "use f32, f16 or bf16");
}

int32_t Scheme::most() const { return (1 << (bits - (is_signed ? 1 : 0))) - 1; }
int32_t Scheme::least() const { return is_signed ? -most() - (narrow ? 0 : 1) : 0; }

DType Scheme::storage() const {
  if (bits <= 8) return is_signed ? DType::i8 : DType::u8;
  return is_signed ? DType::i16 : DType::u16;
}

int64_t Scheme::parameter_count(const Dims& dims) const {
  if (granularity == Granularity::tensor) return 1;
  const auto rank = static_cast<int64_t>(dims.size());
  if (axis < -rank || axis >= rank) fail(fmt::format("axis {} of a tensor of rank {}", axis, rank));
  const int64_t along = dims[static_cast<size_t>(axis < 0 ? axis + rank : axis)];
  if (granularity == Granularity::axis) return along;
  int64_t others = 1;
  for (int64_t i = 0; i < rank; ++i)
    if (i != (axis < 0 ? axis + rank : axis)) others *= dims[static_cast<size_t>(i)];
  return others * ((along + group_size - 1) / group_size);
}

}  // namespace octavo
