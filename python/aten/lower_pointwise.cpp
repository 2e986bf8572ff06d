// Functions of one element of each operand.
#include <cmath>
#include <limits>
#include <numbers>

#include "lower.h"

namespace octavo::aten {
namespace {

using Values = std::vector<IrValue*>;

template <const char* op>
Values unary(Lowering& to, const Call& call) {
  return {to.apply(op, {to.f32(call, "self")})};
}

template <const char* op>
Values binary(Lowering& to, const Call& call) {
  return {to.apply(op, {to.f32(call, "self"), to.f32(call, "other")})};
}

// self + alpha * other, or minus.
template <bool minus>
Values sum(Lowering& to, const Call& call) {
  IrValue* other = to.mul(to.f32(call, "other"), call.real("alpha", 1));
  return {to.apply(minus ? "sub" : "add", {to.f32(call, "self"), other})};
}

Values reverse_sub(Lowering& to, const Call& call) {
  IrValue* self = to.mul(to.f32(call, "self"), call.real("alpha", 1));
  return {to.sub(to.f32(call, "other"), self)};
}

Values rsqrt(Lowering& to, const Call& call) {
  return {to.apply("reciprocal", {to.apply("sqrt", {to.f32(call, "self")})})};
}

Values square(Lowering& to, const Call& call) {
  IrValue* x = to.f32(call, "self");
  return {to.mul(x, x)};
}

// Exponents that have a shorter form; eager has the same list.
Values pow_scalar(Lowering& to, const Call& call) {
  IrValue* x = to.f32(call, "self");
  const double exponent = call.real("exponent");
  if (exponent == 1) return {to.mul(x, to.scalar(1))};
  if (exponent == 2) return {to.mul(x, x)};
  if (exponent == 3) return {to.mul(to.mul(x, x), x)};
  if (exponent == 0.5) return {to.apply("sqrt", {x})};
  if (exponent == -0.5) return {to.apply("reciprocal", {to.apply("sqrt", {x})})};
  if (exponent == -1) return {to.apply("reciprocal", {x})};
  if (exponent == -2) return {to.apply("reciprocal", {to.mul(x, x)})};
  return {to.apply("pow", {x, to.scalar(exponent)})};
}

Values pow_tensor(Lowering& to, const Call& call) {
  return {to.apply("pow", {to.f32(call, "self"), to.f32(call, "exponent")})};
}

Values gelu(Lowering& to, const Call& call) {
  return {to.apply("gelu", {to.f32(call, "self")}, {{"approximate", call.text("approximate")}})};
}

Values leaky_relu(Lowering& to, const Call& call) {
  IrValue* x = to.f32(call, "self");
  return {to.where(to.apply("less", {to.scalar(0), x}), x, to.mul(x, call.real("negative_slope")))};
}

// NaN stays: it is neither less nor greater than a bound.
IrValue* clamp(Lowering& to, IrValue* x, IrValue* low, IrValue* high) {
  if (low) x = to.where(to.apply("less", {x, low}), low, x);
  if (high) x = to.where(to.apply("less", {high, x}), high, x);
  return x;
}

bool accepts_clamp(const Call& call) {
  const auto finite = [&](const char* bound) {
    return !call.given(bound) || call.is_tensor(bound) || !std::isnan(call.real(bound));
  };
  return floats(call) && !call.is_tensor("min") && !call.is_tensor("max") && finite("min") &&
         finite("max");
}
Values clamp(Lowering& to, const Call& call) {
  const auto bound = [&](const char* name) {
    return call.find(name) >= 0 && call.given(name) ? to.f32(call, name) : nullptr;
  };
  return {clamp(to, to.f32(call, "self"), bound("min"), bound("max"))};
}
Values hardtanh(Lowering& to, const Call& call) {
  return {clamp(to, to.f32(call, "self"), to.f32(call, "min_val"), to.f32(call, "max_val"))};
}
Values relu6(Lowering& to, const Call& call) {
  return {clamp(to, to.f32(call, "self"), to.scalar(0), to.scalar(6))};
}

// clamp(x + 3, 0, 6) / 6
IrValue* hard_gate(Lowering& to, IrValue* x) {
  return to.div(clamp(to, to.add(x, 3.0), to.scalar(0), to.scalar(6)), to.scalar(6));
}
Values hardsigmoid(Lowering& to, const Call& call) { return {hard_gate(to, to.f32(call, "self"))}; }
Values hardswish(Lowering& to, const Call& call) {
  IrValue* x = to.f32(call, "self");
  return {to.mul(x, hard_gate(to, x))};
}

Values elu(Lowering& to, const Call& call) {
  IrValue* x = to.f32(call, "self");
  IrValue* y =
      to.apply("elu", {to.mul(x, call.real("input_scale"))}, {{"alpha", call.real("alpha")}});
  return {to.mul(y, call.real("scale"))};
}
bool accepts_elu(const Call& call) { return floats(call) && call.real("input_scale") == 1; }

// softplus(x * beta) / beta; beyond the threshold x itself, as eager.
Values softplus(Lowering& to, const Call& call) {
  const double beta = call.real("beta");
  IrValue* x = to.f32(call, "self");
  IrValue* scaled = to.mul(x, beta);
  IrValue* soft = to.div(to.apply("softplus", {scaled}), to.scalar(beta));
  return {to.where(to.apply("greater", {scaled, to.scalar(call.real("threshold"))}), x, soft)};
}

// ---- of three

// self + weight * (end - self), from the nearer end
Values lerp(Lowering& to, const Call& call) {
  IrValue *start = to.f32(call, "self"), *end = to.f32(call, "end");
  const double weight = call.real("weight");
  IrValue* way = to.sub(end, start);
  if (std::abs(weight) < 0.5) return {to.add(start, to.mul(way, weight))};
  return {to.sub(end, to.mul(way, 1 - weight))};
}

Values lerp_tensor(Lowering& to, const Call& call) {
  IrValue *start = to.f32(call, "self"), *end = to.f32(call, "end");
  IrValue *weight = to.f32(call, "weight"), *way = to.sub(end, start);
  IrValue* near = to.apply("less", {to.apply("abs", {weight}), to.scalar(0.5)});
  IrValue* from_end = to.sub(end, to.mul(way, to.sub(to.scalar(1), weight)));
  return {to.where(near, to.add(start, to.mul(way, weight)), from_end)};
}

template <const char* op>
Values add_product(Lowering& to, const Call& call) {
  IrValue* first = to.mul(to.f32(call, "tensor1"), call.real("value", 1));
  return {to.add(to.f32(call, "self"), to.apply(op, {first, to.f32(call, "tensor2")}))};
}

bool accepts_where(const Call& call) {
  if (!is_f32(call.output())) return false;
  if (call.info("condition").dtype != at::kBool) return false;
  for (const char* name : {"self", "other"})
    if (call.is_tensor(name) && !float_operand(call, call.id(name))) return false;
  return true;
}
Values where(Lowering& to, const Call& call) {
  return {to.where(to.tensor(call, "condition"), to.f32(call, "self"), to.f32(call, "other"))};
}
bool accepts_fill(const Call& call) {
  return is_f32(call.output()) && is_f32(call.info("self")) &&
         call.info("mask").dtype == at::kBool &&
         (!call.is_tensor("value") || call.number(call.id("value")));
}
Values masked_fill(Lowering& to, const Call& call) {
  return {to.where(to.tensor(call, "mask"), to.f32(call, "value"), to.tensor(call, "self"))};
}

// ---- to bool

// Floats are compared as floats: an operand of another type would be compared in double.
bool compares(const Call& call) {
  if (call.output().dtype != at::kBool) return false;
  bool good = is_f32(call.info("self"));
  if (call.is_tensor("other")) {
    const auto number = call.number(call.id("other"));
    good = good && (is_f32(call.info("other")) || number);
  }
  return good;
}
template <const char* op>
Values compare(Lowering& to, const Call& call) {
  return {to.apply(op, {to.f32(call, "self"), to.f32(call, "other")})};
}
Values not_equal(Lowering& to, const Call& call) {
  return {
      to.apply("logical_not", {to.apply("equal", {to.f32(call, "self"), to.f32(call, "other")})})};
}

bool bools(const Call& call) {
  bool good = call.output().dtype == at::kBool;
  call.for_each_tensor([&](ValueId value) {
    good = good && call.graph().values[Call::at(value)].dtype == at::kBool;
  });
  for (const char* name : {"self", "other"})
    if (call.find(name) >= 0) good = good && call.is_tensor(name);
  return good;
}
template <const char* op>
Values logic(Lowering& to, const Call& call) {
  return {to.apply(op, {to.tensor(call, "self"), to.tensor(call, "other")})};
}
Values logical_not(Lowering& to, const Call& call) {
  return {to.apply("logical_not", {to.tensor(call, "self")})};
}
bool accepts_test(const Call& call) { return is_f32(call.info("self")); }
template <const char* op>
Values test(Lowering& to, const Call& call) {
  return {to.apply(op, {to.tensor(call, "self")})};
}

// ---- types

bool accepts_cast(const Call& call) {
  const auto from = call.info("self").dtype, to = call.output().dtype;
  return to == at::kFloat && (from == at::kFloat || from == at::kBool);
}
Values cast(Lowering& to, const Call& call) {
  return {to.cast(to.tensor(call, "self"), DType::f32)};
}

#define NAME(n) constexpr char n##_op[] = #n;
// clang-format off
NAME(relu) NAME(neg) NAME(abs) NAME(exp) NAME(log) NAME(sqrt) NAME(sigmoid) NAME(tanh) NAME(erf)
NAME(floor) NAME(ceil) NAME(round) NAME(reciprocal) NAME(silu)
NAME(mish) NAME(mul) NAME(div) NAME(maximum) NAME(minimum)
NAME(less) NAME(less_equal) NAME(greater) NAME(greater_equal) NAME(equal)
NAME(logical_and) NAME(logical_or) NAME(logical_xor) NAME(is_nan)
// clang-format on
#undef NAME

