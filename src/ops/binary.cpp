// The family of functions of two elements with NumPy's broadcasting.
#include <cmath>

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
    case DType::f32: return broadcast<float>(*in[0], *in[1], out[0], [](double a, double b) { return F{}(a, b); });
    case DType::i64: return broadcast<int64_t>(*in[0], *in[1], out[0], F{});
    case DType::i32: return broadcast<int32_t>(*in[0], *in[1], out[0], F{});
    default: fail(node, fmt::format("no kernel for {}", dtype_name(out[0].dtype())));
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

struct Add {
  template <class T>
  T operator()(T a, T b) const { return a + b; }
};
struct Sub {
  template <class T>
  T operator()(T a, T b) const { return a - b; }
};
struct Mul {
  template <class T>
  T operator()(T a, T b) const { return a * b; }
};
struct Div {  // integers truncate; by 0 gives 0, where ONNX says nothing
  template <class T>
  T operator()(T a, T b) const {
    if constexpr (std::is_integral_v<T>) return b == 0 ? 0 : a / b;
    else return a / b;
  }
};
struct Pow {
  template <class T>
  T operator()(T a, T b) const { return static_cast<T>(std::pow(a, b)); }
};

}  // namespace

#define BINARY(op, onnx_name, functor, formula)                                            \
  namespace {                                                                              \
  constexpr char op##_name[] = #op, op##_onnx[] = onnx_name;                                \
  constexpr OnnxImportRule op##_import[] = {                                               \
      {.op_type = onnx_name, .since = 7, .import = import<op##_name>}};                      \
  constexpr OnnxExportRule op##_export{write<op##_onnx>};                                   \
  }                                                                                        \
  const OpImpl op_##op{.doc = formula,                                                      \
                       .min_inputs = 2,                                                    \
                       .max_inputs = 2,                                                    \
                       .infer = infer,                                                     \
                       .reference = reference<functor>,                                    \
                       .onnx_import = op##_import,                                         \
                       .onnx_export = &op##_export};

BINARY(add, "Add", Add, "y = a + b, broadcast")
BINARY(sub, "Sub", Sub, "y = a - b, broadcast")
BINARY(mul, "Mul", Mul, "y = a * b, broadcast")
BINARY(div, "Div", Div, "y = a / b, broadcast; integers truncate")
BINARY(pow, "Pow", Pow, "y = a to the power b, broadcast")

}  // namespace octavo::ops
