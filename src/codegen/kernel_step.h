// A step that calls one kernel of a KernelList, and what the selectors share.
#pragma once
#include <utility>

#include "backends/cpu/half_type.h"
#include "backends/cpu/kernel_list.h"
#include "codegen/select.h"

namespace octavo {

using StepInputs = std::span<const void* const>;
using StepOutputs = std::span<void* const>;

// bind(args, in, out) sets the pointers of a copy of `args`.
template <class Args, class Bind>
class KernelStep final : public StepKernel {
 public:
  KernelStep(const cpu::Kernel<Args>& kernel, const Args& args, Bind bind)
      : kernel_(kernel), args_(args), bind_(std::move(bind)) {}
  const char* name() const override { return kernel_.name; }
  Isa isa() const override { return kernel_.isa; }
  void run(StepInputs in, StepOutputs out, StepContext context) const override {
    Args args = args_;
    bind_(args, in, out);
    kernel_.run(args, context.pool);
  }

 private:
  const cpu::Kernel<Args>& kernel_;
  Args args_;
  Bind bind_;
};

template <class Args, class Bind>
std::unique_ptr<const StepKernel> make_step(cpu::KernelList<Args> list, const Args& args,
                                            Bind bind) {
  return std::make_unique<KernelStep<Args, Bind>>(cpu::best_kernel(list), args, std::move(bind));
}

// For Args whose only pointers are x and y.
template <class Args>
std::unique_ptr<const StepKernel> make_step(cpu::KernelList<Args> list, const Args& args) {
  return make_step(list, args, [](Args& a, StepInputs in, StepOutputs out) {
    a.x = static_cast<decltype(a.x)>(in[0]);
    a.y = static_cast<decltype(a.y)>(out[0]);
  });
}

inline bool is_byte(DType dtype) { return dtype == DType::u8 || dtype == DType::i8; }

// Of f32, u8 or i8.
inline cpu::Element element_of(DType dtype) {
  return dtype == DType::u8   ? cpu::Element::u8
         : dtype == DType::i8 ? cpu::Element::s8
                              : cpu::Element::f32;
}

inline cpu::HalfType half_of(DType dtype) {
  return dtype == DType::f16    ? cpu::HalfType::f16
         : dtype == DType::bf16 ? cpu::HalfType::bf16
                                : cpu::HalfType::none;
}

inline void decline(Selected& selected, const char* kernel, std::string_view reason) {
  selected.declined.push_back(std::string(kernel) + ": " + std::string(reason));
}

// True, with the reason, if `dtype` is not f32.
inline bool decline_unless_f32(Selected& selected, const char* kernel, DType dtype) {
  if (dtype == DType::f32) return false;
  decline(selected, kernel, "takes f32, not " + std::string(dtype_name(dtype)));
  return true;
}

// True, with the reason, if a parameter beside input 0 is an input too.
inline bool decline_parameter_inputs(Selected& selected, const char* kernel, const Node& node) {
  for (size_t i = 1; i < node.inputs().size(); ++i)
    if (node.input(i)) {
      decline(selected, kernel, "a parameter is known only at run time");
      return true;
    }
  return false;
}

// Row-major steps in elements.
inline Dims dense_steps(const Dims& dims) {
  Dims steps(dims.size(), 1);
  for (size_t i = dims.size(); i-- > 1;) steps[i - 1] = steps[i] * dims[i];
  return steps;
}

// Steps of `from` over the dims it broadcasts to, 0 where it repeats.
inline Dims broadcast_steps(const Dims& from, const Dims& to) {
  const Dims dense = dense_steps(from);
  Dims steps(to.size(), 0);
  for (size_t i = 0; i < from.size(); ++i)
    if (from[i] != 1) steps[to.size() - from.size() + i] = dense[i];
  return steps;
}

// A box of elements that several operands walk together.
struct StridedBox {
  Dims dims;
  std::vector<Dims> steps;  // per operand, per dimension
  size_t rank() const { return dims.size(); }
};
// Without dimensions of size 1, and with those merged that are one stretch for all operands.
StridedBox merged(const StridedBox& box);

}  // namespace octavo
