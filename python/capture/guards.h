// Whether a captured piece fits the frame: its guards, checked in one pass.
//
// A `GuardProgram` is the tree of sources laid out in the order it was made (a base before what
// hangs on it): one pass evaluates the sources, checks their guards and keeps the values the piece
// needs. quick_check.h sees again what such a pass saw, in less time.
#pragma once
#include "evaluation.h"
#include "quick_check.h"

namespace octavo::capture {

// Which guard did not hold.
struct GuardFailure {
  const Source* source = nullptr;
  const Guard* guard = nullptr;
  const Condition* condition = nullptr;
};

class GuardProgram {
 public:
  GuardProgram() = default;
  GuardProgram(Sources sources, std::vector<std::pair<Source*, Source*>> distinct,
               SizeGuards sizes = {});

  // True if every guard holds; then `values[place]` is an owned reference for each wanted source.
  // Runs no Python code. `failure` says what did not hold.
  bool check(const FrameView& frame, std::vector<Ref>& values, GuardFailure* failure) const;
  // Where check() puts the value of a wanted source.
  int place(int id) const { return sources_.all()[static_cast<size_t>(id)].place; }
  // Where check() puts a symbol's value, an int.
  int symbol_place(int symbol) const { return static_cast<int>(wanted_) + symbol; }

  size_t sources() const { return sources_.all().size(); }
  size_t guards() const;
  std::string describe(PyCodeObject* code) const;
  static std::string describe(const Source& source, const Guard& guard, PyCodeObject* code);
  static std::string describe(const GuardFailure& failure, PyCodeObject* code);

 private:
  bool check_all(const FrameView& frame, std::vector<Ref>& values, GuardFailure* failure) const;
  bool check_sizes(const Look* looks, std::vector<Ref>& values, GuardFailure* failure) const;

  Sources sources_;
  std::vector<std::pair<Source*, Source*>> distinct_;  // never the same object
  SizeGuards sizes_;
  size_t wanted_ = 0;
  mutable QuickCheck quick_;
};

}  // namespace octavo::capture
