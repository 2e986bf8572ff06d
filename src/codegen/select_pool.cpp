#include <limits>

#include "backends/cpu/pool.h"
#include "codegen/kernel_step.h"
#include "codegen/selectors.h"
#include "ops/window.h"

namespace octavo {

void select_pool(const Node& node, Selected& selected) {
  const Dims x = node.input(0)->shape().dims(), y = node.output()->shape().dims();
  const ops::Window w = ops::window_of(node, node.integers("kernel"));
  const cpu::PoolShape shape{x[0],         x[1],         x[2],           x[3],
                             y[1],         y[2],         w.kernel[0],    w.kernel[1],
                             w.strides[0], w.strides[1], w.pads[0],      w.pads[1],
                             w.pads[2],    w.pads[3],    w.dilations[0], w.dilations[1]};
  const cpu::Element element = element_of(node.input(0)->dtype());
  if (node.text("mode") == "max") {
    selected.kernel = make_step(cpu::max_pool_kernels(), cpu::MaxPool{shape, element});
    return;
  }
  const int64_t taps = shape.kh * shape.kw;
  if (taps > std::numeric_limits<int32_t>::max() / 255)
    return decline(selected, "average_pool", "the sum of a window may exceed int32");
  std::vector<float> multipliers;
  if (element != cpu::Element::f32)
    for (int64_t count = 0; count <= taps; ++count)
      multipliers.push_back(static_cast<float>(node.real("multiplier")) /
                            static_cast<float>(count));
  const cpu::AveragePool args{
      .shape = shape,
      .count_include_pad = node.integer("count_include_pad") != 0,
      .x_element = element,
      .y_element = element_of(node.output()->dtype()),
      .x_zero_point = static_cast<int32_t>(node.integer("x_zero_point")),
      .y_zero_point = static_cast<int32_t>(node.integer("y_zero_point")),
      .clamp_lo = static_cast<float>(node.real("clamp_lo")),
      .clamp_hi = static_cast<float>(node.real("clamp_hi")),
  };
  selected.kernel = make_step(
      cpu::average_pool_kernels(), args,
      [multipliers = std::move(multipliers)](cpu::AveragePool& a, StepInputs in, StepOutputs out) {
        a.multipliers = multipliers.data();
        a.x = in[0];
        a.y = out[0];
      });
}

}  // namespace octavo
