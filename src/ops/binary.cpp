// The family of functions of two elements with NumPy's broadcasting.
#include <cmath>
#include <functional>
#include <limits>

#include "ops/op.h"

namespace octavo::ops {
namespace {

std::vector<TensorType> infer(const Node& node) {
  const TensorType &a = node.input(0)->type(), &b = node.input(1)->type();
  require(node, a.dtype == b.dtype, "the inputs differ in element type");
  return {{a.dtype, broadcast_shapes(a.shape, b.shape, node.where())}};
}

// Offset of each output element in an input that broadcasts to it.
std::vector<int64_t> broadcast_strides(const Dims& from, const Dims& to) {
  std::vector<int64_t> strides(to.size(), 0);
  int64_t step = 1;
  for (size_t i = from.size(); i-- > 0;) {
    if (from[i] != 1) strides[to.size() - from.size() + i] = step;
    step *= from[i];
  }
  return strides;
}

template <class T, class F>
void broadcast(const Tensor& a, const Tensor& b, Tensor& out, F f) {
  const auto x = a.values<T>(), y = b.values<T>();
  auto z = out.mutable_values<T>();
  const Dims& dims = out.dims();
  const auto xs = broadcast_strides(a.dims(), dims), ys = broadcast_strides(b.dims(), dims);
  for (size_t i = 0; i < z.size(); ++i) {
    auto rest = static_cast<int64_t>(i);
    int64_t xi = 0, yi = 0;
    for (size_t d = dims.size(); d-- > 0; rest /= dims[d]) {
      xi += rest % dims[d] * xs[d];
      yi += rest % dims[d] * ys[d];
    }
    z[i] = static_cast<T>(f(x[static_cast<size_t>(xi)], y[static_cast<size_t>(yi)]));
  }
}

template <class F>
void reference(const Node& node, std::span<const Tensor* const> in, std::span<Tensor> out) {
  switch (out[0].dtype()) {
    case DType::f32:
      return broadcast<float>(*in[0], *in[1], out[0], [](double a, double b) { return F{}(a, b); });
    case DType::i64:
      return broadcast<int64_t>(*in[0], *in[1], out[0], F{});
    case DType::i32:
      return broadcast<int32_t>(*in[0], *in[1], out[0], F{});
    default:
      fail(node, fmt::format("no kernel for {}", dtype_name(out[0].dtype())));
  }
}

template <const char* op>
std::vector<Value*> import(OnnxNodeReader& reader) {
  if (!reader.input(0) || !reader.input(1)) reader.invalid("needs two inputs");
  return {reader.apply(op, {reader.input(0), reader.input(1)})};
}
template <const char* onnx_name>
void write(const Node& node, OnnxNodeWriter& writer) {
  writer.node(onnx_name, {writer.value_name(node.input(0)), writer.value_name(node.input(1))},
              {writer.value_name(node.output())});
}

// Integers wrap around, as NumPy's do; in C++ only unsigned ones may.
template <class T, class F>
T wrapping(T a, T b, F f) {
  if constexpr (std::is_integral_v<T>) {
    using U = std::make_unsigned_t<T>;
    return static_cast<T>(f(static_cast<U>(a), static_cast<U>(b)));
  } else {
    return f(a, b);
  }
}

struct Add {
  template <class T>
  T operator()(T a, T b) const {
    return wrapping(a, b, std::plus());
  }
};
struct Sub {
  template <class T>
  T operator()(T a, T b) const {
    return wrapping(a, b, std::minus());
  }
};
struct Mul {
  template <class T>
  T operator()(T a, T b) const {
    return wrapping(a, b, std::multiplies());
  }
};
struct Div {  // integers truncate; by 0 gives 0, where ONNX says nothing
  template <class T>
  T operator()(T a, T b) const {
    if constexpr (std::is_integral_v<T>) {
      if (b == -1) return Sub()(T{0}, a);  // the least integer has no negative
      return b == 0 ? 0 : a / b;
    } else {
      return a / b;
    }
  }
};
struct Pow {
  template <class T>
  T operator()(T a, T b) const {
    const double y = std::pow(static_cast<double>(a), static_cast<double>(b));
    if constexpr (std::is_integral_v<T>) {
      // Beyond the type's range, where ONNX says nothing, the nearest end.
      constexpr double least = static_cast<double>(std::numeric_limits<T>::min());
      if (!(y < -least)) return std::numeric_limits<T>::max();
      return y < least ? std::numeric_limits<T>::min() : static_cast<T>(y);
    } else {
      return static_cast<T>(y);
    }
  }
};

}  // namespace

#define BINARY(op, onnx_name, functor, formula)                          \
  namespace {                                                            \
  constexpr char op##_name[] = #op, op##_onnx[] = onnx_name;             \
  constexpr OnnxImportRule op##_import[] = {                             \
      {.op_type = onnx_name, .since = 7, .import = import <op##_name>}}; \
  constexpr OnnxExportRule op##_export{write<op##_onnx>};                \
  }                                                                      \
  const OpImpl op_##op{.doc = formula,                                   \
                       .min_inputs = 2,                                  \
                       .max_inputs = 2,                                  \
                       .infer = infer,                                   \
                       .reference = reference<functor>,                  \
                       .onnx_import = op##_import,                       \
                       .onnx_export = &op##_export};

BINARY(add, "Add", Add, "y = a + b, broadcast")
BINARY(sub, "Sub", Sub, "y = a - b, broadcast")
BINARY(mul, "Mul", Mul, "y = a * b, broadcast")
BINARY(div, "Div", Div, "y = a / b, broadcast; integers truncate")
BINARY(pow, "Pow", Pow, "y = a to the power b, broadcast")

}  // namespace octavo::ops
