// Integer layers of octavo.quantization over liboctavo's kernels. Tensors between layers are
// torch's quantized ones; every product and conversion is liboctavo's.
#include <ATen/ATen.h>
#include <ATen/native/quantized/cpu/QuantUtils.h>
#include <torch/custom_class.h>
#include <torch/library.h>

#include <algorithm>
#include <cmath>
#include <mutex>

#include "backends/cpu/conv.h"
#include "backends/cpu/quantized.h"
#include "linear_int8.h"
#include "support/thread_pool.h"

namespace octavo::torch_ops {
namespace {

using at::Tensor;
using cpu::Element;

Element element_of(at::ScalarType type, const char* what) {
  TORCH_CHECK_TYPE(type == at::kQUInt8 || type == at::kQInt8, what, ": takes quint8 or qint8, not ",
                   type);
  return type == at::kQUInt8 ? Element::u8 : Element::s8;
}

Tensor empty_quantized(at::IntArrayRef sizes, at::ScalarType type, double scale, int64_t zero_point,
                       at::MemoryFormat format) {
  TORCH_CHECK_VALUE(std::isfinite(scale) && scale > 0, "scale ", scale,
                    " is not positive and finite");
  const Element element = element_of(type, "quantize");
  TORCH_CHECK_VALUE(element == Element::u8 ? zero_point >= 0 && zero_point <= 255
                                           : zero_point >= -128 && zero_point <= 127,
                    "zero point ", zero_point, " is outside ", type);
  return at::_empty_affine_quantized(sizes, at::device(at::kCPU).dtype(type), scale, zero_point,
                                     format);
}

// As the layers want it: pixels of channels, where there are pixels.
at::MemoryFormat layer_format(int64_t rank) {
  return rank == 4 ? at::MemoryFormat::ChannelsLast : at::MemoryFormat::Contiguous;
}

// What a weight is made of.
struct Weight {
  std::vector<int8_t> values;
  std::vector<float> step, bias;
  std::vector<int32_t> zero_point;
};

Weight read_weight(const Tensor& weight, const std::optional<Tensor>& bias, const char* what) {
  TORCH_CHECK_TYPE(weight.scalar_type() == at::kQInt8, what, ": the weight is ",
                   weight.scalar_type(), ", not qint8");
  Weight w;
  const int64_t n = weight.size(0);
  const Tensor values = weight.int_repr().contiguous();
  w.values.assign(values.const_data_ptr<int8_t>(),
                  values.const_data_ptr<int8_t>() + values.numel());
  Tensor step, zero;
  if (weight.qscheme() == at::kPerTensorAffine) {
    step = at::full({n}, weight.q_scale(), at::kFloat);
    zero = at::full({n}, weight.q_zero_point(), at::kInt);
  } else {
    TORCH_CHECK_VALUE(weight.qscheme() == at::kPerChannelAffine && weight.q_per_channel_axis() == 0,
                      what, ": weights are quantized per tensor, or per channel on axis 0");
    step = weight.q_per_channel_scales().to(at::kFloat).contiguous();
    zero = weight.q_per_channel_zero_points().to(at::kInt).contiguous();
  }
  w.step.assign(step.const_data_ptr<float>(), step.const_data_ptr<float>() + n);
  w.zero_point.assign(zero.const_data_ptr<int32_t>(), zero.const_data_ptr<int32_t>() + n);
  for (const float s : w.step)
    TORCH_CHECK_VALUE(std::isfinite(s) && s > 0, what, ": a weight's scale is ", s);
  for (const int32_t z : w.zero_point)
    TORCH_CHECK_VALUE(z >= -128 && z <= 127, what, ": a weight's zero point is ", z);
  if (bias) {
    TORCH_CHECK_VALUE(bias->numel() == n, what, ": ", bias->numel(), " biases for ", n, " outputs");
    const Tensor b = bias->detach().to(at::kFloat).contiguous();
    w.bias.assign(b.const_data_ptr<float>(), b.const_data_ptr<float>() + n);
  }
  return w;
}

cpu::LinearInt8 packed_linear(const Tensor& weight, const std::optional<Tensor>& bias) {
  TORCH_CHECK_VALUE(weight.dim() == 2 && weight.numel() > 0, "linear: the weight is not a matrix");
  const Weight w = read_weight(weight, bias, "linear");
  cpu::LinearInt8Weights packed;
  packed.n = weight.size(0);
  packed.k = weight.size(1);
  packed.weights = w.values.data();
  packed.step = w.step.data();
  packed.zero_point = w.zero_point.data();
  packed.bias = w.bias.empty() ? nullptr : w.bias.data();
  return cpu::LinearInt8(packed);
}

std::vector<int64_t> output_sizes(const cpu::LinearInt8& layer, const Tensor& x) {
  TORCH_CHECK_VALUE(x.dim() >= 1 && x.size(-1) == layer.k(), "linear: the input's last axis is ",
                    x.dim() ? x.size(-1) : 0, ", the weight's ", layer.k());
  std::vector<int64_t> sizes = x.sizes().vec();
  sizes.back() = layer.n();
  return sizes;
}

// One convolution's kernels for a shape and for parameters of input and output.
struct ConvKernels {
  cpu::ConvShape shape;
  at::ScalarType type = at::kQUInt8;
  double x_scale = 0, y_scale = 0;
  int64_t x_zero = 0, y_zero = 0;
  bool relu = false;
  // More than one where weights have zero points: each adds a part of them to what is before it.
  std::vector<std::unique_ptr<cpu::ConvKernel>> kernels;
  std::vector<float> residual;  // biases too large for the accumulator

