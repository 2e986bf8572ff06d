// Products of two activations in float, batch axes broadcast.
#include <algorithm>

#include "backends/cpu/matmul.h"
#include "codegen/kernel_step.h"
#include "codegen/selectors.h"
#include "graph/op_def.h"

namespace octavo {
namespace {

class MatmulStep final : public StepKernel {
 public:
  explicit MatmulStep(std::unique_ptr<cpu::MatmulKernel> kernel) : kernel_(std::move(kernel)) {}
  const char* name() const override { return kernel_->name(); }
  Isa isa() const override { return kernel_->isa(); }
  size_t scratch_bytes(int threads) const override { return kernel_->scratch_bytes(threads); }
  void run(StepInputs in, StepOutputs out, StepContext context) const override {
    kernel_->run({static_cast<const float*>(in[0]), static_cast<const float*>(in[1]),
                  static_cast<float*>(out[0]), context.scratch},
                 context.pool);
  }

 private:
  std::unique_ptr<cpu::MatmulKernel> kernel_;
};

}  // namespace

const Value* transposed_operand(const Value* value) {
  const Node* producer = value->producer();
  if (!producer || !producer->is("transpose")) return nullptr;
  const Ints& perm = producer->integers("perm");
  const size_t rank = perm.size();
  for (size_t i = 0; i + 2 < rank; ++i)
    if (perm[i] != static_cast<int64_t>(i)) return nullptr;
  const auto last = static_cast<int64_t>(rank) - 1;
  return rank >= 2 && perm[rank - 1] == last - 1 && perm[rank - 2] == last ? producer->input(0)
                                                                           : nullptr;
}

void select_matmul(const Node& node, Selected& selected) {
  select_matmul_of(node, false, false, selected);
}

void select_matmul_of(const Node& node, bool trans_a, bool trans_b, Selected& selected) {
  if (decline_unless_f32(selected, "matmul", node.output()->dtype())) return;
  Dims a = node.input(0)->shape().dims(), b = node.input(1)->shape().dims();
  if (a.size() == 1) a.insert(a.begin(), 1);
  if (b.size() == 1) b.push_back(1);
  cpu::MatmulProblem p{.m = a[a.size() - 2],
                       .k = a.back(),
                       .n = b.back(),
                       .a_at = {},
                       .b_at = {},
                       .trans_a = trans_a,
                       .trans_b = trans_b};
  // Batch axes of both, aligned at the end.
  const size_t axes = std::max(a.size(), b.size()) - 2;
  const auto size = [&](const Dims& dims, size_t axis) {
    const size_t missing = axes + 2 - dims.size();
    return axis < missing ? 1 : dims[axis - missing];
  };
  int64_t batches = 1;
  for (size_t i = 0; i < axes; ++i)  // 1 stretches, to 0 as well
    batches *= size(a, i) == 1 ? size(b, i) : size(a, i);
  for (int64_t batch = 0; batch < batches; ++batch) {
    int64_t rest = batch, a_at = 0, b_at = 0, a_step = p.m * p.k, b_step = p.k * p.n;
    for (size_t i = axes; i-- > 0;) {
      const int64_t a_size = size(a, i), b_size = size(b, i), both = a_size == 1 ? b_size : a_size;
      const int64_t at = rest % both;
      rest /= both;
      if (a_size != 1) a_at += at * a_step;
      if (b_size != 1) b_at += at * b_step;
      a_step *= a_size, b_step *= b_size;
    }
    p.a_at.push_back(a_at);
    p.b_at.push_back(b_at);
  }
  selected.kernel = std::make_unique<MatmulStep>(cpu::make_matmul(p));
}

}  // namespace octavo
