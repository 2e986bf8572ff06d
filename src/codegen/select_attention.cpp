#include "backends/cpu/attention.h"
#include "codegen/kernel_step.h"
#include "codegen/selectors.h"
#include "graph/op_def.h"

namespace octavo {
namespace {

class AttentionStep final : public StepKernel {
 public:
  explicit AttentionStep(std::unique_ptr<cpu::AttentionKernel> kernel)
      : kernel_(std::move(kernel)) {}
  const char* name() const override { return kernel_->name(); }
  Isa isa() const override { return kernel_->isa(); }
  size_t scratch_bytes(int threads) const override { return kernel_->scratch_bytes(threads); }
  void run(StepInputs in, StepOutputs out, StepContext context) const override {
    kernel_->run({in[0], in[1], in[2], in.size() > 3 ? static_cast<const float*>(in[3]) : nullptr,
                  out[0], context.scratch},
                 context.pool);
  }

 private:
  std::unique_ptr<cpu::AttentionKernel> kernel_;
};

}  // namespace

void select_attention(const Node& node, Selected& selected) {
  const Dims q = node.input(0)->shape().dims(), k = node.input(1)->shape().dims(),
             v = node.input(2)->shape().dims();
  cpu::AttentionProblem p;
  p.batch = q[0], p.queries = q[1], p.heads = q[2], p.depth = q[3];
  p.keys = k[1], p.v_depth = v[3];
  p.q_row = p.k_row = p.heads * p.depth;
  p.v_row = p.y_row = p.heads * p.v_depth;
  p.q = element_of(node.input(0)->dtype()), p.k = element_of(node.input(1)->dtype());
  p.v = element_of(node.input(2)->dtype()), p.y = element_of(node.output()->dtype());
  p.score_multiplier = static_cast<float>(node.real("score_multiplier"));
  if (const Value* mask = node.input(3)) {
    const Dims m = mask->shape().dims();
    p.mask = true;
    p.mask_query = m[2] == 1 ? 0 : m[3];
    p.mask_head = m[1] == 1 ? 0 : m[2] * m[3];
    p.mask_batch = m[0] == 1 ? 0 : m[1] * m[2] * m[3];
  }
  p.q_zero_point = static_cast<int32_t>(node.integer("q_zero_point"));
  p.v_zero_point = static_cast<int32_t>(node.integer("v_zero_point"));
  p.y_zero_point = static_cast<int32_t>(node.integer("y_zero_point"));
  p.y_multiplier = static_cast<float>(node.real("y_multiplier"));
  p.clamp_lo = static_cast<float>(node.real("clamp_lo"));
  p.clamp_hi = static_cast<float>(node.real("clamp_hi"));
  std::vector<cpu::Declined> declined;
  auto kernel = cpu::make_attention(p, &declined);
  for (const cpu::Declined& d : declined)
    selected.declined.push_back(fmt::format("{}: {}", d.kernel, d.reason));
  if (kernel) selected.kernel = std::make_unique<AttentionStep>(std::move(kernel));
}

}  // namespace octavo
