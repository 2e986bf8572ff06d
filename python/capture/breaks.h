// Why a piece ends before its frame does.
#pragma once
#include <cstdint>
#include <string>

namespace octavo::capture {

enum class Reason : uint8_t {
#define OCTAVO_BREAK(name, explanation, hint) name,
#include "break_reasons.def"
#undef OCTAVO_BREAK
};

struct ReasonText {
  const char* name;
  const char* explanation;
  const char* hint;
};
const ReasonText& reason_text(Reason reason);

// Thrown by whatever cannot be traced. Tracing has no effects, so the tracer starts over and ends
// the piece before the root frame's current instruction; `before` asks for an earlier one.
struct Break {
  Reason reason;
  std::string detail;
  int before = -1;
};

[[noreturn]] inline void give_up(Reason reason, std::string detail, int before = -1) {
  throw Break{reason, std::move(detail), before};
}

}  // namespace octavo::capture
