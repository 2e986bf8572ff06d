#include "graph/dtype.h"

#include <array>

#include "support/error.h"

namespace octavo {
namespace {
struct Row {
  const char* name;
  size_t size;
};
constexpr std::array<Row, dtype_count> rows{{{"f32", 4},
                                             {"f64", 8},
                                             {"f16", 2},
                                             {"bf16", 2},
                                             {"i8", 1},
                                             {"u8", 1},
                                             {"i16", 2},
                                             {"u16", 2},
                                             {"i32", 4},
                                             {"u32", 4},
                                             {"i64", 8},
                                             {"u64", 8},
                                             {"bool", 1}}};
}  // namespace

size_t dtype_size(DType dtype) { return rows[static_cast<size_t>(dtype)].size; }
const char* dtype_name(DType dtype) { return rows[static_cast<size_t>(dtype)].name; }
DType parse_dtype(std::string_view name) {
  for (size_t i = 0; i < rows.size(); ++i)
    if (name == rows[i].name) return static_cast<DType>(i);
  throw UserError(ErrorKind::value, "dtype", fmt::format("unknown element type '{}'", name));
}
bool is_float(DType dtype) { return dtype <= DType::bf16; }
bool is_integer(DType dtype) { return dtype > DType::bf16 && dtype != DType::boolean; }

}  // namespace octavo