                constexpr Rule rules[] = {
                    {"aten::relu", floats, unary<relu_op>},
                    {"aten::neg", floats, unary<neg_op>},
                    {"aten::abs", floats, unary<abs_op>},
                    {"aten::exp", floats, unary<exp_op>},
                    {"aten::log", floats, unary<log_op>},
                    {"aten::sqrt", floats, unary<sqrt_op>},
                    {"aten::sigmoid", floats, unary<sigmoid_op>},
                    {"aten::tanh", floats, unary<tanh_op>},
                    {"aten::erf", floats, unary<erf_op>},
                    {"aten::floor", floats, unary<floor_op>},
                    {"aten::ceil", floats, unary<ceil_op>},
                    {"aten::round", floats, unary<round_op>},
                    {"aten::reciprocal", floats, unary<reciprocal_op>},
                    {"aten::silu", floats, unary<silu_op>},
                    {"aten::mish", floats, unary<mish_op>},
                    {"aten::rsqrt", floats, rsqrt},
                    {"aten::square", floats, square},
                    {"aten::gelu", floats, gelu},
                    {"aten::leaky_relu", floats, leaky_relu},
                    {"aten::clamp", accepts_clamp, clamp},
                    {"aten::clamp_min", floats, clamp},
                    {"aten::clamp_max", floats, clamp},
                    {"aten::hardtanh", floats, hardtanh},
                    {"aten::relu6", floats, relu6},
                    {"aten::hardsigmoid", floats, hardsigmoid},
                    {"aten::hardswish", floats, hardswish},
                    {"aten::elu", accepts_elu, elu},
                    {"aten::softplus", floats, softplus},

                    {"aten::add.Tensor", floats, sum<false>},
                    {"aten::add.Scalar", floats, sum<false>},
                    {"aten::sub.Tensor", floats, sum<true>},
                    {"aten::sub.Scalar", floats, sum<true>},
                    {"aten::rsub.Tensor", floats, reverse_sub},
                    {"aten::rsub.Scalar", floats, reverse_sub},
                    {"aten::mul.Tensor", floats, binary<mul_op>},
                    {"aten::mul.Scalar", floats, binary<mul_op>},
                    {"aten::div.Tensor", floats, binary<div_op>},
                    {"aten::div.Scalar", floats, binary<div_op>},
                    {"aten::maximum", floats, binary<maximum_op>},
                    {"aten::minimum", floats, binary<minimum_op>},
                    {"aten::pow.Tensor_Scalar", floats, pow_scalar},
                    {"aten::pow.Tensor_Tensor", floats, pow_tensor},
                    {"aten::pow.Scalar", floats, pow_tensor},
                    {"aten::lerp.Scalar", floats, lerp},
                    {"aten::lerp.Tensor", floats, lerp_tensor},
                    {"aten::addcmul", floats, add_product<mul_op>},
                    {"aten::addcdiv", floats, add_product<div_op>},

                    {"aten::where.self", accepts_where, where},
                    {"aten::where.ScalarOther", accepts_where, where},
                    {"aten::where.ScalarSelf", accepts_where, where},
                    {"aten::masked_fill.Scalar", accepts_fill, masked_fill},
                    {"aten::masked_fill.Tensor", accepts_fill, masked_fill},
                    {"aten::lt.Scalar", compares, compare<less_op>},
                    {"aten::lt.Tensor", compares, compare<less_op>},
                    {"aten::le.Scalar", compares, compare<less_equal_op>},
                    {"aten::le.Tensor", compares, compare<less_equal_op>},
                    {"aten::gt.Scalar", compares, compare<greater_op>},
                    {"aten::gt.Tensor", compares, compare<greater_op>},
                    {"aten::ge.Scalar", compares, compare<greater_equal_op>},
                    {"aten::ge.Tensor", compares, compare<greater_equal_op>},
                    {"aten::eq.Scalar", compares, compare<equal_op>},
                    {"aten::eq.Tensor", compares, compare<equal_op>},
                    {"aten::ne.Scalar", compares, not_equal},
                    {"aten::ne.Tensor", compares, not_equal},
                    {"aten::logical_and", bools, logic<logical_and_op>},
                    {"aten::logical_or", bools, logic<logical_or_op>},
                    {"aten::logical_xor", bools, logic<logical_xor_op>},
                    {"aten::bitwise_and.Tensor", bools, logic<logical_and_op>},
                    {"aten::bitwise_or.Tensor", bools, logic<logical_or_op>},
                    {"aten::bitwise_xor.Tensor", bools, logic<logical_xor_op>},
                    {"aten::logical_not", bools, logical_not},
                    {"aten::bitwise_not", bools, logical_not},
                    {"aten::isnan", accepts_test, test<is_nan_op>},
                    {"aten::_to_copy", accepts_cast, cast},
                    {"aten::to.dtype", accepts_cast, cast},
};

}  // namespace

std::span<const Rule> pointwise_rules() { return rules; }

}  // namespace octavo::aten
