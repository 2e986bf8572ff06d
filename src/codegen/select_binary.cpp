// Functions of two elements: float with broadcasting, integers of one shape.
#include "backends/cpu/elementwise.h"
#include "backends/cpu/quantized.h"
#include "codegen/kernel_step.h"
#include "codegen/selectors.h"
#include "graph/op_def.h"
#include "passes/match.h"

namespace octavo {
namespace {

cpu::BinaryOp binary_op(const Node& node) {
  return node.is("add")       ? cpu::BinaryOp::add
         : node.is("sub")     ? cpu::BinaryOp::sub
         : node.is("mul")     ? cpu::BinaryOp::mul
         : node.is("div")     ? cpu::BinaryOp::div
         : node.is("maximum") ? cpu::BinaryOp::max
         : node.is("minimum") ? cpu::BinaryOp::min
         : node.is("prelu")   ? cpu::BinaryOp::prelu
                              : cpu::BinaryOp::pow;
}

template <class Args>
void bind(Args& args, StepInputs in, StepOutputs out) {
  args.a = static_cast<decltype(args.a)>(in[0]);
  args.b = static_cast<decltype(args.b)>(in[1]);
  args.y = static_cast<decltype(args.y)>(out[0]);
}

}  // namespace

void select_binary(const Node& node, Selected& selected) {
  if (decline_unless_f32(selected, "binary", node.output()->dtype()) ||
      decline_unless_f32(selected, "binary", node.input(1)->dtype()))  // pow's may differ
    return;
  const Dims y = node.output()->shape().dims();
  const StridedBox box = merged({y,
                                 {broadcast_steps(node.input(0)->shape().dims(), y),
                                  broadcast_steps(node.input(1)->shape().dims(), y)}});
  const Dims &a = box.steps[0], &b = box.steps[1];
  const size_t rank = box.rank();
  if (node.is("pow") && scalar_constant(node.input(1)) == 2) {  // x * x
    const cpu::Binary args{.op = cpu::BinaryOp::mul, .inner = element_count(y)};
    selected.kernel = make_step(cpu::binary_kernels(), args,
                                [](cpu::Binary& square, StepInputs in, StepOutputs out) {
                                  square.a = square.b = static_cast<const float*>(in[0]);
                                  square.y = static_cast<float*>(out[0]);
                                });
    return;
  }
  if (rank <= 2) {
    cpu::Binary args{.op = binary_op(node), .inner = 1};
    if (rank > 0) args.inner = box.dims.back(), args.a_inner = a.back(), args.b_inner = b.back();
    if (rank > 1) args.outer = box.dims[0], args.a_outer = a[0], args.b_outer = b[0];
    selected.kernel = make_step(cpu::binary_kernels(), args, bind<cpu::Binary>);
    return;
  }
  if (rank > cpu::BinaryStrided::max_rank)
    return decline(selected, "binary_strided", "broadcasts over more than 8 dimensions");
  cpu::BinaryStrided args{.op = binary_op(node), .rank = static_cast<int>(rank)};
  for (size_t d = 0; d < rank; ++d)
    args.dims[d] = box.dims[d], args.a_steps[d] = a[d], args.b_steps[d] = b[d];
  selected.kernel = make_step(cpu::binary_strided_kernels(), args, bind<cpu::BinaryStrided>);
}

void select_quantized_binary(const Node& node, Selected& selected) {
  const bool add = node.is("quantized_add");
  const auto integer = [&](const char* name) { return static_cast<int32_t>(node.integer(name)); };
  const auto real = [&](const char* name) { return static_cast<float>(node.real(name)); };
  const cpu::QuantizedBinary args{
      .count = element_count(node.output()->shape().dims()),
      .a_element = element_of(node.input(0)->dtype()),
      .b_element = element_of(node.input(1)->dtype()),
      .y_element = element_of(node.output()->dtype()),
      .a_zero_point = integer("a_zero_point"),
      .b_zero_point = integer("b_zero_point"),
      .y_zero_point = integer("y_zero_point"),
      .a_multiplier = real(add ? "a_multiplier" : "multiplier"),
      .b_multiplier = add ? real("b_multiplier") : 1.0f,
      .clamp_lo = real("clamp_lo"),
      .clamp_hi = real("clamp_hi"),
  };
  selected.kernel = make_step(add ? cpu::quantized_add_kernels() : cpu::quantized_mul_kernels(),
                              args, bind<cpu::QuantizedBinary>);
}

}  // namespace octavo
