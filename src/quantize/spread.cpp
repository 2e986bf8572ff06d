#include "quantize/spread.h"

namespace octavo {

Spread spread_of(const Scheme& scheme, const Dims& dims) {
  if (scheme.granularity == Granularity::tensor) return Spread::all(element_count(dims));
  scheme.parameter_count(dims);  // checks the axis
  const auto rank = static_cast<int64_t>(dims.size());
  const int64_t axis = scheme.axis < 0 ? scheme.axis + rank : scheme.axis;
  Spread s = Spread::axis(1, 1, 1);
  for (int64_t i = 0; i < rank; ++i)
    (i < axis ? s.outer : i == axis ? s.along : s.inner) *= dims[static_cast<size_t>(i)];
  if (scheme.granularity == Granularity::group) s.group = scheme.group_size;
  return s;
}

template <class T>
ParameterWalk<T>::ParameterWalk(const Spread& spread, const T* first, const T* second)
    : spread_(spread), first_(first), second_(second) {
  constexpr int64_t long_enough = 64;      // for a run: a call is then a small part of it
  constexpr int64_t most_laid_out = 8192;  // parameters that stay in the level 1 cache
  Spread& s = spread_;
  if (s.one || s.size() == 0) return;
  if (s.group > 0 && s.inner == 1 && s.along % s.group == 0)
    s = Spread::axis(1, s.outer * (s.along / s.group), s.group);
  if (s.group > 0) {
    mode_ = s.inner >= long_enough ? Mode::rows : Mode::expanded;
    return;
  }
  if (s.along == 1) {
    mode_ = Mode::one;
    return;
  }
  const int64_t period = s.along * s.inner;
  if (s.inner >= long_enough) {
    mode_ = Mode::segments;
  } else if (s.inner == 1 && (period >= most_laid_out / 2 || s.outer == 1)) {
    mode_ = Mode::repeated;
    repeat_ = period;
  } else if (period <= most_laid_out && s.outer > 1) {
    mode_ = Mode::repeated;
    repeat_ = std::min(s.outer, std::max<int64_t>(1, most_laid_out / 2 / period)) * period;
    const T** from[] = {&first_, &second_};
    for (int i = 0; i < 2; ++i) {
      if (!*from[i]) continue;
      laid_out_[i].resize(static_cast<size_t>(repeat_));
      for (int64_t o = 0, e = 0; o < repeat_ / period; ++o)
        for (int64_t c = 0; c < s.along; ++c)
          for (int64_t k = 0; k < s.inner; ++k)
            laid_out_[i][static_cast<size_t>(e++)] = (*from[i])[c];
      *from[i] = laid_out_[i].data();
    }
  } else {
    mode_ = Mode::expanded;
  }
}

template class ParameterWalk<float>;
template class ParameterWalk<double>;

}  // namespace octavo
