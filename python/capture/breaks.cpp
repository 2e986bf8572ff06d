#include "breaks.h"

namespace octavo::capture {

const ReasonText& reason_text(Reason reason) {
  static constexpr ReasonText texts[] = {
#define OCTAVO_BREAK(name, explanation, hint) {#name, explanation, hint},
#include "break_reasons.def"
#undef OCTAVO_BREAK
  };
  return texts[static_cast<uint8_t>(reason)];
}

}  // namespace octavo::capture