  bool same(const ConvKernels& o) const {
    return shape.n == o.shape.n && shape.h == o.shape.h && shape.w == o.shape.w && type == o.type &&
           x_scale == o.x_scale && y_scale == o.y_scale && x_zero == o.x_zero &&
           y_zero == o.y_zero && relu == o.relu;
  }
};

class ConvInt8 : public torch::CustomClassHolder {
 public:
  ConvInt8(const Tensor& weight, const std::optional<Tensor>& bias, std::vector<int64_t> stride,
           std::vector<int64_t> padding, std::vector<int64_t> dilation, int64_t groups)
      : weight_(read_weight(weight, bias, "conv")) {
    TORCH_CHECK_VALUE(weight.dim() == 4 && weight.numel() > 0 && stride.size() == 2 &&
                          padding.size() == 2 && dilation.size() == 2 && groups >= 1 &&
                          weight.size(0) % groups == 0,
                      "conv: the weight is not of a two-dimensional convolution");
    for (int i = 0; i < 2; ++i)
      TORCH_CHECK_VALUE(stride[i] > 0 && dilation[i] > 0 && padding[i] >= 0,
                        "conv: stride, padding or dilation");
    shape_.c_out = weight.size(0);
    shape_.c_in = weight.size(1) * groups;
    shape_.kh = weight.size(2);
    shape_.kw = weight.size(3);
    shape_.stride_h = stride[0];
    shape_.stride_w = stride[1];
    shape_.pad_top = padding[0];
    shape_.pad_left = padding[1];
    shape_.dilation_h = dilation[0];
    shape_.dilation_w = dilation[1];
    shape_.groups = groups;
  }

  Tensor integer(const Tensor& input, double scale, int64_t zero_point, bool relu) {
    element_of(input.scalar_type(), "conv_int8");
    TORCH_CHECK_VALUE(input.dim() == 4 && input.size(1) == shape_.c_in, "conv_int8: an input of ",
                      input.sizes(), " for ", shape_.c_in, " channels");
    const Tensor x = input.contiguous(at::MemoryFormat::ChannelsLast);
    ConvKernels want;
    want.shape = shape_;
    want.shape.n = x.size(0);
    want.shape.h = x.size(2);
    want.shape.w = x.size(3);
    const auto outputs = [](int64_t size, int64_t pad, int64_t dilation, int64_t k, int64_t step) {
      return (size + 2 * pad - dilation * (k - 1) - 1) / step + 1;
    };
    const cpu::ConvShape& s = want.shape;
    want.shape.oh = outputs(s.h, s.pad_top, s.dilation_h, s.kh, s.stride_h);
    want.shape.ow = outputs(s.w, s.pad_left, s.dilation_w, s.kw, s.stride_w);
    TORCH_CHECK_VALUE(x.numel() > 0 && s.h + 2 * s.pad_top > s.dilation_h * (s.kh - 1) &&
                          s.w + 2 * s.pad_left > s.dilation_w * (s.kw - 1),
                      "conv_int8: an input of ", input.sizes(), " is smaller than the window");
    want.type = x.scalar_type();
    want.x_scale = x.q_scale();
    want.x_zero = x.q_zero_point();
    want.y_scale = scale;
    want.y_zero = zero_point;
    want.relu = relu;
    Tensor y = empty_quantized({s.n, s.c_out, s.oh, s.ow}, x.scalar_type(), scale, zero_point,
                               at::MemoryFormat::ChannelsLast);
    const std::shared_ptr<const ConvKernels> made = kernels(std::move(want));
    ThreadPool& pool = default_pool();
    const auto run = [&](const cpu::ConvKernel& kernel, const void* residual, void* to) {
      cpu::AlignedArray<uint8_t> scratch(static_cast<int64_t>(kernel.scratch_bytes(pool.size())));
      kernel.run({x.data_ptr(), residual, to, scratch.data()}, pool);
    };
    const void* residual = made->residual.empty() ? nullptr : made->residual.data();
    Tensor sums[2];
    for (size_t i = 0; i < made->kernels.size(); ++i) {
      void* to = y.data_ptr();
      if (i + 1 < made->kernels.size()) {
        Tensor& sum = sums[i % 2];
        if (!sum.defined()) sum = at::empty({y.numel()}, at::kFloat);
        to = sum.data_ptr();
      }
      run(*made->kernels[i], residual, to);
      residual = to;
    }
    return y;
  }

