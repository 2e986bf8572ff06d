// The operators on the CPU: liboctavo's elementwise functions over torch's memory.
#include <ATen/MemoryOverlap.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>
#include <ATen/ops/full.h>
#include <ATen/ops/where.h>
#include <ATen/ops/zeros_like.h>
#include <torch/library.h>

#include <cmath>

#include "parameters.h"
#include "schemas.h"

namespace octavo::torch_ops {
namespace {

using OptionalTensor = std::optional<Tensor>;

// f(x, y) from x to a new tensor of its shape and strides; a tensor that had to be copied is
// overwritten.
template <class F>
Tensor elementwise(const Tensor& x, const F& f) {
  const Tensor from = dense(x);
  Tensor y = from.is_same(x) ? at::empty_like(from) : from;
  if (x.numel() > 0) f(from, y);
  return y;
}
// The same of a gradient and x; the result lies as x does.
template <class F>
Tensor gradient(const Tensor& grad, const Tensor& x, const F& f) {
  const Tensor from = dense(x), g = in_order_of(grad.to(x.scalar_type()), from);
  Tensor y = at::empty_like(from);
  if (x.numel() > 0) f(g, from, y);
  return y;
}

void fake_nvidia(const Tensor& x, const Tensor& y, const Tensor& amax, int64_t num_bits,
                 bool is_unsigned, bool narrow_range) {
  const char* op = "fake_tensor_quant";
  with_compute_type(x, [&](auto t) {
    using T = decltype(t);
    const auto n = nvidia_scales<T>(amax, num_bits, is_unsigned, narrow_range, op);
    const auto a = nvidia_affine<T>(n, x, op);
    const bool fits = fake_quantize_elements(a.elements, source(x), target(y), is_unsigned);
    TORCH_CHECK_TYPE(fits, op, ": Negative values encountered in unsigned quantization");
  });
}

Tensor fake_tensor_quant(const Tensor& inputs, const Tensor& amax, int64_t num_bits,
                         bool is_unsigned, bool narrow_range) {
  check_float(inputs, "fake_tensor_quant", "inputs");
  return translated([&] {
    return elementwise(inputs, [&](const Tensor& x, const Tensor& y) {
      fake_nvidia(x, y, amax, num_bits, is_unsigned, narrow_range);
    });
  });
}

Tensor& fake_tensor_quant_out(const Tensor& inputs, const Tensor& amax, int64_t num_bits,
                              bool is_unsigned, bool narrow_range, Tensor& out) {
  const char* op = "fake_tensor_quant";
  check_float(inputs, op, "inputs");
  TORCH_CHECK_TYPE(out.scalar_type() == inputs.scalar_type(), op, ": out is ", out.scalar_type(),
                   ", inputs ", inputs.scalar_type());
  if (out.numel() == 0 && inputs.numel() != 0) out.resize_(inputs.sizes());
  TORCH_CHECK_VALUE(out.sizes() == inputs.sizes(), op, ": out of shape ", out.sizes(),
                    " for inputs of ", inputs.sizes());
  if (inputs.numel() == 0) return out;
  at::assert_no_internal_overlap(out);
  at::assert_no_partial_overlap(out, inputs);
  const bool direct =
      inputs.is_non_overlapping_and_dense() &&
      (out.strides() == inputs.strides() || (out.is_contiguous() && inputs.is_contiguous()));
  translated([&] {
    if (direct)
      fake_nvidia(inputs, out, amax, num_bits, is_unsigned, narrow_range);
    else
      out.copy_(fake_tensor_quant(inputs, amax, num_bits, is_unsigned, narrow_range));
  });
  return out;
}

std::tuple<Tensor, Tensor> tensor_quant(const Tensor& inputs, const Tensor& amax, int64_t num_bits,
                                        bool is_unsigned, bool narrow_range) {
  const char* op = "tensor_quant";
  check_float(inputs, op, "inputs");
  Tensor scale;
  return translated([&] {
    const Tensor x = dense(inputs);
    Tensor y = x.is_same(inputs) ? at::empty_like(x) : x;
    with_compute_type(x, [&](auto t) {
      using T = decltype(t);
      if (is_unsigned && x.numel() > 0)
        TORCH_CHECK_TYPE(!any_negative(source(x), x.numel()), op,
                         ": Negative values encountered in unsigned quantization");
      const auto n = nvidia_scales<T>(amax, num_bits, is_unsigned, narrow_range, op);
      scale = n.scale.defined() ? n.scale
                                : at::full(amax.sizes(), n.one, x.options().dtype(compute_type<T>));
      const auto a = nvidia_affine<T>(n, x, op);
      if (x.numel() > 0) quantize_elements(a.elements, source(x), target(y));
      scale = at::where(scale.eq(0), at::full({}, T(1), scale.options()), scale);
    });
    if (x.scalar_type() == at::kHalf && scale.numel() > 0)
      TORCH_CHECK_VALUE(scale.max().item<double>() <= 65504, op, ": scale is too large for FP16 (",
                        scale.max().item<double>(), "); amax is too small");
    return std::tuple(y, scale.to(x.scalar_type()));
  });
}

Tensor fake_affine_tensor_quant(const Tensor& inputs, const Tensor& min_range,
                                const Tensor& max_range, int64_t num_bits) {
  check_float(inputs, "fake_affine_tensor_quant", "inputs");
  return translated([&] {
    return elementwise(inputs, [&](const Tensor& x, const Tensor& y) {
      with_compute_type(x, [&](auto t) {
        const auto a = range_affine<decltype(t)>(x, min_range, max_range, num_bits);
        fake_quantize_elements(a.elements, source(x), target(y));
      });
    });
  });
}

Tensor scaled_e4m3(const Tensor& inputs, const OptionalTensor& amax, int64_t exponent_bits,
                   int64_t mantissa_bits) {
  const char* op = "scaled_e4m3";
  check_float(inputs, op, "inputs");
  TORCH_CHECK_NOT_IMPLEMENTED(exponent_bits == 4 && mantissa_bits == 3, op,
                              ": only 4 exponent and 3 mantissa bits are supported");
  return translated([&] {
    return elementwise(inputs, [&](const Tensor& x, const Tensor& y) {
      with_compute_type(x, [&](auto t) {
        using T = decltype(t);
        Tensor scale = at::full({}, T(1), x.options().dtype(compute_type<T>));
        if (amax) {
          scale = amax->to(compute_type<T>).contiguous().clone();
          T* values = scale.template mutable_data_ptr<T>();
          for (int64_t i = 0; i < scale.numel(); ++i) {
            TORCH_CHECK_VALUE(std::isfinite(values[i]) && values[i] >= 0, op, ": amax of ",
                              values[i], "; use finite values that are not negative");
            values[i] = T(448) / values[i];
          }
        }
        const Laid laid = lay_broadcast(scale, x, compute_type<T>, op, "amax");
        fp8_elements(laid.values.template const_data_ptr<T>(), laid.spread, source(x), target(y));
      });
    });
  });
}

// Groups lie along rows in row-major order.
Tensor ready(const Tensor& x, int64_t group_size) {
  return group_size > 0 ? x.contiguous() : dense(x);
}

Tensor quantize(const Tensor& x, const Tensor& scale, const OptionalTensor& zero_point,
                int64_t axis, int64_t group_size, int64_t bits, bool is_signed, bool narrow,
                c10::string_view arithmetic) {
  check_float(x, "quantize", "x");
  return translated([&] {
    const SchemeArguments arguments{axis, group_size, bits, is_signed, narrow, arithmetic};
    const Tensor from = ready(x, group_size);
    Tensor q = at::empty_like(from, storage_type(checked_scheme(arguments, !zero_point)));
    with_compute_type(x, [&](auto t) {
      const auto a = scheme_affine<decltype(t)>(from, scale, zero_point, arguments, "quantize");
      if (x.numel() > 0) quantize_elements(a.elements, source(from), target(q));
    });
    return q;
  });
}

Tensor dequantize(const Tensor& q, const Tensor& scale, const OptionalTensor& zero_point,
                  int64_t axis, int64_t group_size, int64_t bits, bool is_signed, bool narrow,
                  c10::string_view arithmetic) {
  const char* op = "dequantize";
  return translated([&] {
    const SchemeArguments arguments{axis, group_size, bits, is_signed, narrow, arithmetic};
    const auto stored = storage_type(checked_scheme(arguments, !zero_point));
    TORCH_CHECK_TYPE(q.scalar_type() == stored, op, ": q is ", q.scalar_type(),
                     ", integers of the scheme ", stored);
    const Tensor from = ready(q, group_size);
    const auto type = scale.scalar_type() == at::kDouble ? at::kDouble : at::kFloat;
    Tensor x = at::empty_like(from, type);
    with_compute_type(x, [&](auto t) {
      const auto a = scheme_affine<decltype(t)>(from, scale, zero_point, arguments, op);
      if (q.numel() > 0) dequantize_elements(a.elements, source(from), target(x));
    });
    return x;
  });
}

Tensor fake_quantize(const Tensor& x, const Tensor& scale, const OptionalTensor& zero_point,
                     int64_t axis, int64_t group_size, int64_t bits, bool is_signed, bool narrow,
                     c10::string_view arithmetic) {
  check_float(x, "fake_quantize", "x");
  return translated([&] {
    const Tensor from = ready(x, group_size);
    Tensor y = from.is_same(x) ? at::empty_like(from) : from;
    with_compute_type(x, [&](auto t) {
      const auto a = scheme_affine<decltype(t)>(
          from, scale, zero_point, {axis, group_size, bits, is_signed, narrow, arithmetic},
          "fake_quantize");
      if (x.numel() > 0) fake_quantize_elements(a.elements, source(from), target(y));
    });
    return y;
  });
}

Tensor fake_quantize_backward(const Tensor& grad, const Tensor& x, const Tensor& scale,
                              const OptionalTensor& zero_point, int64_t axis, int64_t group_size,
                              int64_t bits, bool is_signed, bool narrow,
                              c10::string_view arithmetic) {
  return translated([&] {
    const Tensor from = ready(x, group_size);
    return gradient(grad, from, [&](const Tensor& g, const Tensor& v, const Tensor& y) {
      with_compute_type(v, [&](auto t) {
        const auto a = scheme_affine<decltype(t)>(
            v, scale, zero_point, {axis, group_size, bits, is_signed, narrow, arithmetic},
            "fake_quantize");
        fake_quantize_gradient(a.elements, source(g), source(v), target(y));
      });
    });
  });
}

Tensor inside_gradient_op(const Tensor& grad, const Tensor& x, const Tensor& low,
                          const Tensor& high) {
  return translated([&] {
    return gradient(grad, x, [&](const Tensor& g, const Tensor& v, const Tensor& y) {
      with_compute_type(v, [&](auto t) {
        const auto b = bounds<decltype(t)>(v, low, high, "_inside_gradient");
        inside_gradient(b.elements, source(g), source(v), target(y));
      });
    });
  });
}

Tensor learnable_clip(const Tensor& x, const Tensor& low, const Tensor& high) {
  check_float(x, "learnable_clip", "x");
  return translated([&] {
    return elementwise(x, [&](const Tensor& v, const Tensor& y) {
      with_compute_type(v, [&](auto t) {
        const auto b = bounds<decltype(t)>(v, low, high, "learnable_clip");
        clip_elements(b.elements, source(v), target(y));
      });
    });
  });
}

std::tuple<Tensor, Tensor, Tensor> learnable_clip_gradient(const Tensor& grad, const Tensor& x,
                                                           const Tensor& low, const Tensor& high) {
  return translated([&] {
    Tensor gl = at::zeros_like(low), gh = at::zeros_like(high);
    Tensor gx = gradient(grad, x, [&](const Tensor& g, const Tensor& v, const Tensor& y) {
      with_compute_type(v, [&](auto t) {
        const auto b = bounds<decltype(t)>(v, low, high, "learnable_clip");
        const auto sums = [&] {
          return at::empty(b.low.sizes(), b.low.options().dtype(at::kDouble));
        };
        const Tensor below = sums(), above = sums();
        clip_gradient(b.elements, source(g), source(v), target(y), below.mutable_data_ptr<double>(),
                      above.mutable_data_ptr<double>());
        gl = summed_to(below, v, low).to(low.scalar_type());
        gh = summed_to(above, v, high).to(high.scalar_type());
      });
    });
    return std::tuple(gx, gl, gh);
  });
}

Tensor learnable_step(const Tensor& x, const Tensor& step, const OptionalTensor& zero_point,
                      int64_t axis, int64_t bits, bool is_signed, bool narrow, double) {
  return fake_quantize(x, step, zero_point, axis, 0, bits, is_signed, narrow, "onnx");
}

std::tuple<Tensor, Tensor> learnable_step_gradient(const Tensor& grad, const Tensor& x,
                                                   const Tensor& step,
                                                   const OptionalTensor& zero_point, int64_t axis,
                                                   int64_t bits, bool is_signed, bool narrow,
                                                   double grad_scale) {
  return translated([&] {
    Tensor gs = at::zeros_like(step);
    Tensor gx = gradient(grad, x, [&](const Tensor& g, const Tensor& v, const Tensor& y) {
      with_compute_type(v, [&](auto t) {
        const auto a = scheme_affine<decltype(t)>(
            v, step, zero_point, {axis, 0, bits, is_signed, narrow, "onnx"}, "learnable_step");
        const Tensor sums = at::empty(step.sizes(), step.options().dtype(at::kDouble));
        step_gradient(a.elements, source(g), source(v), target(y), sums.mutable_data_ptr<double>());
        gs = sums.mul(grad_scale).to(step.scalar_type());
      });
    });
    return std::tuple(gx, gs);
  });
}

}  // namespace

TORCH_LIBRARY(octavo, m) {
  for (const char* schema : schemas) m.def(schema);
}

TORCH_LIBRARY_IMPL(octavo, CPU, m) {
  m.impl("fake_tensor_quant", fake_tensor_quant);
  m.impl("fake_tensor_quant.out", fake_tensor_quant_out);
  m.impl("tensor_quant", tensor_quant);
  m.impl("fake_affine_tensor_quant", fake_affine_tensor_quant);
  m.impl("scaled_e4m3", scaled_e4m3);
  m.impl("quantize", quantize);
  m.impl("dequantize", dequantize);
  m.impl("fake_quantize", fake_quantize);
  m.impl("learnable_clip", learnable_clip);
  m.impl("learnable_step", learnable_step);
  m.impl("_inside_gradient", inside_gradient_op);
  m.impl("_fake_quantize_gradient", fake_quantize_backward);
  m.impl("_learnable_clip_gradient", learnable_clip_gradient);
  m.impl("_learnable_step_gradient", learnable_step_gradient);
}

}  // namespace octavo::torch_ops
