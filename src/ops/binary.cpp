// The family of functions of two numbers with NumPy's broadcasting.
#include <cmath>
#include <functional>
#include <limits>

#include "ops/indexing.h"
#include "ops/op.h"

namespace octavo::ops {
namespace {

std::vector<TensorType> infer(const Node& node) {
  const TensorType &a = number_input(node, 0), &b = node.input(1)->type();
  require(node, a.dtype == b.dtype, "the inputs differ in element type");
  return {{a.dtype, broadcast_shapes(a.shape, b.shape, node.where())}};
}

// The base has its own type, the exponent may have another.
std::vector<TensorType> infer_pow(const Node& node) {
  const TensorType &a = number_input(node, 0), &b = number_input(node, 1);
  return {{a.dtype, broadcast_shapes(a.shape, b.shape, node.where())}};
}

// The slope may not be larger than x.
std::vector<TensorType> infer_prelu(const Node& node) {
  const TensorType &x = number_input(node, 0), &slope = node.input(1)->type();
  require(node, x.dtype == slope.dtype, "the inputs differ in element type");
  require(node, slope.shape.rank() <= x.shape.rank(), "the slope has more axes than x");
  const Shape y = broadcast_shapes(x.shape, slope.shape, node.where());
  for (size_t i = 0; i < y.size(); ++i)
    require(node, !x.shape[i].is_static() || !y[i].is_static() || x.shape[i] == y[i],
            "the slope does not broadcast to x");
  return {x};
}

// Floats are computed in double, integers as they are (f's integer form wraps around).
template <class F>
void reference(const Node& node, std::span<const Tensor* const> in, std::span<Tensor> out) {
  const Dims& dims = out[0].dims();
  const std::array<Strides, 2> strides{broadcast_strides(in[0]->dims(), dims),
                                       broadcast_strides(in[1]->dims(), dims)};
  const F f(node);
  visit_dtype(out[0].dtype(), [&](auto tag) {
    using T = decltype(tag);
    if constexpr (!std::is_same_v<T, bool>) {
      const auto x = elements<T>(*in[0]), y = elements<T>(*in[1]);
      auto z = mutable_elements<T>(out[0]);
      for_each_index<2>(dims, strides, [&](size_t i, const auto& at) {
        const T a = x[static_cast<size_t>(at[0])], b = y[static_cast<size_t>(at[1])];
        if constexpr (is_float_element<T>)
          z[i] = store_element<T>(static_cast<double>(
              f(static_cast<double>(load_element(a)), static_cast<double>(load_element(b)))));
        else
          z[i] = static_cast<T>(f(a, b));
      });
    }
  });
}

// Integers wrap around, as NumPy's do; in C++ only unsigned ones may (and narrow ones promote).
template <class T, class F>
T wrapping(T a, T b, F f) {
  if constexpr (std::is_integral_v<T>)
    return static_cast<T>(f(static_cast<uint64_t>(a), static_cast<uint64_t>(b)));
  else
    return f(a, b);
}

struct Functor {
  explicit Functor(const Node&) {}
};
struct Add : Functor {
  using Functor::Functor;
  template <class T>
  T operator()(T a, T b) const {
    return wrapping(a, b, std::plus());
  }
};
struct Sub : Functor {
  using Functor::Functor;
  template <class T>
  T operator()(T a, T b) const {
    return wrapping(a, b, std::minus());
  }
};
struct Mul : Functor {
  using Functor::Functor;
  template <class T>
  T operator()(T a, T b) const {
    return wrapping(a, b, std::multiplies());
  }
};
struct Div : Functor {  // integers truncate; by 0 gives 0, where ONNX says nothing
  using Functor::Functor;
  template <class T>
  T operator()(T a, T b) const {
    if constexpr (std::is_integral_v<T>) {
      if constexpr (std::is_signed_v<T>)
        if (b == T(-1)) return wrapping(T{0}, a, std::minus());  // the least has no negative
      return b == 0 ? T{0} : static_cast<T>(a / b);
    } else {
      return a / b;
    }
  }
};
struct Prelu : Functor {
  using Functor::Functor;
  template <class T>
  T operator()(T x, T slope) const {
    if constexpr (std::is_unsigned_v<T>)
      return x;
    else
      return x < 0 ? wrapping(x, slope, std::multiplies()) : x;
  }
};
struct Maximum : Functor {  // NaN stays
  using Functor::Functor;
  template <class T>
  T operator()(T a, T b) const {
    return a > b || a != a ? a : b;
  }
};
struct Minimum : Functor {
  using Functor::Functor;
  template <class T>
  T operator()(T a, T b) const {
    return a < b || a != a ? a : b;
  }
};
struct Mod {  // the sign of the divisor, or with fmod of the dividend; by 0 gives 0 for integers
  explicit Mod(const Node& node) : fmod(node.integer("fmod") != 0) {}
  bool fmod;
  template <class T>
  T operator()(T a, T b) const {
    if constexpr (std::is_integral_v<T>) {
      if (b == 0) return 0;
      if constexpr (std::is_signed_v<T>) {
        if (b == T(-1)) return 0;
        const T r = static_cast<T>(a % b);
        return !fmod && r != 0 && (r < 0) != (b < 0) ? static_cast<T>(r + b) : r;
      } else {
        return static_cast<T>(a % b);
      }
    } else {
      const T r = std::fmod(a, b);
      return !fmod && r != 0 && (r < 0) != (b < 0) ? r + b : r;
    }
  }
};

// Integer powers of integers are exact as long as they fit, and wrap around beyond.
template <class T>
T integer_power(T base, int64_t exponent) {
  if (exponent < 0) {
    if (base == 1) return 1;
    if constexpr (std::is_signed_v<T>)
      if (base == T(-1)) return exponent % 2 == 0 ? T(1) : T(-1);
    return 0;
  }
  uint64_t result = 1;
  for (auto square = static_cast<uint64_t>(base); exponent > 0; exponent /= 2, square *= square)
    if (exponent % 2 == 1) result *= square;
  return static_cast<T>(result);
}

void reference_pow(const Node&, std::span<const Tensor* const> in, std::span<Tensor> out) {
  const Dims& dims = out[0].dims();
  const std::array<Strides, 2> strides{broadcast_strides(in[0]->dims(), dims),
                                       broadcast_strides(in[1]->dims(), dims)};
  const bool integer_exponent = !is_float(in[1]->dtype());
  const std::vector<double> y = doubles(*in[1]);
  const std::vector<int64_t> n = integer_exponent ? in[1]->to_ints() : std::vector<int64_t>();
  visit_dtype(out[0].dtype(), [&](auto tag) {
    using T = decltype(tag);
    const auto x = elements<T>(*in[0]);
    auto z = mutable_elements<T>(out[0]);
    for_each_index<2>(dims, strides, [&](size_t i, const auto& at) {
      const T a = x[static_cast<size_t>(at[0])];
      const auto j = static_cast<size_t>(at[1]);
      if constexpr (std::is_integral_v<T> && !std::is_same_v<T, bool>)
        if (integer_exponent) {
          z[i] = integer_power(a, n[j]);
          return;
        }
      z[i] = store_element<T>(std::pow(static_cast<double>(load_element(a)), y[j]));
    });
  });
}

template <const char* op>
std::vector<Value*> import(OnnxNodeReader& reader) {
  inputs_of(reader, 2);
  return {reader.apply(op, {reader.input(0), reader.input(1)})};
}
template <const char* onnx_name>
void write(const Node& node, OnnxNodeWriter& writer) {
  write_as(node, writer, onnx_name);
}

// Max, Min and Sum take any number of inputs: one after the other.
Value* chain(OnnxNodeReader& reader, const char* op) {
  const auto inputs = inputs_of(reader, std::max<size_t>(1, reader.input_count()));
  Value* y = inputs[0];
  for (size_t i = 1; i < inputs.size(); ++i) y = reader.apply(op, {y, inputs[i]});
  return y;
}
template <const char* op>
std::vector<Value*> import_chain(OnnxNodeReader& reader) {
  return {chain(reader, op)};
}
std::vector<Value*> import_mean(OnnxNodeReader& reader) {
  Value* sum = chain(reader, "add");
  if (!is_float(sum->dtype())) reader.invalid("the inputs must be floating point");
  const Tensor count =
      convert(Tensor::scalar(static_cast<double>(reader.input_count())), sum->dtype());
  return {reader.apply("div", {sum, reader.constant_value(count)})};
}

constexpr char add_op[] = "add", maximum_op[] = "maximum", minimum_op[] = "minimum";
constexpr OnnxImportRule add_import[] = {
    {.op_type = "Add", .since = 7, .import = import <add_op>},
    {.op_type = "Sum", .since = 6, .import = import_chain<add_op>},
    {.op_type = "Mean", .since = 6, .import = import_mean}};
constexpr OnnxImportRule maximum_import[] = {
    {.op_type = "Max", .import = import_chain<maximum_op>}};
constexpr OnnxImportRule minimum_import[] = {
    {.op_type = "Min", .import = import_chain<minimum_op>}};
constexpr char add_onnx[] = "Add", maximum_onnx[] = "Max", minimum_onnx[] = "Min";
constexpr OnnxExportRule add_export{write<add_onnx>}, maximum_export{write<maximum_onnx>},
    minimum_export{write<minimum_onnx>};

constexpr OnnxImportRule mod_import[] = {
    {.op_type = "Mod", .since = 10, .import = [](OnnxNodeReader& r) -> std::vector<Value*> {
       inputs_of(r, 2);
       return {r.apply("mod", {r.input(0), r.input(1)}, {{"fmod", r.integer("fmod", 0)}})};
     }}};
constexpr OnnxExportRule mod_export{[](const Node& node, OnnxNodeWriter& writer) {
  if (node.integer("fmod") == 0 && is_float(node.input(0)->dtype()))
    fail(node, "ONNX has no floating-point remainder with the sign of the divisor");
  write_as(node, writer, "Mod", {{"fmod", node.integer("fmod")}});
}};

}  // namespace

#define BINARY_IMPL(op, types, kernel, formula)    \
  const OpImpl op_##op{.doc = formula,             \
                       .min_inputs = 2,            \
                       .max_inputs = 2,            \
                       .infer = types,             \
                       .reference = kernel,        \
                       .onnx_import = op##_import, \
                       .onnx_export = &op##_export};
#define BINARY(op, onnx_name, types, kernel, formula)                    \
  namespace {                                                            \
  constexpr char op##_name[] = #op, op##_onnx[] = onnx_name;             \
  constexpr OnnxImportRule op##_import[] = {                             \
      {.op_type = onnx_name, .since = 7, .import = import <op##_name>}}; \
  constexpr OnnxExportRule op##_export{write<op##_onnx>};                \
  }                                                                      \
  BINARY_IMPL(op, types, kernel, formula)

BINARY_IMPL(add, infer, reference<Add>, "y = a + b, broadcast")
BINARY(sub, "Sub", infer, reference<Sub>, "y = a - b, broadcast")
BINARY(mul, "Mul", infer, reference<Mul>, "y = a * b, broadcast")
BINARY(div, "Div", infer, reference<Div>, "y = a / b, broadcast; integers truncate")
BINARY(pow, "Pow", infer_pow, reference_pow,
       "y = a to the power b, broadcast; b's type may differ from a's and y's")
BINARY(prelu, "PRelu", infer_prelu, reference<Prelu>,
       "y = x, or x * slope below 0; the slope broadcasts to x")
BINARY_IMPL(maximum, infer, reference<Maximum>, "y = the larger of a and b, broadcast; NaN wins")
BINARY_IMPL(minimum, infer, reference<Minimum>, "y = the smaller of a and b, broadcast; NaN wins")

const OpImpl op_mod{
    .doc = "y = a modulo b, broadcast, with the sign of b; with `fmod` the sign of a.",
    .min_inputs = 2,
    .max_inputs = 2,
    .attributes = {{"fmod", AttributeKind::integer, false, int64_t{0}}},
    .infer = infer,
    .reference = reference<Mod>,
    .onnx_import = mod_import,
    .onnx_export = &mod_export};

}  // namespace octavo::ops