 private:
  std::shared_ptr<const ConvKernels> kernels(ConvKernels want) {
    const std::lock_guard lock(mutex_);
    for (const auto& known : made_)
      if (known->same(want)) return known;
    auto made = std::make_shared<ConvKernels>(std::move(want));
    make(*made);
    constexpr size_t most = 4;  // shapes that take turns
    if (made_.size() == most) made_.erase(made_.begin());
    made_.push_back(made);
    return made;
  }

  void make(ConvKernels& k) const {
    const size_t n = weight_.step.size();
    const auto count = weight_.values.size() / n;
    std::vector<float> multiplier(n);
    std::vector<int32_t> bias(n);
    bool whole_bias = true;
    for (size_t c = 0; c < n; ++c) {
      const double step = k.x_scale * static_cast<double>(weight_.step[c]);
      multiplier[c] = static_cast<float>(step / k.y_scale);
      if (weight_.bias.empty()) continue;
      const double b = std::nearbyint(weight_.bias[c] / step);
      whole_bias = whole_bias && std::abs(b) < 0x1p30;
      bias[c] = whole_bias ? static_cast<int32_t>(b) : 0;
    }
    const bool biased = !weight_.bias.empty();
    if (biased && !whole_bias) {
      k.residual.resize(static_cast<size_t>(k.shape.n * k.shape.oh * k.shape.ow) * n);
      for (size_t i = 0; i < k.residual.size(); ++i)
        k.residual[i] = static_cast<float>(weight_.bias[i % n] / k.y_scale);
    }
    cpu::ConvProblem p;
    p.shape = k.shape;
    p.x = k.type == at::kQUInt8 ? Element::u8 : Element::s8;
    p.x_zero_point = static_cast<int32_t>(k.x_zero);
    p.multiplier = multiplier.data();
    if (!k.residual.empty()) p.residual = Element::f32;
    const bool last_bias = biased && whole_bias;
    std::vector<int> rest(weight_.values.size());
    for (size_t i = 0; i < rest.size(); ++i)
      rest[i] = weight_.values[i] - weight_.zero_point[i / count];
    for (bool last = false; !last;) {
      std::vector<int8_t> part(rest.size());
      last = true;
      for (size_t i = 0; i < rest.size(); ++i) {
        part[i] = static_cast<int8_t>(std::clamp(rest[i], -128, 127));
        rest[i] -= part[i];
        last = last && rest[i] == 0;
      }
      p.weights = part.data();
      if (last) {
        if (last_bias) p.bias_i32 = bias.data();
        p.y = p.x;
        p.y_zero_point = static_cast<int32_t>(k.y_zero);
        if (k.relu) p.clamp_lo = 0;
      }
      k.kernels.push_back(cpu::make_conv(p));
      p.residual = Element::f32;
    }
  }

