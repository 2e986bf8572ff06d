// The families of comparisons, of logic and of bits, with NumPy's broadcasting; and where.
#include <cmath>

#include "ops/indexing.h"
#include "ops/op.h"

namespace octavo::ops {
namespace {

Shape broadcast_inputs(const Node& node) {
  return broadcast_shapes(node.input(0)->shape(), node.input(1)->shape(), node.where());
}

std::vector<TensorType> infer_comparison(const Node& node) {
  require_one_dtype(node);
  return {{DType::boolean, broadcast_inputs(node)}};
}
std::vector<TensorType> infer_logic(const Node& node) {
  require(node, node.input(0)->dtype() == DType::boolean, "the inputs must be bool");
  return infer_comparison(node);
}
std::vector<TensorType> infer_bits(const Node& node) {
  require_one_dtype(node);
  require(node, is_integer(node.input(0)->dtype()), "the inputs must be integers");
  return {{node.input(0)->dtype(), broadcast_inputs(node)}};
}

// `Out` is what the output stores; the inputs have one type.
template <class F, bool to_bool>
void reference(const Node& node, std::span<const Tensor* const> in, std::span<Tensor> out) {
  const Dims& dims = out[0].dims();
  const std::array<Strides, 2> strides{broadcast_strides(in[0]->dims(), dims),
                                       broadcast_strides(in[1]->dims(), dims)};
  const F f(node);
  visit_dtype(in[0]->dtype(), [&](auto tag) {
    using T = decltype(tag);
    using Out = std::conditional_t<to_bool, bool, T>;
    if constexpr (to_bool || (std::is_integral_v<T> && !std::is_same_v<T, bool>)) {
      const auto x = elements<T>(*in[0]), y = elements<T>(*in[1]);
      auto z = mutable_elements<Out>(out[0]);
      for_each_index<2>(dims, strides, [&](size_t i, const auto& at) {
        z[i] = static_cast<Out>(f(load_element(x[static_cast<size_t>(at[0])]),
                                  load_element(y[static_cast<size_t>(at[1])])));
      });
    }
  });
}

#define FUNCTOR(name, expression)                 \
  struct name {                                   \
    explicit name(const Node&) {}                 \
    template <class T>                            \
    auto operator()(const T a, const T b) const { \
      return expression;                          \
    }                                             \
  };
FUNCTOR(Equal, a == b)
FUNCTOR(Less, a < b)
FUNCTOR(LessEqual, a <= b)
FUNCTOR(Greater, a > b)
FUNCTOR(GreaterEqual, a >= b)
FUNCTOR(And, a != T{} && b != T{})
FUNCTOR(Or, a != T{} || b != T{})
FUNCTOR(Xor, (a != T{}) != (b != T{}))
FUNCTOR(BitAnd, a& b)
FUNCTOR(BitOr, a | b)
FUNCTOR(BitXor, a ^ b)
#undef FUNCTOR

struct Shift {  // to the right with the sign; by the width or more, or less than 0: all bits go
  explicit Shift(const Node& node) : left(node.text("direction") == "left") {}
  bool left;
  template <class T>
  T operator()(T a, T b) const {
    const auto n = static_cast<uint64_t>(b);
    const bool all = n >= 8 * sizeof(T);
    if (left) return all ? T{0} : static_cast<T>(static_cast<uint64_t>(a) << n);
    return static_cast<T>(all ? (a < T{0} ? -1 : 0) : a >> n);
  }
};

std::vector<TensorType> infer_not(const Node& node) {
  const TensorType& x = node.input(0)->type();
  require(node, x.dtype == DType::boolean, "the input must be bool");
  return {x};
}
void reference_not(const Node&, std::span<const Tensor* const> in, std::span<Tensor> out) {
  const auto x = in[0]->values<bool>();
  auto y = out[0].mutable_values<bool>();
  for (size_t i = 0; i < x.size(); ++i) y[i] = !x[i];
}
std::vector<TensorType> infer_bit_not(const Node& node) {
  const TensorType& x = node.input(0)->type();
  require(node, is_integer(x.dtype), "the input must hold integers");
  return {x};
}
void reference_bit_not(const Node&, std::span<const Tensor* const> in, std::span<Tensor> out) {
  std::transform(in[0]->data(), in[0]->data() + in[0]->bytes(), out[0].mutable_data(),
                 [](std::byte b) { return ~b; });
}

std::vector<TensorType> infer_where(const Node& node) {
  require(node, node.input(0)->dtype() == DType::boolean, "the condition must be bool");
  require(node, node.input(1)->dtype() == node.input(2)->dtype(),
          "the inputs differ in element type");
  const Shape values =
      broadcast_shapes(node.input(1)->shape(), node.input(2)->shape(), node.where());
  return {{node.input(1)->dtype(), broadcast_shapes(node.input(0)->shape(), values, node.where())}};
}
void reference_where(const Node&, std::span<const Tensor* const> in, std::span<Tensor> out) {
  const auto condition = in[0]->values<bool>();
  const Dims& dims = out[0].dims();
  const size_t size = dtype_size(out[0].dtype());
  for_each_index<3>(dims,
                    {broadcast_strides(in[0]->dims(), dims), broadcast_strides(in[1]->dims(), dims),
                     broadcast_strides(in[2]->dims(), dims)},
                    [&](size_t i, const auto& at) {
                      const size_t side = condition[static_cast<size_t>(at[0])] ? 1 : 2;
                      copy_element(*in[side], at[side], out[0], static_cast<int64_t>(i), size);
                    });
}

template <const char* op, size_t inputs>
std::vector<Value*> import(OnnxNodeReader& reader) {
  auto given = inputs_of(reader, inputs);
  given.resize(inputs);
  return {reader.apply(op, given)};
}
template <const char* onnx_name, int64_t since>
void write(const Node& node, OnnxNodeWriter& writer) {
  write_as(node, writer, onnx_name, {}, since);
}

constexpr OnnxImportRule bit_shift_import[] = {
    {.op_type = "BitShift", .since = 11, .import = [](OnnxNodeReader& r) -> std::vector<Value*> {
       inputs_of(r, 2);
       const std::string direction = r.text("direction", "");
       if (direction != "LEFT" && direction != "RIGHT")
         r.invalid("direction must be LEFT or RIGHT");
       return {r.apply("bit_shift", {r.input(0), r.input(1)},
                       {{"direction", std::string(direction == "LEFT" ? "left" : "right")}})};
     }}};
constexpr OnnxExportRule bit_shift_export{[](const Node& node, OnnxNodeWriter& writer) {
  write_as(node, writer, "BitShift",
           {{"direction", std::string(node.text("direction") == "left" ? "LEFT" : "RIGHT")}});
}};

}  // namespace

#define LOGIC(op, onnx_name, opset, inputs, types, kernel, formula)              \
  namespace {                                                                    \
  constexpr char op##_name[] = #op, op##_onnx[] = onnx_name;                     \
  constexpr OnnxImportRule op##_import[] = {                                     \
      {.op_type = onnx_name, .since = 7, .import = import <op##_name, inputs>}}; \
  constexpr OnnxExportRule op##_export{write<op##_onnx, opset>};                 \
  }                                                                              \
  const OpImpl op_##op{.doc = formula,                                           \
                       .min_inputs = inputs,                                     \
                       .max_inputs = inputs,                                     \
                       .infer = types,                                           \
                       .reference = kernel,                                      \
                       .onnx_import = op##_import,                               \
                       .onnx_export = &op##_export};

LOGIC(equal, "Equal", 7, 2, infer_comparison, (reference<Equal, true>),
      "y = whether a = b, as bool, broadcast")
LOGIC(less, "Less", 7, 2, infer_comparison, (reference<Less, true>),
      "y = whether a < b, as bool, broadcast")
LOGIC(less_equal, "LessOrEqual", 12, 2, infer_comparison, (reference<LessEqual, true>),
      "y = whether a <= b, as bool, broadcast")
LOGIC(greater, "Greater", 7, 2, infer_comparison, (reference<Greater, true>),
      "y = whether a > b, as bool, broadcast")
LOGIC(greater_equal, "GreaterOrEqual", 12, 2, infer_comparison, (reference<GreaterEqual, true>),
      "y = whether a >= b, as bool, broadcast")
LOGIC(logical_and, "And", 7, 2, infer_logic, (reference<And, true>), "y = a and b, broadcast")
LOGIC(logical_or, "Or", 7, 2, infer_logic, (reference<Or, true>), "y = a or b, broadcast")
LOGIC(logical_xor, "Xor", 7, 2, infer_logic, (reference<Xor, true>),
      "y = a or b, but not both, broadcast")
LOGIC(logical_not, "Not", 7, 1, infer_not, reference_not, "y = not x")
LOGIC(bit_and, "BitwiseAnd", 18, 2, infer_bits, (reference<BitAnd, false>),
      "y = a and b, bit by bit, broadcast")
LOGIC(bit_or, "BitwiseOr", 18, 2, infer_bits, (reference<BitOr, false>),
      "y = a or b, bit by bit, broadcast")
LOGIC(bit_xor, "BitwiseXor", 18, 2, infer_bits, (reference<BitXor, false>),
      "y = a xor b, bit by bit, broadcast")
LOGIC(bit_not, "BitwiseNot", 18, 1, infer_bit_not, reference_bit_not, "y = not x, bit by bit")
LOGIC(where, "Where", 9, 3, infer_where, reference_where,
      "y = a where the condition holds, else b; inputs condition, a, b, broadcast")

const OpImpl op_bit_shift{
    .doc = "y = a shifted by b bits to the `direction` left or right, broadcast.",
    .min_inputs = 2,
    .max_inputs = 2,
    .attributes = {{"direction", AttributeKind::text, true}},
    .infer = infer_bits,
    .reference = reference<Shift, false>,
    .onnx_import = bit_shift_import,
    .onnx_export = &bit_shift_export};

}  // namespace octavo::ops
