// Into integers and back.
#include "backends/cpu/quantized.h"
#include "codegen/kernel_step.h"
#include "codegen/selectors.h"
#include "passes/match.h"

namespace octavo {
namespace {

// One step for all elements, or one for each of `channels`; each channel has `inner` elements.
struct Parameters {
  std::vector<float> steps;
  std::vector<int32_t> zero_points;
  int64_t outer = 1, channels = 1, inner = 1;
};

void bind(cpu::Quantize& args, const void* from, void* to) {
  args.x = static_cast<const float*>(from);
  args.q = to;
}
void bind(cpu::Dequantize& args, const void* from, void* to) {
  args.q = from;
  args.x = static_cast<float*>(to);
}

template <class Args>
class QuantizeStep final : public StepKernel {
 public:
  static constexpr int64_t x_bytes = std::is_same_v<Args, cpu::Quantize> ? 4 : 1,
                           y_bytes = 5 - x_bytes;

  QuantizeStep(const cpu::Kernel<Args>& kernel, cpu::Element element, Parameters p)
      : kernel_(kernel), element_(element), p_(std::move(p)) {}
  const char* name() const override { return kernel_.name; }
  Isa isa() const override { return kernel_.isa; }
  void run(StepInputs in, StepOutputs out, StepContext context) const override {
    Args args{};
    args.element = element_;
    if (p_.inner == 1) {  // channels last, or one step for all
      args.per_channel = p_.steps.size() > 1;
      args.rows = p_.outer;
      args.channels = p_.channels;
      args.step = p_.steps.data();
      args.zero_point = p_.zero_points.data();
      bind(args, in[0], out[0]);
      return kernel_.run(args, context.pool);
    }
    args.channels = p_.inner;
    for (int64_t i = 0; i < p_.outer * p_.channels; ++i) {
      args.step = &p_.steps[static_cast<size_t>(i % p_.channels)];
      args.zero_point = &p_.zero_points[static_cast<size_t>(i % p_.channels)];
      bind(args, static_cast<const char*>(in[0]) + i * p_.inner * x_bytes,
           static_cast<char*>(out[0]) + i * p_.inner * y_bytes);
      kernel_.run(args, context.pool);
    }
  }

 private:
  const cpu::Kernel<Args>& kernel_;
  cpu::Element element_;
  Parameters p_;
};

template <class Args>
void select(const Node& node, cpu::KernelList<Args> list, const char* name, Selected& selected) {
  const auto info = quant_info(node);
  if (!info) return decline(selected, name, "the scale is not constant, or one per group");
  const DType real = node.is("quantize") ? node.input(0)->dtype() : node.output()->dtype();
  if (decline_unless_f32(selected, name, real)) return;
  if (!is_byte(info->dtype))
    return decline(selected, name, "takes 8 bits, not " + std::string(dtype_name(info->dtype)));
  Parameters p{info->scales, info->zero_points};
  const Dims dims = node.input(0)->shape().dims();
  if (info->per_tensor()) {
    p.channels = element_count(dims);
  } else {
    const auto axis = static_cast<size_t>(info->axis);
    for (size_t i = 0; i < dims.size(); ++i)
      (i < axis ? p.outer : i == axis ? p.channels : p.inner) *= dims[i];
  }
  selected.kernel = std::make_unique<QuantizeStep<Args>>(cpu::best_kernel(list),
                                                         element_of(info->dtype), std::move(p));
  selected.absorbed = {1, 2};
}

class DynamicQuantizeStep final : public StepKernel {
 public:
  DynamicQuantizeStep(const cpu::Kernel<cpu::DynamicQuantize>& kernel,
                      const cpu::DynamicQuantize& args)
      : kernel_(kernel), args_(args) {}
  const char* name() const override { return kernel_.name; }
  Isa isa() const override { return kernel_.isa; }
  size_t scratch_bytes(int) const override {
    return sizeof(float) *
           static_cast<size_t>(cpu::dynamic_quantize_scratch(args_.rows, args_.columns));
  }
  void run(StepInputs in, StepOutputs out, StepContext context) const override {
    cpu::DynamicQuantize args = args_;
    args.x = static_cast<const float*>(in[0]);
    args.q = static_cast<uint8_t*>(out[0]);
    args.scale = static_cast<float*>(out[1]);
    args.zero_point = static_cast<uint8_t*>(out[2]);
    args.scratch = reinterpret_cast<float*>(context.scratch);
    kernel_.run(args, context.pool);
  }

 private:
  const cpu::Kernel<cpu::DynamicQuantize>& kernel_;
  cpu::DynamicQuantize args_;
};

}  // namespace

void select_quantize(const Node& node, Selected& selected) {
  select(node, cpu::quantize_kernels(), "quantize", selected);
}

void select_dequantize(const Node& node, Selected& selected) {
  select(node, cpu::dequantize_kernels(), "dequantize", selected);
}

void select_dynamic_quantize(const Node& node, Selected& selected) {
  const Dims dims = node.input(0)->shape().dims();
  cpu::DynamicQuantize args;
  args.by_row = node.text("granularity") == "row";
  args.columns = dims.empty() ? 1 : dims.back();
  args.rows = args.columns == 0 ? 0 : element_count(dims) / args.columns;
  if (args.by_row && args.rows != element_count(node.output(1)->shape().dims()))
    return decline(selected, "dynamic_quantize", "rows of no elements");
  selected.kernel = std::make_unique<DynamicQuantizeStep>(
      cpu::best_kernel(cpu::dynamic_quantize_kernels()), args);
}

void select_quantize_to_nhwc(const Node& node, Selected& selected) {
  const Dims x = node.input(0)->shape().dims();
  const cpu::QuantizeToNhwc args{
      .n = x[0],
      .channels = x[1],
      .pixels = x[2] * x[3],
      .element = element_of(node.output()->dtype()),
      .step = static_cast<float>(node.real("scale")),
      .zero_point = static_cast<int32_t>(node.integer("y_zero_point")),
  };
  selected.kernel = make_step(cpu::quantize_to_nhwc_kernels(), args,
                              [](cpu::QuantizeToNhwc& a, StepInputs in, StepOutputs out) {
                                a.x = static_cast<const float*>(in[0]);
                                a.q = out[0];
                              });
}

}  // namespace octavo
