// Gradients, meta kernels and autocast of the operators.
//
// Gradients are operators too, so that a traced graph holds them; each is linear in the incoming
// gradient, and is its own gradient with respect to it. Where none is wanted a call goes straight
// on.
#include <ATen/ExpandUtils.h>
#include <ATen/ops/empty_like.h>
#include <torch/csrc/autograd/custom_function.h>
#include <torch/library.h>

#include "parameters.h"
#include "schemas.h"

namespace octavo::torch_ops {
namespace {

using torch::autograd::AutogradContext;
using torch::autograd::Variable;
using torch::autograd::variable_list;
using OptionalTensor = std::optional<Tensor>;
using at::AutoDispatchBelowADInplaceOrView;

template <class Signature>
c10::TypedOperatorHandle<Signature> find(const char* name, const char* overload = "") {
  return c10::Dispatcher::singleton().findSchemaOrThrow(name, overload).template typed<Signature>();
}

bool tracked(const Tensor& x) {
  return (at::GradMode::is_enabled() && x.requires_grad()) || x._fw_grad(0).defined();
}
Tensor optional_or_none(const OptionalTensor& x) { return x ? *x : Tensor(); }
OptionalTensor none_or_optional(const Tensor& x) {
  return x.defined() ? OptionalTensor(x) : std::nullopt;
}

// --- grad where low <= x <= high

Tensor inside(const Tensor& grad, const Tensor& x, const Tensor& low, const Tensor& high) {
  static const auto op = find<Tensor(const Tensor&, const Tensor&, const Tensor&, const Tensor&)>(
      "octavo::_inside_gradient");
  return op.call(grad, x, low, high);
}
struct Inside : torch::autograd::Function<Inside> {
  static Tensor forward(AutogradContext* ctx, const Tensor& grad, const Tensor& x,
                        const Tensor& low, const Tensor& high) {
    const AutoDispatchBelowADInplaceOrView below;
    ctx->save_for_backward({x, low, high});
    return inside(grad, x, low, high);
  }
  static variable_list backward(AutogradContext* ctx, const variable_list& grads) {
    const auto saved = ctx->get_saved_variables();
    return {inside(grads[0], saved[0], saved[1], saved[2]), Variable(), Variable(), Variable()};
  }
};
Tensor inside_autograd(const Tensor& grad, const Tensor& x, const Tensor& low, const Tensor& high) {
  if (tracked(grad)) return Inside::apply(grad, x, low, high);
  const AutoDispatchBelowADInplaceOrView below;
  return inside(grad, x, low, high);
}

// --- fake_tensor_quant, tensor_quant

using NvidiaFake = Tensor(const Tensor&, const Tensor&, int64_t, bool, bool);
Tensor fake_tensor_quant(const Tensor& x, const Tensor& amax, int64_t bits, bool is_unsigned,
                         bool narrow) {
  static const auto op = find<NvidiaFake>("octavo::fake_tensor_quant");
  return op.call(x, amax, bits, is_unsigned, narrow);
}
struct FakeTensorQuant : torch::autograd::Function<FakeTensorQuant> {
  static Tensor forward(AutogradContext* ctx, const Tensor& x, const Tensor& amax, int64_t bits,
                        bool is_unsigned, bool narrow) {
    const AutoDispatchBelowADInplaceOrView below;
    ctx->save_for_backward({x, amax});
    return fake_tensor_quant(x, amax, bits, is_unsigned, narrow);
  }
  static variable_list backward(AutogradContext* ctx, const variable_list& grads) {
    const auto saved = ctx->get_saved_variables();
    return {inside(grads[0], saved[0], saved[1].neg(), saved[1]), Variable(), Variable(),
            Variable(), Variable()};
  }
};
Tensor fake_tensor_quant_autograd(const Tensor& x, const Tensor& amax, int64_t bits,
                                  bool is_unsigned, bool narrow) {
  if (tracked(x)) return FakeTensorQuant::apply(x, amax, bits, is_unsigned, narrow);
  const AutoDispatchBelowADInplaceOrView below;
  return fake_tensor_quant(x, amax, bits, is_unsigned, narrow);
}
Tensor& fake_tensor_quant_out_autograd(const Tensor& x, const Tensor& amax, int64_t bits,
                                       bool is_unsigned, bool narrow, Tensor& out) {
  static const auto op = find<Tensor&(const Tensor&, const Tensor&, int64_t, bool, bool, Tensor&)>(
      "octavo::fake_tensor_quant", "out");
  TORCH_CHECK(!tracked(x) && !tracked(out),
              "fake_tensor_quant: arguments that require a gradient do not go with out=; call it "
              "without, or under torch.no_grad()");
  {
    const at::AutoDispatchBelowAutograd below;
    op.call(x, amax, bits, is_unsigned, narrow, out);
  }
  return out;
}

using TensorQuantSignature = std::tuple<Tensor, Tensor>(const Tensor&, const Tensor&, int64_t, bool,
                                                        bool);
std::tuple<Tensor, Tensor> tensor_quant(const Tensor& x, const Tensor& amax, int64_t bits,
                                        bool is_unsigned, bool narrow) {
  static const auto op = find<TensorQuantSignature>("octavo::tensor_quant");
  return op.call(x, amax, bits, is_unsigned, narrow);
}
struct TensorQuant : torch::autograd::Function<TensorQuant> {
  static variable_list forward(AutogradContext* ctx, const Tensor& x, const Tensor& amax,
                               int64_t bits, bool is_unsigned, bool narrow) {
    const AutoDispatchBelowADInplaceOrView below;
    ctx->save_for_backward({x, amax});
    auto [outputs, scale] = tensor_quant(x, amax, bits, is_unsigned, narrow);
    ctx->mark_non_differentiable({scale});
    return {outputs, scale};
  }
  static variable_list backward(AutogradContext* ctx, const variable_list& grads) {
    const auto saved = ctx->get_saved_variables();
    return {inside(grads[0], saved[0], saved[1].neg(), saved[1]), Variable(), Variable(),
            Variable(), Variable()};
  }
};
std::tuple<Tensor, Tensor> tensor_quant_autograd(const Tensor& x, const Tensor& amax, int64_t bits,
                                                 bool is_unsigned, bool narrow) {
  if (tracked(x)) {
    auto results = TensorQuant::apply(x, amax, bits, is_unsigned, narrow);
    return {results[0], results[1]};
  }
  const AutoDispatchBelowADInplaceOrView below;
  return tensor_quant(x, amax, bits, is_unsigned, narrow);
}

// --- fake_affine_tensor_quant

using AffineFake = Tensor(const Tensor&, const Tensor&, const Tensor&, int64_t);
Tensor fake_affine(const Tensor& x, const Tensor& least, const Tensor& most, int64_t bits) {
  static const auto op = find<AffineFake>("octavo::fake_affine_tensor_quant");
  return op.call(x, least, most, bits);
}
struct FakeAffine : torch::autograd::Function<FakeAffine> {
  static Tensor forward(AutogradContext* ctx, const Tensor& x, const Tensor& least,
                        const Tensor& most, int64_t bits) {
    const AutoDispatchBelowADInplaceOrView below;
    ctx->save_for_backward({x, least, most});
    return fake_affine(x, least, most, bits);
  }
  static variable_list backward(AutogradContext* ctx, const variable_list& grads) {
    const auto saved = ctx->get_saved_variables();
    return {inside(grads[0], saved[0], saved[1], saved[2]), Variable(), Variable(), Variable()};
  }
};
Tensor fake_affine_autograd(const Tensor& x, const Tensor& least, const Tensor& most,
                            int64_t bits) {
  if (tracked(x)) return FakeAffine::apply(x, least, most, bits);
  const AutoDispatchBelowADInplaceOrView below;
  return fake_affine(x, least, most, bits);
}

// --- scaled_e4m3

using E4m3 = Tensor(const Tensor&, const OptionalTensor&, int64_t, int64_t);
Tensor scaled_e4m3(const Tensor& x, const OptionalTensor& amax, int64_t exponent,
                   int64_t mantissa) {
  static const auto op = find<E4m3>("octavo::scaled_e4m3");
  return op.call(x, amax, exponent, mantissa);
}
struct ScaledE4m3 : torch::autograd::Function<ScaledE4m3> {
  static Tensor forward(AutogradContext* ctx, const Tensor& x, const OptionalTensor& amax,
                        int64_t exponent, int64_t mantissa) {
    const AutoDispatchBelowADInplaceOrView below;
    ctx->save_for_backward({x, amax ? *amax : at::full({}, 448.0, x.options())});
    return scaled_e4m3(x, amax, exponent, mantissa);
  }
  static variable_list backward(AutogradContext* ctx, const variable_list& grads) {
    const auto saved = ctx->get_saved_variables();
    return {inside(grads[0], saved[0], saved[1].neg(), saved[1]), Variable(), Variable(),
            Variable()};
  }
};
Tensor scaled_e4m3_autograd(const Tensor& x, const OptionalTensor& amax, int64_t exponent,
                            int64_t mantissa) {
  if (tracked(x)) return ScaledE4m3::apply(x, amax, exponent, mantissa);
  const AutoDispatchBelowADInplaceOrView below;
  return scaled_e4m3(x, amax, exponent, mantissa);
}

// --- fake_quantize

using SchemeFake = Tensor(const Tensor&, const Tensor&, const OptionalTensor&, int64_t, int64_t,
                          int64_t, bool, bool, c10::string_view);
using SchemeGradient = Tensor(const Tensor&, const Tensor&, const Tensor&, const OptionalTensor&,
                              int64_t, int64_t, int64_t, bool, bool, c10::string_view);
Tensor fake_quantize(const Tensor& x, const Tensor& scale, const OptionalTensor& zero_point,
                     const SchemeArguments& a) {
  static const auto op = find<SchemeFake>("octavo::fake_quantize");
  return op.call(x, scale, zero_point, a.axis, a.group_size, a.bits, a.is_signed, a.narrow,
                 a.arithmetic);
}
Tensor fake_quantize_gradient_op(const Tensor& grad, const Tensor& x, const Tensor& scale,
                                 const OptionalTensor& zero_point, const SchemeArguments& a) {
  static const auto op = find<SchemeGradient>("octavo::_fake_quantize_gradient");
  return op.call(grad, x, scale, zero_point, a.axis, a.group_size, a.bits, a.is_signed, a.narrow,
                 a.arithmetic);
}
void save_scheme(AutogradContext* ctx, const SchemeArguments& a) {
  ctx->saved_data["scheme"] =
      std::vector<int64_t>{a.axis, a.group_size, a.bits, a.is_signed, a.narrow};
  ctx->saved_data["arithmetic"] = std::string(a.arithmetic);
}
// f(arguments), which point into the context.
template <class F>
auto with_saved_scheme(AutogradContext* ctx, const F& f) {
  const auto numbers = ctx->saved_data["scheme"].toIntVector();
  const std::string& arithmetic = ctx->saved_data["arithmetic"].toStringRef();
  return f(SchemeArguments{numbers[0], numbers[1], numbers[2], numbers[3] != 0, numbers[4] != 0,
                           arithmetic});
}
struct FakeQuantizeGradient : torch::autograd::Function<FakeQuantizeGradient> {
  static Tensor forward(AutogradContext* ctx, const Tensor& grad, const Tensor& x,
                        const Tensor& scale, const OptionalTensor& zero_point,
                        const SchemeArguments& a) {
    const AutoDispatchBelowADInplaceOrView below;
    ctx->save_for_backward({x, scale, optional_or_none(zero_point)});
    save_scheme(ctx, a);
    return fake_quantize_gradient_op(grad, x, scale, zero_point, a);
  }
  static variable_list backward(AutogradContext* ctx, const variable_list& grads) {
    const auto saved = ctx->get_saved_variables();
    return with_saved_scheme(ctx, [&](const SchemeArguments& a) {
      return variable_list{
          fake_quantize_gradient_op(grads[0], saved[0], saved[1], none_or_optional(saved[2]), a),
          Variable(), Variable(), Variable(), Variable()};
    });
  }
};
struct FakeQuantize : torch::autograd::Function<FakeQuantize> {
  static Tensor forward(AutogradContext* ctx, const Tensor& x, const Tensor& scale,
                        const OptionalTensor& zero_point, const SchemeArguments& a) {
    const AutoDispatchBelowADInplaceOrView below;
    ctx->save_for_backward({x, scale, optional_or_none(zero_point)});
    save_scheme(ctx, a);
    return fake_quantize(x, scale, zero_point, a);
  }
  static variable_list backward(AutogradContext* ctx, const variable_list& grads) {
    const auto saved = ctx->get_saved_variables();
    return with_saved_scheme(ctx, [&](const SchemeArguments& a) {
      return variable_list{
          fake_quantize_gradient_op(grads[0], saved[0], saved[1], none_or_optional(saved[2]), a),
          Variable(), Variable(), Variable()};
    });
  }
};
Tensor fake_quantize_autograd(const Tensor& x, const Tensor& scale,
                              const OptionalTensor& zero_point, int64_t axis, int64_t group_size,
                              int64_t bits, bool is_signed, bool narrow,
                              c10::string_view arithmetic) {
  const SchemeArguments a{axis, group_size, bits, is_signed, narrow, arithmetic};
  if (tracked(x)) return FakeQuantize::apply(x, scale, zero_point, a);
  const AutoDispatchBelowADInplaceOrView below;
  return fake_quantize(x, scale, zero_point, a);
}
Tensor fake_quantize_gradient_autograd(const Tensor& grad, const Tensor& x, const Tensor& scale,
                                       const OptionalTensor& zero_point, int64_t axis,
                                       int64_t group_size, int64_t bits, bool is_signed,
                                       bool narrow, c10::string_view arithmetic) {
  const SchemeArguments a{axis, group_size, bits, is_signed, narrow, arithmetic};
  if (tracked(grad)) return FakeQuantizeGradient::apply(grad, x, scale, zero_point, a);
  const AutoDispatchBelowADInplaceOrView below;
  return fake_quantize_gradient_op(grad, x, scale, zero_point, a);
}

// --- learnable_clip

using Clip = Tensor(const Tensor&, const Tensor&, const Tensor&);
using ClipGradient = std::tuple<Tensor, Tensor, Tensor>(const Tensor&, const Tensor&, const Tensor&,
                                                        const Tensor&);
Tensor learnable_clip(const Tensor& x, const Tensor& low, const Tensor& high) {
  static const auto op = find<Clip>("octavo::learnable_clip");
  return op.call(x, low, high);
}
struct LearnableClip : torch::autograd::Function<LearnableClip> {
  static Tensor forward(AutogradContext* ctx, const Tensor& x, const Tensor& low,
                        const Tensor& high) {
    const AutoDispatchBelowADInplaceOrView below;
    ctx->save_for_backward({x, low, high});
    return learnable_clip(x, low, high);
  }
  static variable_list backward(AutogradContext* ctx, const variable_list& grads) {
    static const auto op = find<ClipGradient>("octavo::_learnable_clip_gradient");
    const auto saved = ctx->get_saved_variables();
    auto [gx, gl, gh] = op.call(grads[0], saved[0], saved[1], saved[2]);
    return {gx, gl, gh};
  }
};
Tensor learnable_clip_autograd(const Tensor& x, const Tensor& low, const Tensor& high) {
  if (tracked(x) || tracked(low) || tracked(high)) return LearnableClip::apply(x, low, high);
  const AutoDispatchBelowADInplaceOrView below;
  return learnable_clip(x, low, high);
}

// --- learnable_step

using Step = Tensor(const Tensor&, const Tensor&, const OptionalTensor&, int64_t, int64_t, bool,
                    bool, double);
using StepGradient = std::tuple<Tensor, Tensor>(const Tensor&, const Tensor&, const Tensor&,
                                                const OptionalTensor&, int64_t, int64_t, bool, bool,
                                                double);
Tensor learnable_step(const Tensor& x, const Tensor& step, const OptionalTensor& zero_point,
                      int64_t axis, int64_t bits, bool is_signed, bool narrow, double grad_scale) {
  static const auto op = find<Step>("octavo::learnable_step");
  return op.call(x, step, zero_point, axis, bits, is_signed, narrow, grad_scale);
}
struct LearnableStep : torch::autograd::Function<LearnableStep> {
  static Tensor forward(AutogradContext* ctx, const Tensor& x, const Tensor& step,
                        const OptionalTensor& zero_point, int64_t axis, int64_t bits,
                        bool is_signed, bool narrow, double grad_scale) {
    const AutoDispatchBelowADInplaceOrView below;
    ctx->save_for_backward({x, step, optional_or_none(zero_point)});
    ctx->saved_data["scheme"] = std::vector<int64_t>{axis, bits, is_signed, narrow};
    ctx->saved_data["grad_scale"] = grad_scale;
    return learnable_step(x, step, zero_point, axis, bits, is_signed, narrow, grad_scale);
  }
  static variable_list backward(AutogradContext* ctx, const variable_list& grads) {
    static const auto op = find<StepGradient>("octavo::_learnable_step_gradient");
    const auto saved = ctx->get_saved_variables();
    const auto s = ctx->saved_data["scheme"].toIntVector();
    auto [gx, gs] = op.call(grads[0], saved[0], saved[1], none_or_optional(saved[2]), s[0], s[1],
                            s[2] != 0, s[3] != 0, ctx->saved_data["grad_scale"].toDouble());
    return {gx, gs, Variable(), Variable(), Variable(), Variable(), Variable(), Variable()};
  }
};
Tensor learnable_step_autograd(const Tensor& x, const Tensor& step,
                               const OptionalTensor& zero_point, int64_t axis, int64_t bits,
                               bool is_signed, bool narrow, double grad_scale) {
  if (tracked(x) || tracked(step))
    return LearnableStep::apply(x, step, zero_point, axis, bits, is_signed, narrow, grad_scale);
  const AutoDispatchBelowADInplaceOrView below;
  return learnable_step(x, step, zero_point, axis, bits, is_signed, narrow, grad_scale);
}

}  // namespace

TORCH_LIBRARY_IMPL(octavo, Autograd, m) {
  m.impl("fake_tensor_quant", fake_tensor_quant_autograd);
  m.impl("fake_tensor_quant.out", fake_tensor_quant_out_autograd);
  m.impl("tensor_quant", tensor_quant_autograd);
  m.impl("fake_affine_tensor_quant", fake_affine_autograd);
  m.impl("scaled_e4m3", scaled_e4m3_autograd);
  m.impl("fake_quantize", fake_quantize_autograd);
  m.impl("learnable_clip", learnable_clip_autograd);
  m.impl("learnable_step", learnable_step_autograd);
  m.impl("_inside_gradient", inside_autograd);
  m.impl("_fake_quantize_gradient", fake_quantize_gradient_autograd);
}

// A result has its input's type whatever autocast says, as torch's own fake_quantize operators do:
// computing is in float32 in any case.
TORCH_LIBRARY_IMPL(octavo, AutocastCPU, m) {
  for (const char* name :
       {"fake_tensor_quant", "tensor_quant", "fake_affine_tensor_quant", "scaled_e4m3", "quantize",
        "dequantize", "fake_quantize", "learnable_clip", "learnable_step"})
    m.impl(name, torch::CppFunction::makeFallthrough());
}

}  // namespace octavo::torch_ops