  cpu::ConvShape shape_;
  Weight weight_;
  std::mutex mutex_;
  std::vector<std::shared_ptr<const ConvKernels>> made_;
};

Tensor linear_dynamic(const Tensor& input, const c10::intrusive_ptr<LinearInt8>& linear,
                      bool relu) {
  const cpu::LinearInt8& layer = linear->layer();
  TORCH_CHECK_TYPE(input.scalar_type() == at::kFloat, "linear_dynamic: takes float32, not ",
                   input.scalar_type());
  const auto x = input.expect_contiguous();
  Tensor y = at::empty(output_sizes(layer, *x), x->options());
  cpu::LinearInt8Output out;
  out.y = y.mutable_data_ptr<float>();
  if (relu) out.clamp_lo = 0;
  TORCH_CHECK_VALUE(
      layer.run_dynamic(x->numel() / layer.k(), x->const_data_ptr<float>(), out, default_pool()),
      "linear_dynamic: the input holds NaN or infinity");
  return y;
}

Tensor linear_int8(const Tensor& input, const c10::intrusive_ptr<LinearInt8>& linear, double scale,
                   int64_t zero_point, bool relu) {
  const cpu::LinearInt8& layer = linear->layer();
  const Element element = element_of(input.scalar_type(), "linear_int8");
  const auto x = input.expect_contiguous();
  Tensor y = empty_quantized(output_sizes(layer, *x), input.scalar_type(), scale, zero_point,
                             at::MemoryFormat::Contiguous);
  cpu::LinearInt8Output out;
  out.element = element;
  out.step = static_cast<float>(scale);
  out.zero_point = static_cast<int32_t>(zero_point);
  out.y = y.data_ptr();
  if (relu) out.clamp_lo = 0;
  layer.run(x->numel() / layer.k(), x->data_ptr(), element, static_cast<float>(input.q_scale()),
            static_cast<int32_t>(input.q_zero_point()), out, default_pool());
  return y;
}

Tensor conv_int8(const Tensor& x, const c10::intrusive_ptr<ConvInt8>& layer, double scale,
                 int64_t zero_point, bool relu) {
  return layer->integer(x, scale, zero_point, relu);
}

Tensor quantize_tensor(const Tensor& input, double scale, int64_t zero_point, at::ScalarType type) {
  TORCH_CHECK_TYPE(input.scalar_type() == at::kFloat, "quantize: takes float32, not ",
                   input.scalar_type());
  const Element element = element_of(type, "quantize");
  const auto step = static_cast<float>(scale);
  const auto zero = static_cast<int32_t>(zero_point);
  Tensor q = empty_quantized(input.sizes(), type, scale, zero_point, layer_format(input.dim()));
  const Tensor x = input.contiguous(layer_format(input.dim()));
  cpu::Quantize quantize;
  quantize.channels = x.numel();
  quantize.reciprocal = true;
  quantize.element = element;
  quantize.step = &step;
  quantize.zero_point = &zero;
  quantize.x = x.const_data_ptr<float>();
  quantize.q = q.data_ptr();
  cpu::best_kernel(cpu::quantize_kernels()).run(quantize, default_pool());
  return q;
}

Tensor dequantize_tensor(const Tensor& input) {
  const Element element = element_of(input.scalar_type(), "dequantize");
  TORCH_CHECK_VALUE(input.qscheme() == at::kPerTensorAffine, "dequantize: not per tensor");
  const auto format = input.suggest_memory_format();
  const Tensor q = input.contiguous(format);
  Tensor x = at::empty(q.sizes(), at::device(at::kCPU).dtype(at::kFloat).memory_format(format));
  const auto step = static_cast<float>(q.q_scale());
  const auto zero = static_cast<int32_t>(q.q_zero_point());
  cpu::Dequantize dequantize;
  dequantize.channels = q.numel();
  dequantize.element = element;
  dequantize.step = &step;
  dequantize.zero_point = &zero;
  dequantize.q = q.data_ptr();
  dequantize.x = x.mutable_data_ptr<float>();
  cpu::best_kernel(cpu::dequantize_kernels()).run(dequantize, default_pool());
  return x;
}

// a + b or a * b of quantized tensors of one shape.
Tensor binary_int8(const Tensor& a_in, const Tensor& b_in, double scale, int64_t zero_point,
                   bool product, bool relu) {
  TORCH_CHECK_VALUE(a_in.sizes() == b_in.sizes(),
                    "quantized operands of two shapes: ", a_in.sizes(), ", ", b_in.sizes());
  cpu::QuantizedBinary args;
  args.a_element = element_of(a_in.scalar_type(), "a");
  args.b_element = element_of(b_in.scalar_type(), "b");
  const auto format = a_in.suggest_memory_format();
  const Tensor a = a_in.contiguous(format), b = b_in.contiguous(format);
  Tensor y = empty_quantized(a.sizes(), a.scalar_type(), scale, zero_point, format);
  args.count = a.numel();
  args.y_element = args.a_element;
  args.a_zero_point = static_cast<int32_t>(a.q_zero_point());
  args.b_zero_point = static_cast<int32_t>(b.q_zero_point());
  args.y_zero_point = static_cast<int32_t>(zero_point);
  args.a = a.data_ptr();
  args.b = b.data_ptr();
  args.y = y.data_ptr();
  if (relu) args.clamp_lo = 0;
  if (product) {
    args.a_multiplier = static_cast<float>(a.q_scale() * b.q_scale() / scale);
    cpu::best_kernel(cpu::quantized_mul_kernels()).run(args, default_pool());
  } else {
    args.a_multiplier = static_cast<float>(a.q_scale() / scale);
    args.b_multiplier = static_cast<float>(b.q_scale() / scale);
    cpu::best_kernel(cpu::quantized_add_kernels()).run(args, default_pool());
  }
  return y;
}

// Another byte for each byte: a function of one element.
Tensor lookup_int8(const Tensor& input, const Tensor& table, double scale, int64_t zero_point) {
  element_of(input.scalar_type(), "lookup");
  TORCH_CHECK_VALUE(
      table.scalar_type() == at::kByte && table.numel() == 256 && table.is_contiguous(),
      "lookup: the table is not 256 bytes");
  const auto format = input.suggest_memory_format();
  const Tensor x = input.contiguous(format);
  Tensor y = empty_quantized(x.sizes(), x.scalar_type(), scale, zero_point, format);
  cpu::Lookup args;
  args.row = args.x_pitch = args.y_pitch = x.numel();
  args.table = table.const_data_ptr<uint8_t>();
  args.x = x.data_ptr();
  args.y = y.data_ptr();
  cpu::best_kernel(cpu::lookup_kernels()).run(args, default_pool());
  return y;
}

// Rows of an 8-bit table with a scale and a float zero point each: (float(q) - zero) * scale.
struct Table {
  const uint8_t* q;
  const float* scale;
  const float* zero;
  int64_t rows, width;

