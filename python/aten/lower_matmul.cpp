// Matrix products.
#include "lower.h"

namespace octavo::aten {
namespace {

using Values = std::vector<IrValue*>;

bool nothing(const ValueInfo& info) {
  for (const auto size : info.sizes)
    if (size == 0) return true;
  return false;
}

// Sums over nothing are zeros that torch writes itself.
bool products(const Call& call) {
  bool good = is_f32(call.output());
  call.for_each_tensor([&](ValueId value) {
    const ValueInfo& info = call.graph().values[Call::at(value)];
    good = good && is_f32(info) && !nothing(info);
  });
  return good;
}

Values product(Lowering& to, const Call& call) {
  return {to.apply("matmul", {to.tensor(call, "self"),
                              to.tensor(call, call.find("mat2") >= 0 ? "mat2" : "other")})};
}

// beta * self + alpha * product
template <const char* a, const char* b>
Values scaled_sum(Lowering& to, const Call& call) {
  IrValue* y =
      to.mul(to.apply("matmul", {to.tensor(call, a), to.tensor(call, b)}), call.real("alpha", 1));
  const double beta = call.real("beta", 1);
  if (beta == 0) return {y};  // as eager: whatever self holds
  return {to.add(y, to.mul(to.tensor(call, "self"), beta))};
}

bool accepts_linear(const Call& call) {
  return products(call) && call.info("weight").sizes.size() == 2 &&
         call.info("input").sizes.size() >= 2;
}
Values linear(Lowering& to, const Call& call) {
  IrValue* y =
      to.apply("matmul", {to.tensor(call, "input"), to.swap_last(to.tensor(call, "weight"))});
  return {call.given("bias") ? to.add(y, to.tensor(call, "bias")) : y};
}

Values dot(Lowering& to, const Call& call) {
  return {to.apply("matmul", {to.tensor(call, "self"),
                              to.tensor(call, call.find("vec") >= 0 ? "vec" : "tensor")})};
}

constexpr char mat1[] = "mat1", mat2[] = "mat2", batch1[] = "batch1", batch2[] = "batch2";

constexpr Rule rules[] = {
    {"aten::mm", products, product},
    {"aten::bmm", products, product},
    {"aten::matmul", products, product},
    {"aten::mv", products, dot},
    {"aten::dot", products, dot},
    {"aten::addmm", products, scaled_sum<mat1, mat2>},
    {"aten::baddbmm", products, scaled_sum<batch1, batch2>},
    {"aten::linear", accepts_linear, linear},
};

}  // namespace

std::span<const Rule> matmul_rules() { return rules; }

}  // namespace octavo::aten
