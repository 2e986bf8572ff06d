// How parameters lie over the elements of a dense tensor, and loops over runs of elements that
// share one parameter or have one each.
#pragma once
#include <algorithm>
#include <cstdint>
#include <vector>

#include "graph/shape.h"
#include "quantize/scheme.h"
#include "support/thread_pool.h"

namespace octavo {

// Elements are [outer, along, inner] in the order of memory; parameters [along], or with groups
// [outer, ceil(along / group), inner], or one.
struct Spread {
  int64_t outer = 1, along = 1, inner = 1;
  int64_t group = 0;  // neighbours along the axis that share a parameter; 0: no groups
  bool one = true;    // one parameter for all

  int64_t size() const { return outer * along * inner; }
  int64_t parameter_count() const {
    return one ? 1 : group > 0 ? outer * ((along + group - 1) / group) * inner : along;
  }
  static Spread all(int64_t size) { return {.inner = size}; }
  static Spread axis(int64_t outer, int64_t along, int64_t inner) {
    return {.outer = outer, .along = along, .inner = inner, .one = false};
  }
};

// UserError if the scheme's axis is not one of the dims.
Spread spread_of(const Scheme& scheme, const Dims& dims);

// Up to two arrays of parameters of type T over a Spread; the second may be null. They must outlive
// the walk.
template <class T>
class ParameterWalk {
 public:
  static constexpr int64_t most_run = 1024;  // where a task holds a run on its stack
  static constexpr int64_t grain = 32768;    // elements of a task

  ParameterWalk(const Spread& spread, const T* first, const T* second);

  // f(begin, count, per_element, first, second): elements [begin, begin + count), at most `longest`
  // of them. `first` and `second` point to one parameter, or to count of them. `after()` follows
  // the runs of a task, on its thread.
  template <class F, class After>
  void run(int64_t longest, const F& f, const After& after) const {
    const int64_t size = spread_.size(), step = task_size();
    auto task = [&](int64_t i, int) {
      range(i * step, std::min(size, (i + 1) * step), longest, f);
      after();
    };
    default_pool().run((size + step - 1) / step, task);
  }
  template <class F>
  void run(int64_t longest, const F& f) const {
    run(longest, f, [] {});
  }
  // The same for the elements [begin, end), on this thread.
  template <class F>
  void range(int64_t begin, int64_t end, int64_t longest, const F& f) const;
  // The index of element e's parameter.
  int64_t parameter(int64_t e) const {
    if (spread_.one) return 0;
    if (spread_.group == 0) return e / spread_.inner % spread_.along;
    const int64_t row = e / spread_.inner, groups = parameters_along();
    return (row / spread_.along * groups + row % spread_.along / spread_.group) * spread_.inner +
           e % spread_.inner;
  }

 private:
  enum class Mode {
    one,       // all elements
    segments,  // those of one index of the axis are many
    rows,      // groups: `inner` parameters in a row are many
    repeated,  // parameters are laid out for `repeat_` elements, again and again
    expanded,  // parameters are laid out for each run
  };
  int64_t parameters_along() const { return (spread_.along + spread_.group - 1) / spread_.group; }
  int64_t task_size() const {
    return mode_ == Mode::repeated ? std::max<int64_t>(1, grain / repeat_) * repeat_ : grain;
  }

  Spread spread_;
  Mode mode_ = Mode::one;
  const T* first_;
  const T* second_;
  int64_t repeat_ = 0;
  std::vector<T> laid_out_[2];
};

template <class T>
template <class F>
void ParameterWalk<T>::range(int64_t begin, int64_t end, int64_t longest, const F& f) const {
  const int64_t inner = spread_.inner, along = spread_.along;
  const auto second = [&](int64_t i) { return second_ ? second_ + i : nullptr; };
  switch (mode_) {
    case Mode::one:
      for (int64_t e = begin; e < end; e += longest)
        f(e, std::min(longest, end - e), false, first_, second_);
      return;
    case Mode::segments:
      for (int64_t e = begin, count; e < end; e += count) {
        const int64_t segment = e / inner, p = segment % along;
        count = std::min({longest, end - e, (segment + 1) * inner - e});
        f(e, count, false, first_ + p, second(p));
      }
      return;
    case Mode::rows:
      for (int64_t e = begin, count; e < end; e += count) {
        const int64_t p = parameter(e);
        count = std::min({longest, end - e, inner - e % inner});
        f(e, count, true, first_ + p, second(p));
      }
      return;
    case Mode::repeated:
      for (int64_t e = begin, count; e < end; e += count) {
        const int64_t at = e % repeat_;
        count = std::min({longest, end - e, repeat_ - at});
        f(e, count, true, first_ + at, second(at));
      }
      return;
    case Mode::expanded:
      T a[most_run], b[most_run];
      for (int64_t e = begin, count; e < end; e += count) {
        count = std::min({longest, end - e, most_run});
        int64_t left = 0;  // elements that still have parameter p
        for (int64_t i = 0, p = 0; i < count; ++i, --left) {
          if (left == 0) {
            p = parameter(e + i);
            left = spread_.group == 0 ? inner - (e + i) % inner
                   : inner > 1        ? 1
                                      : std::min(along - (e + i) % along,
                                                 spread_.group - (e + i) % along % spread_.group);
          }
          a[i] = first_[p];
          if (second_) b[i] = second_[p];
        }
        f(e, count, true, a, second_ ? b : nullptr);
      }
  }
}

}  // namespace octavo
