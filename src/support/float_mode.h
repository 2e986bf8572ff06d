// How the thread treats denormal numbers (below 1.2e-38), which cost a hundred cycles each.
#pragma once
#include <immintrin.h>

namespace octavo {

// The rounding and denormal bits of the thread's control register.
struct FloatMode {
  static constexpr unsigned control = 0xffc0;  // without the flags of what happened
  static constexpr unsigned flush_bits = 0x8040;
  unsigned bits = _mm_getcsr() & control;

  void apply() const {
    const unsigned now = _mm_getcsr();
    if ((now & control) != bits) _mm_setcsr((now & ~control) | bits);
  }
  FloatMode flushing() const { return {bits | flush_bits}; }
};

// Puts back the mode that the thread had.
class KeepFloatMode {
 public:
  KeepFloatMode() = default;
  KeepFloatMode(const KeepFloatMode&) = delete;
  KeepFloatMode& operator=(const KeepFloatMode&) = delete;
  ~KeepFloatMode() { before_.apply(); }
  const FloatMode& before() const { return before_; }

 private:
  FloatMode before_;
};

}  // namespace octavo
