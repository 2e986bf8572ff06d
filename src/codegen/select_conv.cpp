#include "backends/cpu/conv.h"
#include "codegen/kernel_step.h"
#include "codegen/selectors.h"
#include "graph/op_def.h"

namespace octavo {
namespace {

class ConvStep final : public StepKernel {
 public:
  explicit ConvStep(std::unique_ptr<cpu::ConvKernel> kernel) : kernel_(std::move(kernel)) {}
  const char* name() const override { return kernel_->name(); }
  Isa isa() const override { return kernel_->isa(); }
  size_t scratch_bytes(int threads) const override { return kernel_->scratch_bytes(threads); }
  size_t packed_bytes() const override { return kernel_->packed_bytes(); }
  void run(std::span<const void* const> in, std::span<void* const> out,
           StepContext context) const override {
    const auto optional = [&](size_t i) { return i < in.size() ? in[i] : nullptr; };
    kernel_->run({in[0], optional(4), out[0], context.scratch,
                  static_cast<const float*>(optional(7)), static_cast<const uint8_t*>(optional(8))},
                 context.pool);
  }

 private:
  std::unique_ptr<cpu::ConvKernel> kernel_;
};

template <class T>
const T* data(const Value* value) {
  return value ? reinterpret_cast<const T*>(value->constant().data()) : nullptr;
}

}  // namespace

void select_conv(const Node& node, Selected& selected) {
  for (size_t i : {1u, 2u, 3u, 5u, 6u})
    if (node.input(i) && !node.input(i)->is_constant()) {
      selected.declined.push_back("conv: weights or what belongs to them are not constant");
      return;
    }
  cpu::ConvProblem problem;
  const Dims x = node.input(0)->shape().dims(), w = node.input(1)->shape().dims(),
             y = node.output()->shape().dims();
  if (node.is("fused_conv")) {
    const auto pair = [&](const char* name, size_t i, int64_t fallback) {
      const Ints& values = node.integers(name);
      return values.empty() ? fallback : values[i];
    };
    problem.shape = {x[0],
                     x[1],
                     x[2],
                     x[3],
                     y[1],
                     y[2],
                     y[3],
                     w[2],
                     w[3],
                     pair("strides", 0, 1),
                     pair("strides", 1, 1),
                     pair("pads", 0, 0),
                     pair("pads", 1, 0),
                     pair("dilations", 0, 1),
                     pair("dilations", 1, 1),
                     node.integer("group")};
  } else {
    problem.shape.w = problem.shape.ow = x[0];
    problem.shape.c_in = x[1];
    problem.shape.c_out = y[1];
    problem.weights_by_input = node.integer("trans_w") != 0;
  }
  problem.x = element_of(node.input(0)->dtype());
  problem.y = element_of(node.output()->dtype());
  problem.weights = data<void>(node.input(1));
  problem.memory = node.input(1)->constant().buffer();
  if (node.input(4)) problem.residual = element_of(node.input(4)->dtype());
  if (!node.text("round_to").empty()) problem.round = half_of(parse_dtype(node.text("round_to")));
  problem.negative_slope = static_cast<float>(node.real("negative_slope"));
  problem.clamp_lo = static_cast<float>(node.real("clamp_lo"));
  problem.clamp_hi = static_cast<float>(node.real("clamp_hi"));
  using Dynamic = cpu::ConvProblem::Dynamic;
  if (const Value* scale = node.input(7))
    problem.dynamic = scale->shape().rank() == 1 ? Dynamic::row : Dynamic::tensor;
  if (problem.x == cpu::Element::f32 || problem.dynamic != Dynamic::no)
    problem.bias = data<float>(node.input(2));
  else
    problem.bias_i32 = data<int32_t>(node.input(2));
  problem.multiplier = data<float>(node.input(3));
  problem.x_zero_point = static_cast<int32_t>(node.integer("x_zero_point"));
  problem.y_zero_point = static_cast<int32_t>(node.integer("y_zero_point"));
  problem.residual_zero_point = static_cast<int32_t>(node.integer("residual_zero_point"));
  problem.residual_multiplier = static_cast<float>(node.real("residual_multiplier"));

  if (node.input(5))
    problem.integers = {
        element_of(node.input(1)->dtype()), static_cast<int>(node.integer("weight_bits")),
        node.integer("weight_group_size"), data<float>(node.input(5)), data<void>(node.input(6))};

  std::vector<cpu::Declined> declined;
  auto kernel = cpu::make_conv(problem, &declined);
  for (const cpu::Declined& d : declined)
    selected.declined.push_back(fmt::format("{}: {}", d.kernel, d.reason));
  if (!kernel) return;
  selected.kernel = std::make_unique<ConvStep>(std::move(kernel));
  selected.absorbed = {1, 2, 3, 5, 6};
}

}  // namespace octavo