  Table(const Tensor& q_in, const Tensor& scale_in, const Tensor& zero_in)
      : q(q_in.const_data_ptr<uint8_t>()),
        scale(scale_in.const_data_ptr<float>()),
        zero(zero_in.const_data_ptr<float>()),
        rows(q_in.size(0)),
        width(q_in.size(1)) {
    TORCH_CHECK_VALUE(q_in.is_contiguous() && scale_in.is_contiguous() && zero_in.is_contiguous() &&
                          scale_in.numel() == rows && zero_in.numel() == rows,
                      "embedding: the table and its parameters do not fit");
  }
  void add(int64_t row, float factor, float* to) const {
    const float s = scale[row], z = zero[row];
    const uint8_t* from = q + row * width;
    for (int64_t i = 0; i < width; ++i) to[i] += (static_cast<float>(from[i]) - z) * s * factor;
  }
};

Tensor row_numbers(const Tensor& indices, int64_t rows) {
  TORCH_CHECK_TYPE(indices.scalar_type() == at::kLong || indices.scalar_type() == at::kInt,
                   "embedding: indices are ", indices.scalar_type());
  Tensor numbers = indices.to(at::kLong).contiguous();
  const int64_t* p = numbers.const_data_ptr<int64_t>();
  for (int64_t i = 0; i < numbers.numel(); ++i)
    TORCH_CHECK_INDEX(p[i] >= 0 && p[i] < rows, "embedding: index ", p[i], " of ", rows, " rows");
  return numbers;
}

Tensor embedding_int8(const Tensor& q, const Tensor& scale, const Tensor& zero,
                      const Tensor& indices) {
  const Table table(q, scale, zero);
  const Tensor numbers = row_numbers(indices, table.rows);
  std::vector<int64_t> sizes = indices.sizes().vec();
  sizes.push_back(table.width);
  Tensor y = at::zeros(sizes, scale.options());
  for (int64_t i = 0; i < numbers.numel(); ++i)
    table.add(numbers.const_data_ptr<int64_t>()[i], 1,
              y.mutable_data_ptr<float>() + i * table.width);
  return y;
}

Tensor embedding_bag_int8(const Tensor& q, const Tensor& scale, const Tensor& zero,
                          const Tensor& indices, const Tensor& offsets,
                          const std::optional<Tensor>& weights, bool mean) {
  const Table table(q, scale, zero);
  const Tensor numbers = row_numbers(indices, table.rows);
  const Tensor starts = offsets.to(at::kLong).contiguous();
  const int64_t bags = starts.numel(), count = numbers.numel();
  Tensor factors;
  if (weights) {
    TORCH_CHECK_VALUE(weights->numel() == count, "embedding_bag: ", weights->numel(),
                      " weights for ", count, " indices");
    factors = weights->to(at::kFloat).contiguous();
  }
  Tensor y = at::zeros({bags, table.width}, scale.options());
  const int64_t* at = starts.const_data_ptr<int64_t>();
  for (int64_t bag = 0; bag < bags; ++bag) {
    const int64_t begin = at[bag], end = bag + 1 < bags ? at[bag + 1] : count;
    TORCH_CHECK_VALUE(begin >= 0 && begin <= end && end <= count && (bag > 0 || begin == 0),
                      "embedding_bag: offsets are not in order");
    const float share = mean && end > begin ? 1 / static_cast<float>(end - begin) : 1;
    for (int64_t i = begin; i < end; ++i)
      table.add(numbers.const_data_ptr<int64_t>()[i],
                weights ? factors.const_data_ptr<float>()[i] : share,
                y.mutable_data_ptr<float>() + bag * table.width);
  }
  return y;
}

}  // namespace

LinearInt8::LinearInt8(const Tensor& weight, const std::optional<Tensor>& bias)
    : layer_(packed_linear(weight, bias)) {}

TORCH_LIBRARY_FRAGMENT(octavo, m) {
  m.class_<LinearInt8>("LinearInt8")
      .def(torch::init<const Tensor&, const std::optional<Tensor>&>());
  m.class_<ConvInt8>("ConvInt8")
      .def(torch::init<const Tensor&, const std::optional<Tensor>&, std::vector<int64_t>,
                       std::vector<int64_t>, std::vector<int64_t>, int64_t>());
  m.def(
      "linear_dynamic(Tensor x, __torch__.torch.classes.octavo.LinearInt8 layer, bool relu) -> "
      "Tensor");
  m.def(
      "linear_int8(Tensor x, __torch__.torch.classes.octavo.LinearInt8 layer, float scale, int "
      "zero_point, bool relu) -> Tensor");
  m.def(
      "conv_int8(Tensor x, __torch__.torch.classes.octavo.ConvInt8 layer, float scale, int "
      "zero_point, bool relu) -> Tensor");
  m.def("quantize_int8(Tensor x, float scale, int zero_point, ScalarType dtype) -> Tensor");
  m.def("dequantize_int8(Tensor x) -> Tensor");
  m.def(
      "binary_int8(Tensor a, Tensor b, float scale, int zero_point, bool product, bool relu) -> "
      "Tensor");
  m.def("embedding_int8(Tensor q, Tensor scale, Tensor zero_point, Tensor indices) -> Tensor");
  m.def(
      "embedding_bag_int8(Tensor q, Tensor scale, Tensor zero_point, Tensor indices, Tensor "
      "offsets, Tensor? weights, bool mean) -> Tensor");
  m.def("lookup_int8(Tensor x, Tensor table, float scale, int zero_point) -> Tensor");
}
TORCH_LIBRARY_IMPL(octavo, CPU, m) {
  m.impl("linear_dynamic", linear_dynamic);
  m.impl("quantize_int8", quantize_tensor);
  m.impl("embedding_int8", embedding_int8);
  m.impl("embedding_bag_int8", embedding_bag_int8);
}
TORCH_LIBRARY_IMPL(octavo, QuantizedCPU, m) {
  m.impl("linear_int8", linear_int8);
  m.impl("conv_int8", conv_int8);
  m.impl("dequantize_int8", dequantize_tensor);
  m.impl("binary_int8", binary_int8);
  m.impl("lookup_int8", lookup_int8);
}

}  // namespace octavo::torch_ops
