// Shapes whose dimensions are numbers, named symbols ("N") or unknown ("?").
#pragma once
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "graph/dtype.h"

namespace octavo {

class Dim {
 public:
  Dim(int64_t value) : value_(value) {}  // NOLINT(google-explicit-constructor): a number is a dim
  // A named symbol stands for the same number everywhere in a graph.
  static Dim symbol(std::string name);
  // Known only at run time; equal to nothing, not even itself.
  static Dim unknown() { return symbol("?"); }

  bool is_static() const { return value_ >= 0; }
  bool is_unknown() const { return symbol_ == "?"; }
  // InternalError unless is_static().
  int64_t value() const;
  const std::string& symbol() const { return symbol_; }
  std::string str() const { return is_static() ? std::to_string(value_) : symbol_; }
  // Certainly the same number.
  friend bool operator==(const Dim& a, const Dim& b) {
    return a.value_ == b.value_ && a.symbol_ == b.symbol_ && !a.is_unknown();
  }

 private:
  int64_t value_ = -1;
  std::string symbol_;
};

using Dims = std::vector<int64_t>;  // a shape of numbers only

class Shape : public std::vector<Dim> {
 public:
  using std::vector<Dim>::vector;
  explicit Shape(const Dims& dims) : std::vector<Dim>(dims.begin(), dims.end()) {}
  int64_t rank() const { return static_cast<int64_t>(size()); }
  bool is_static() const;
  // The numbers; InternalError unless is_static().
  Dims dims() const;
  std::string str() const;  // "[N, 3, 224, 224]"
};

// What is known of a value before it is computed. The rank is always known.
struct TensorType {
  DType dtype = DType::f32;
  Shape shape;
  std::string str() const;  // "f32[N, 3, 224, 224]"
  friend bool operator==(const TensorType&, const TensorType&) = default;
};

int64_t element_count(const Dims& dims);  // UserError if it exceeds 2^40 (untrusted files)
std::string dims_str(const Dims& dims);
// The axis in [0, rank) that `axis` in [-rank, rank) names; UserError otherwise.
int64_t normalize_axis(int64_t axis, int64_t rank, const std::string& where);
// NumPy's broadcasting; UserError if the shapes do not fit. A symbol against 1 gives the symbol.
Shape broadcast_shapes(const Shape& a, const Shape& b, const std::string& where);

}  // namespace octavo
