// What the operators share: torch tensors as liboctavo's memory and spreads, errors as torch's.
#pragma once
#include <ATen/core/Tensor.h>
#include <c10/util/Exception.h>
#include <c10/util/SmallVector.h>

#include <optional>
#include <string>

#include "quantize/elements.h"
#include "support/error.h"

namespace octavo::torch_ops {

using at::Tensor;

// Runs f; liboctavo's errors become torch's: ValueError, NotImplementedError, RuntimeError.
template <class F>
auto translated(const F& f) -> decltype(f()) {
  try {
    return f();
  } catch (const UserError& e) {
    if (e.kind() == ErrorKind::unsupported) TORCH_CHECK_NOT_IMPLEMENTED(false, e.what());
    TORCH_CHECK_VALUE(false, e.what());
  } catch (const InternalError& e) {
    TORCH_CHECK(false, e.what());
  }
}

// TypeError unless x is float32, float16, bfloat16 or float64.
void check_float(const Tensor& x, const char* op, const char* name);
// f(T{}) with the type that x is computed in: double for float64, else float.
template <class F>
auto with_compute_type(const Tensor& x, const F& f) {
  return x.scalar_type() == at::kDouble ? f(double{}) : f(float{});
}
template <class T>
constexpr at::ScalarType compute_type = std::is_same_v<T, double> ? at::kDouble : at::kFloat;

DType dtype_of_tensor(const Tensor& x);
inline Source source(const Tensor& x) { return {dtype_of_tensor(x), x.const_data_ptr()}; }
inline Target target(const Tensor& x) { return {dtype_of_tensor(x), x.mutable_data_ptr()}; }

// x itself if its elements are dense in some order, else a dense copy. Broadcast and sliced tensors
// are copied.
Tensor dense(const Tensor& x);
// `x` with the strides of `like`, which has the same shape and is dense.
Tensor in_order_of(const Tensor& x, const Tensor& like);

// Parameters that broadcast to dense x, in the order of x's memory, and how they lie.
struct Laid {
  Tensor values;  // of the type computed in
  Spread spread;
};
Laid lay_broadcast(const Tensor& parameters, const Tensor& x, at::ScalarType type, const char* op,
                   const char* name);
// Sums for the values of a lay_broadcast() over x, summed further to the shape of `like`.
Tensor summed_to(const Tensor& sums, const Tensor& x, const Tensor& like);
// One parameter, or x.size(axis) of them along the axis.
Laid lay_axis(const Tensor& parameters, const Tensor& x, int64_t axis, at::ScalarType type,
              const char* op, const char* name);
// x.sizes() with ceil(size / group_size) along the axis; x is contiguous.
Laid lay_groups(const Tensor& parameters, const Tensor& x, int64_t axis, int64_t group_size,
                at::ScalarType type, const char* op, const char* name);

}  // namespace octavo::torch_ops
