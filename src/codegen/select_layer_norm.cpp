#include "backends/cpu/layer_norm.h"
#include "codegen/kernel_step.h"
#include "codegen/selectors.h"
#include "graph/op_def.h"

namespace octavo {

void select_layer_norm(const Node& node, Selected& selected) {
  const Dims x = node.input(0)->shape().dims();
  const bool bytes = is_byte(node.output()->dtype());
  cpu::LayerNorm args;
  args.count = x.back();
  args.rows = args.count == 0 ? 0 : element_count(x) / args.count;
  args.epsilon = static_cast<float>(node.real("epsilon"));
  args.q_element = element_of(node.output()->dtype());
  args.multiplier = static_cast<float>(node.real("multiplier"));
  args.clamp_lo = static_cast<float>(node.real("clamp_lo"));
  args.clamp_hi = static_cast<float>(node.real("clamp_hi"));
  args.q_zero_point = static_cast<int32_t>(node.integer("y_zero_point"));
  selected.kernel = make_step(
      cpu::layer_norm_kernels(), args, [bytes](cpu::LayerNorm& a, StepInputs in, StepOutputs out) {
        a.x = static_cast<const float*>(in[0]);
        a.scale = static_cast<const float*>(in[1]);
        a.bias = in.size() > 2 ? static_cast<const float*>(in[2]) : nullptr;
        a.q = bytes ? out[0] : nullptr;
        a.y = bytes ? (out.size() > 1 ? static_cast<float*>(out[1]) : nullptr)
                    : static_cast<float*>(out[0]);
      });
}

}  // namespace octavo
