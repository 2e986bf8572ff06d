#include "graph/shape.h"

#include <algorithm>

#include "support/error.h"

namespace octavo {

Dim Dim::symbol(std::string name) {
  Dim dim(-1);
  dim.symbol_ = std::move(name);
  return dim;
}

int64_t Dim::value() const {
  OCTAVO_CHECK(is_static());
  return value_;
}

bool Shape::is_static() const {
  return std::all_of(begin(), end(), [](const Dim& d) { return d.is_static(); });
}

Dims Shape::dims() const {
  Dims result;
  result.reserve(size());
  for (const Dim& dim : *this) result.push_back(dim.value());
  return result;
}

std::string Shape::str() const {
  std::string text = "[";
  for (size_t i = 0; i < size(); ++i) text += (i ? ", " : "") + (*this)[i].str();
  return text + "]";
}

std::string TensorType::str() const { return dtype_name(dtype) + shape.str(); }

int64_t element_count(const Dims& dims) {
  constexpr int64_t most = int64_t{1} << 40;
  int64_t count = 1;
  bool empty = false;
  for (int64_t dim : dims) {
    if (dim < 0) throw UserError(ErrorKind::value, dims_str(dims), "a dimension is negative");
    if (dim == 0) {
      empty = true;
    } else if (count > most / dim) {
      throw UserError(ErrorKind::value, dims_str(dims), "more than 2^40 elements");
    } else {
      count *= dim;
    }
  }
  return empty ? 0 : count;
}

std::string dims_str(const Dims& dims) { return Shape(dims).str(); }

int64_t normalize_axis(int64_t axis, int64_t rank, const std::string& where) {
  if (axis < -rank || axis >= rank)
    throw UserError(ErrorKind::value, where,
                    fmt::format("axis {} is outside a rank of {}", axis, rank));
  return axis < 0 ? axis + rank : axis;
}

Shape broadcast_shapes(const Shape& a, const Shape& b, const std::string& where) {
  const Shape& longer = a.size() >= b.size() ? a : b;
  const Shape& shorter = a.size() >= b.size() ? b : a;
  Shape result = longer;
  const size_t offset = longer.size() - shorter.size();
  for (size_t i = 0; i < shorter.size(); ++i) {
    const Dim &x = longer[offset + i], &y = shorter[i];
    if (x == y || y == Dim(1)) continue;
    if (x == Dim(1)) {
      result[offset + i] = y;
    } else if (x.is_static() && y.is_static()) {
      throw UserError(ErrorKind::value, where,
                      fmt::format("shapes {} and {} do not broadcast", a.str(), b.str()));
    } else if (y.is_static()) {  // a symbol against a number above 1 must equal it
      result[offset + i] = y;
    }
  }
  return result;
}

}  // namespace octavo
