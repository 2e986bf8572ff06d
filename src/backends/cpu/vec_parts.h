// Whole vectors and the tail of an array; a `Vec` of vec_*.h must come first.
#pragma once
#include <cstdint>

namespace octavo::cpu {
namespace {  // NOLINT(google-build-namespaces)

template <class V = Vec>
typename V::F load_part(const typename V::Scalar* p, int n) {
  return n == V::width ? V::load(p) : V::load_n(p, n);
}
template <class V = Vec>
void store_part(typename V::Scalar* p, typename V::F v, int n) {
  if (n == V::width)
    V::store(p, v);
  else
    V::store_n(p, v, n);
}
// f(i, n) for [begin, end), whole vectors and then the tail.
template <class V = Vec, class F>
void for_vectors(int64_t begin, int64_t end, const F& f) {
  int64_t i = begin;
  for (; i + V::width <= end; i += V::width) f(i, V::width);
  if (i < end) f(i, static_cast<int>(end - i));
}

}  // namespace
}  // namespace octavo::cpu
