#include "quantize/precision.h"

#include "support/error.h"

namespace octavo {
namespace {
constexpr const char* precisions[] = {"int8", "dynamic", "int8_weights", "int4_weights", "float"};
constexpr const char* modes[] = {"static", "dynamic", "weight_only"};
}  // namespace

const char* precision_name(Precision precision) { return precisions[static_cast<int>(precision)]; }

bool find_precision(std::string_view name, Precision& precision) {
  for (int i = 0; i < 5; ++i)
    if (name == precisions[i]) {
      precision = static_cast<Precision>(i);
      return true;
    }
  return false;
}

const char* mode_name(QuantizeMode mode) { return modes[static_cast<int>(mode)]; }

QuantizeMode parse_mode(const std::string& name) {
  for (int i = 0; i < 3; ++i)
    if (name == modes[i]) return static_cast<QuantizeMode>(i);
  throw UserError(ErrorKind::value, "mode", fmt::format("'{}' is not known", name),
                  "use one of: static, dynamic, weight_only");
}

Precision precision_of(QuantizeMode mode) {
  switch (mode) {
    case QuantizeMode::dynamic:
      return Precision::dynamic;
    case QuantizeMode::weight_only:
      return Precision::int8_weights;
    default:
      return Precision::int8;
  }
}

}  // namespace octavo
