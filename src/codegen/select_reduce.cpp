// Float reductions along any axes, and softmax along any axis.
#include <algorithm>

#include "backends/cpu/copy.h"
#include "backends/cpu/reduce.h"
#include "codegen/kernel_step.h"
#include "codegen/selectors.h"
#include "graph/op_def.h"

namespace octavo {
namespace {

cpu::ReduceOp reduce_op(const Node& node) {
  return node.is("reduce_sum")    ? cpu::ReduceOp::sum
         : node.is("reduce_mean") ? cpu::ReduceOp::mean
         : node.is("reduce_max")  ? cpu::ReduceOp::max
         : node.is("reduce_min")  ? cpu::ReduceOp::min
                                  : cpu::ReduceOp::prod;
}

// One reduction for each run of neighbouring axes, the last run first; what is between lies in the
// scratch memory.
class ReduceStep final : public StepKernel {
 public:
  ReduceStep(const cpu::Kernel<cpu::Reduce>& kernel, std::vector<cpu::Reduce> stages)
      : kernel_(kernel), stages_(std::move(stages)) {}
  const char* name() const override { return kernel_.name; }
  Isa isa() const override { return kernel_.isa; }
  size_t scratch_bytes(int) const override {
    size_t bytes = 0;
    for (size_t i = 0; i + 1 < stages_.size(); ++i) bytes += size(i) * sizeof(float);
    return bytes;
  }
  void run(StepInputs in, StepOutputs out, StepContext context) const override {
    const auto* x = static_cast<const float*>(in[0]);
    auto* between = reinterpret_cast<float*>(context.scratch);
    for (size_t i = 0; i < stages_.size(); ++i) {
      cpu::Reduce args = stages_[i];
      args.x = x;
      args.y = i + 1 < stages_.size() ? between : static_cast<float*>(out[0]);
      kernel_.run(args, context.pool);
      x = args.y;
      between += size(i);
    }
  }

 private:
  size_t size(size_t stage) const {
    return static_cast<size_t>(stages_[stage].outer * stages_[stage].inner);
  }
  const cpu::Kernel<cpu::Reduce>& kernel_;
  std::vector<cpu::Reduce> stages_;
};

// Along an axis that is not the last: transposed, in place, and back.
class SoftmaxAcrossStep final : public StepKernel {
 public:
  SoftmaxAcrossStep(int64_t outer, int64_t count, int64_t inner)
      : softmax_(cpu::best_kernel(cpu::softmax_kernels())),
        transpose_(cpu::best_kernel(cpu::transpose_2d_kernels())),
        outer_(outer),
        count_(count),
        inner_(inner) {}
  const char* name() const override { return softmax_.name; }
  Isa isa() const override { return softmax_.isa; }
  size_t scratch_bytes(int) const override {
    return static_cast<size_t>(outer_ * count_ * inner_) * sizeof(float);
  }
  void run(StepInputs in, StepOutputs out, StepContext context) const override {
    auto* rows = reinterpret_cast<float*>(context.scratch);
    transpose_.run({.n = outer_, .rows = count_, .columns = inner_, .x = in[0], .y = rows},
                   context.pool);
    softmax_.run({.rows = outer_ * inner_, .count = count_, .x = rows, .y = rows}, context.pool);
    transpose_.run({.n = outer_, .rows = inner_, .columns = count_, .x = rows, .y = out[0]},
                   context.pool);
  }

 private:
  const cpu::Kernel<cpu::Softmax>& softmax_;
  const cpu::Kernel<cpu::Transpose2d>& transpose_;
  int64_t outer_, count_, inner_;
};

}  // namespace

void select_reduce(const Node& node, Selected& selected) {
  if (decline_unless_f32(selected, "reduce", node.input(0)->dtype()) ||
      decline_parameter_inputs(selected, "reduce", node))
    return;
  const Dims x = node.input(0)->shape().dims();
  // No axes: all, unless the node says none.
  const bool none = node.has("noop_empty") && node.integer("noop_empty") != 0;
  std::vector<bool> reduced(x.size(), node.integers("axes").empty() && !none);
  for (int64_t axis : node.integers("axes"))
    reduced[static_cast<size_t>(
        normalize_axis(axis, static_cast<int64_t>(x.size()), node.where()))] = true;
  std::vector<cpu::Reduce> stages;
  int64_t inner = 1;  // of the axes behind, reduced ones gone
  for (size_t end = x.size(); end > 0;) {
    if (!reduced[end - 1]) {
      inner *= x[--end];
      continue;
    }
    int64_t count = 1, outer = 1;
    for (; end > 0 && reduced[end - 1]; --end) count *= x[end - 1];
    for (size_t i = 0; i < end; ++i) outer *= x[i];
    stages.push_back({.op = reduce_op(node), .outer = outer, .count = count, .inner = inner});
  }
  if (stages.empty())  // nothing is reduced: rows of one element
    stages.push_back({.op = reduce_op(node), .outer = inner, .count = 1, .inner = 1});
  selected.kernel =
      std::make_unique<ReduceStep>(cpu::best_kernel(cpu::reduce_kernels()), std::move(stages));
}

void select_softmax(const Node& node, Selected& selected) {
  if (decline_unless_f32(selected, "softmax", node.output()->dtype())) return;
  const Dims x = node.input(0)->shape().dims();
  const auto axis = static_cast<size_t>(
      normalize_axis(node.integer("axis"), static_cast<int64_t>(x.size()), node.where()));
  int64_t outer = 1, inner = 1;
  for (size_t i = 0; i < x.size(); ++i)
    if (i != axis) (i < axis ? outer : inner) *= x[i];
  if (inner == 1)
    selected.kernel =
        make_step(cpu::softmax_kernels(), cpu::Softmax{.rows = outer, .count = x[axis]});
  else
    selected.kernel = std::make_unique<SoftmaxAcrossStep>(outer, x[axis], inner);
}

}  // namespace octavo
