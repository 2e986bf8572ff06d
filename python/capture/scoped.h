// A variable that has another value over a scope.
#pragma once
#include <utility>

namespace octavo::capture {

template <class T>
class Scoped {
 public:
  Scoped(T& place, T value) : place_(place), before_(std::exchange(place, value)) {}
  Scoped(const Scoped&) = delete;
  Scoped& operator=(const Scoped&) = delete;
  ~Scoped() { place_ = before_; }

 private:
  T& place_;
  T before_;
};

}  // namespace octavo::capture
