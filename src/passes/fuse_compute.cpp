// Products and what follows them, see passes.h. The integer parameters:
//   multiplier[o] = float(x_scale * w_scale[o] / y_scale), bias[o] = round(b / (x_scale *
//   w_scale[o]))
// with one rounding each from float64; y_scale is 1 where the output stays float. Dynamic products,
//   y = (float)acc * (x_scale * w_scale[o]) + b,
// keep this arithmetic.
#include <algorithm>
#include <cmath>
#include <limits>

#include "backends/reference/interpreter.h"
#include "graph/op_def.h"
#include "graph/transposed.h"
#include "ops/packed.h"
#include "passes/layout.h"
#include "passes/match.h"
#include "passes/passes.h"
#include "support/log.h"

namespace octavo {
namespace {

constexpr double inf = std::numeric_limits<double>::infinity();

// conv, gemm and matmul under one description.
struct Product {
  Node* node;
  bool conv;
  size_t w_output_axis;  // of the constant weights
  bool transpose_w;      // [K, N] to [N, K]
  // Of dynamic products: the multiplication by the scales, which gives the float result.
  Node* scaled = nullptr;
  Node* result() const { return scaled ? scaled : node; }
};

// integer product -> cast to float -> multiplication.
std::optional<Product> dynamic_product_of(const Graph& graph, Node& node) {
  const bool conv = node.is("conv_integer");
  const int64_t rank = node.output()->shape().rank();
  if (conv ? rank != 3 && rank != 4
           : node.input(1)->shape().rank() != 2 || node.input(0)->shape().rank() < 2)
    return std::nullopt;
  const Node* cast = only_user(graph, node.output());
  if (!cast || !cast->is("cast") || cast->output()->dtype() != DType::f32) return std::nullopt;
  Node* scaled = only_user(graph, cast->output());
  if (!scaled || !scaled->is("mul") || !(scaled->output()->shape() == node.output()->shape()))
    return std::nullopt;
  return Product{&node, conv, conv ? 0u : 1u, !conv, scaled};
}

std::optional<Product> product_of(const Graph& graph, Node& node) {
  if (node.is("conv")) {
    const int64_t rank = node.output()->shape().rank();
    if (rank != 3 && rank != 4) return std::nullopt;
    return Product{&node, true, 0, false};
  }
  if (node.is("gemm")) {
    if (node.real("alpha") != 1 || node.real("beta") != 1 || node.integer("trans_a") != 0)
      return std::nullopt;
    const bool trans_b = node.integer("trans_b") != 0;
    return Product{&node, false, trans_b ? 0u : 1u, !trans_b};
  }
  if (node.is("matmul")) {
    if (node.input(1)->shape().rank() != 2 || node.input(0)->shape().rank() < 2)
      return std::nullopt;
    return Product{&node, false, 1, true};
  }
  if (node.is("matmul_integer") || node.is("conv_integer")) return dynamic_product_of(graph, node);
  return std::nullopt;
}

struct IntegerWeights {
  Tensor values;              // i8
  std::vector<float> scales;  // one per output channel
};

// dequantize(constant 8-bit integers), symmetric (or u8 around 128), per tensor or output channel.
std::optional<IntegerWeights> integer_weights(const Product& product) {
  const Node* dequantize = product.node->input(1)->producer();
  if (!dequantize || !dequantize->is("dequantize") || !dequantize->input(0)->is_constant())
    return std::nullopt;
  const auto info = quant_info(*dequantize);
  if (!info || (info->dtype != DType::i8 && info->dtype != DType::u8)) return std::nullopt;
  const int32_t centre = info->dtype == DType::u8 ? 128 : 0;
  for (int32_t z : info->zero_points)
    if (z != centre) return std::nullopt;
  const Tensor& w = dequantize->input(0)->constant();
  const auto channels = static_cast<size_t>(w.dims()[product.w_output_axis]);
  if (!info->per_tensor() && (info->axis != static_cast<int64_t>(product.w_output_axis) ||
                              info->scales.size() != channels))
    return std::nullopt;
  IntegerWeights result{w, info->scales};
  if (info->per_tensor()) result.scales.assign(channels, info->scale());
  if (info->dtype == DType::u8) {
    result.values = Tensor(DType::i8, w.dims());
    auto to = result.values.mutable_values<int8_t>();
    const auto from = w.values<uint8_t>();
    for (size_t i = 0; i < from.size(); ++i) to[i] = static_cast<int8_t>(from[i] - 128);
  }
  if (product.transpose_w) result.values = transposed_matrix(result.values);
  return result;
}

// Integer weights of a float product.
struct KeptWeights {
  Tensor values;       // i8 or u8, the output channels first
  Tensor scale, zero;  // [channels, groups]; zero may be empty
  int64_t group = 0, bits = 8;
};

// dequantize(constant integers of 8 or 4 bits) that the kernels multiply by without a float copy:
// one scale, one per output channel or, of matrices, per group of inputs. A convolution with groups
// is small, and is dequantized.
std::optional<KeptWeights> kept_weights(const Product& product) {
  const Node* dq = product.node->input(1)->producer();
  if (!dq || !dq->is("dequantize") || dq->output()->dtype() != DType::f32) return std::nullopt;
  for (const Value* input : dq->inputs())
    if (input && !input->is_constant()) return std::nullopt;
  const DType type = integer_type(*dq);
  if (type != DType::i8 && type != DType::u8) return std::nullopt;
  if (product.conv && product.node->integer("group") != 1) return std::nullopt;
  const Dims dims = dq->output()->shape().dims();
  const auto out_axis = static_cast<int64_t>(product.w_output_axis);
  const int64_t channels = dims[product.w_output_axis];
  Tensor scale = dq->input(1)->constant();
  Tensor zero = dq->input(2) ? dq->input(2)->constant() : Tensor();
  KeptWeights kept;
  if (scale.size() == 1 && scale.rank() <= 1) {
    scale = Tensor::from(Dims{channels, 1}, std::vector<float>(static_cast<size_t>(channels),
                                                               scale.values<float>()[0]));
    if (zero) {
      Tensor all(type, {channels, 1});
      std::memset(all.mutable_data(), std::to_integer<int>(zero.data()[0]), all.bytes());
      zero = all;
    }
  } else {
    const int64_t axis = normalize_axis(dq->integer("axis"), static_cast<int64_t>(dims.size()), "");
    const int64_t group = dq->integer("group_size");
    if (group == 0) {
      if (axis != out_axis) return std::nullopt;
      scale = scale.reshaped({channels, 1});
      if (zero) zero = zero.reshaped({channels, 1});
    } else {
      if (product.conv || dims.size() != 2 || axis == out_axis) return std::nullopt;
      kept.group = group;
      if (product.transpose_w) scale = transposed_matrix(scale);
      if (product.transpose_w && zero) zero = transposed_matrix(zero);
    }
  }
  const Tensor& stored = dq->input(0)->constant();
  if (is_packed(*dq)) kept.bits = 4;
  kept.values = kept.bits == 4 ? unpack_nibbles(stored, dims, type) : stored;
  if (product.transpose_w) kept.values = transposed_matrix(kept.values);
  kept.scale = scale;
  kept.zero = zero;
  return kept;
}

// i8 weights and a scale for each output channel of a dynamic product, and the scale of x: none if
// they have another form.
struct DynamicOperands {
  Value *x_scale, *x_zero;
  IntegerWeights weights;
};

// One value for each output channel of a constant; empty if it has another form.
std::vector<float> per_channel(const Product& product, const Value* value) {
  const Shape& shape = value->shape();
  const auto channels =
      static_cast<size_t>(product.node->input(1)->shape()[product.w_output_axis].value());
  if (!value->is_constant() || value->dtype() != DType::f32) return {};
  const auto values = value->constant().values<float>();
  if (values.size() == 1) return std::vector<float>(channels, values[0]);
  // The axis of the channels, counted from the end.
  const int64_t behind = product.conv ? product.node->output()->shape().rank() - 2 : 0;
  const int64_t axis = shape.rank() - 1 - behind;
  if (values.size() != channels || axis < 0 ||
      !(shape[static_cast<size_t>(axis)] == Dim(static_cast<int64_t>(channels))))
    return {};
  return {values.begin(), values.end()};
}

// i8 with zero point 0, or u8 with zero point 128.
Tensor centred_weights(const Node& product) {
  const Value *w = product.input(1), *zero = product.input(3);
  if (!w->is_constant() || (zero && !zero->is_constant())) return {};
  const bool u8 = w->dtype() == DType::u8;
  if (u8 && !zero) return {};
  for (const int64_t z : zero ? zero->constant().to_ints() : std::vector<int64_t>{})
    if (z != (u8 ? 128 : 0)) return {};
  if (!u8) return w->constant();
  Tensor out(DType::i8, w->constant().dims());
  const auto from = w->constant().values<uint8_t>();
  auto to = out.mutable_values<int8_t>();
  for (size_t i = 0; i < from.size(); ++i) to[i] = static_cast<int8_t>(from[i] - 128);
  return out;
}

std::optional<DynamicOperands> dynamic_operands(Graph& graph, const Product& product) {
  const Node &node = *product.node, &scaled = *product.scaled;
  if (node.input(0)->dtype() != DType::u8) return std::nullopt;
  const Node* cast = node.output()->uses()[0].node;
  // (x_scale * w_scale), computed at run time: float multiplication is commutative.
  const Value* scales = scaled.input(scaled.input(0) == cast->output() ? 1 : 0);
  const Node* both = scales->producer();
  if (!both || !both->is("mul")) return std::nullopt;
  for (size_t side : {0u, 1u}) {
    Value* x_scale = both->input(side);
    DynamicOperands found{
        x_scale, node.input(2), {{}, per_channel(product, both->input(1 - side))}};
    if (found.weights.scales.empty() || x_scale->dtype() != DType::f32) continue;
    const Shape& shape = x_scale->shape();
    const int64_t count = element_count(shape.dims());
    if (!found.x_zero)
      found.x_zero = graph.add_constant(
          node.name() + "/zero_point",
          Tensor::from(shape.dims(), std::vector<uint8_t>(static_cast<size_t>(count), 0)));
    Shape rows = node.input(0)->shape();
    rows.back() = Dim(1);
    if (count != element_count(found.x_zero->shape().dims())) return std::nullopt;
    if (count != 1 && (product.conv || !(shape == rows) || !(found.x_zero->shape() == rows)))
      return std::nullopt;
    found.weights.values = centred_weights(node);
    if (!found.weights.values) return std::nullopt;
    if (product.transpose_w) found.weights.values = transposed_matrix(found.weights.values);
    return found;
  }
  return std::nullopt;
}

// What follows the product and goes into it.
struct Tail {
  Node* last;                 // the node whose output the fused op replaces
  Value* bias = nullptr;      // of a matmul's addition; a conv's and gemm's is its input 2
  std::string round_to = {};  // of the sum and its bias, before all else
  Value* residual = nullptr;
  double slope = 1, lo = -inf, hi = inf;
  const Node* quantize = nullptr;
};

// [channels], or before the spatial axes of a convolution, with or without the batch axis.
bool is_bias(const Product& product, const Value& value, int64_t channels) {
  if (!product.conv) return value.shape() == Shape(Dims{channels});
  Dims dims(static_cast<size_t>(product.node->output()->shape().rank()), 1);
  dims[1] = channels;
  return value.shape() == Shape(dims) || value.shape() == Shape(Dims(dims.begin() + 1, dims.end()));
}

// `rounds`: the product can round its sum to half.
Tail follow(const Graph& graph, const Product& product, int64_t channels, bool rounds) {
  Tail tail{product.result()};
  const auto next = [&] { return only_user(graph, tail.last->output()); };
  Node* user = next();
  if (rounds && user && user->is("round_to")) {
    tail.round_to = user->text("to");
    tail.last = user;
    user = next();
  }
  if (tail.round_to.empty() && (product.node->is("matmul") || product.scaled) && user &&
      user->is("add")) {
    Value* other = user->input(user->input(0) == tail.last->output() ? 1 : 0);
    const Tensor constant = is_bias(product, *other, channels) ? float_constant(other) : Tensor();
    if (constant) {
      tail.bias = other;
      tail.last = user;
      user = next();
    }
  }
  if (user && user->is("add") && user->input(0) != user->input(1)) {
    Value* other = user->input(user->input(0) == tail.last->output() ? 1 : 0);
    if (!other->is_constant() && other->type() == tail.last->output()->type()) {
      tail.residual = other;
      tail.last = user;
      user = next();
    }
  }
  if (user) {
    if (const auto slope = fusible_slope(*product.node, *user)) {
      tail.slope = *slope;
      tail.last = user;
    } else if (const auto bounds = clamp_bounds(*user)) {
      tail.lo = bounds->lo, tail.hi = bounds->hi;
      tail.last = user;
    }
  }
  if (Node* quantize = only_byte_quantize(graph, tail.last->output())) {
    tail.quantize = quantize;
    tail.last = quantize;
  }
  return tail;
}

class Fuser {
 public:
  Fuser(Graph& graph, const Product& product)
      : graph_(graph), product_(product), node_(*product.node) {}

  void run() {
    if (product_.scaled) return run_dynamic();
    const Node* x_dequantize = byte_dequantize(node_.input(0));
    const auto weights = x_dequantize ? integer_weights(product_) : std::nullopt;
    const bool integer = weights.has_value();
    const auto kept =
        integer || node_.output()->dtype() != DType::f32 ? std::nullopt : kept_weights(product_);
    Tensor float_weights;
    if (!integer && !kept) {
      float_weights = float_constant(node_.input(1));
      if (!float_weights || float_weights.dtype() != DType::f32 ||
          node_.output()->dtype() != DType::f32)
        return;
    }
    const bool floats = !integer && !kept;
    const Tensor& values = integer ? weights->values : kept ? kept->values : float_weights;
    const int64_t channels = values.dims()[floats ? product_.w_output_axis : 0];
    tail_ = follow(graph_, product_, channels, !integer);
    if (!integer && tail_.quantize)
      tail_.last = tail_.quantize->input(0)->producer(), tail_.quantize = nullptr;
    Value* bias_value = tail_.bias ? tail_.bias : node_.input(2);
    Tensor bias;
    if (bias_value) {
      bias = float_constant(bias_value);
      if (!bias) return;
      if (bias.size() == 1)
        bias = Tensor::from(Dims{channels}, std::vector<float>(static_cast<size_t>(channels),
                                                               bias.values<float>()[0]));
      if (bias.size() != channels) return;
      bias = bias.reshaped({channels});
    }
    if (integer)
      emit_integer(*x_dequantize, *weights, bias);
    else
      emit_float(kept ? kept->values : float_weights, bias, kept);
  }

 private:
  void run_dynamic() {
    const auto operands = dynamic_operands(graph_, product_);
    if (!operands) return;
    const int64_t channels = operands->weights.values.dims()[0];
    tail_ = follow(graph_, product_, channels, false);
    if (tail_.quantize) tail_.last = tail_.quantize->input(0)->producer(), tail_.quantize = nullptr;
    if (tail_.residual && tail_.residual->dtype() != DType::f32) return;
    Tensor bias;
    if (tail_.bias) bias = float_constant(tail_.bias).reshaped({channels});
    Attributes a = attributes();
    a["negative_slope"] = tail_.slope;
    a["clamp_lo"] = tail_.lo;
    a["clamp_hi"] = tail_.hi;
    const bool rows = element_count(operands->x_scale->shape().dims()) != 1;
    const auto flat = [&](Value* value) {
      if (value->shape().rank() == 0) return value;
      return graph_.apply("reshape", {value}, {{"shape", rows ? Ints{-1} : Ints{}}}, "",
                          tail_.last);
    };
    emit(node_.input(0), constant("weights", operands->weights.values),
         bias ? constant("bias", bias) : nullptr,
         constant("multiplier", Tensor::from(Dims{channels}, operands->weights.scales)),
         tail_.residual, std::move(a), nullptr, nullptr, flat(operands->x_scale),
         flat(operands->x_zero));
  }

  Value* constant(const char* what, Tensor tensor) {
    if (product_.conv && tensor.rank() == 3) {  // weights along a line
      const Dims d = tensor.dims();
      tensor = tensor.reshaped({d[0], d[1], 1, d[2]});
    }
    return graph_.add_constant(node_.name() + "/" + what, std::move(tensor));
  }

  Attributes attributes() const {
    Attributes a;
    if (product_.conv)
      for (const char* name : {"strides", "pads", "dilations"}) a[name] = node_.integers(name);
    if (product_.conv) a["group"] = node_.integer("group");
    widen_window(a);
    return a;
  }

  // The op's own view of an activation: channels last, or a matrix.
  Value* enter(Value* value) {
    if (product_.conv)
      return transposed(graph_, as_image(graph_, value, tail_.last), to_nhwc, tail_.last);
    if (value->shape().rank() == 2) return value;
    return graph_.apply("reshape", {value}, {{"shape", Ints{-1, value->shape().back().value()}}},
                        "", tail_.last);
  }

  void emit(Value* x, Value* w, Value* bias, Value* multiplier, Value* residual, Attributes a,
            Value* w_scale = nullptr, Value* w_zero = nullptr, Value* x_scale = nullptr,
            Value* x_zero = nullptr) {
    Value* y = graph_.apply(product_.conv ? "fused_conv" : "fused_gemm",
                            {enter(x), w, bias, multiplier, residual ? enter(residual) : nullptr,
                             w_scale, w_zero, x_scale, x_zero},
                            std::move(a), node_.name(), tail_.last);
    if (product_.conv) y = transposed(graph_, y, to_nchw, tail_.last);
    if (node_.output()->shape().rank() != y->shape().rank())
      y = graph_.apply("reshape", {y}, {{"shape", node_.output()->shape().dims()}}, "", tail_.last);
    take_over(graph_, tail_.last, y);
  }

  void emit_float(const Tensor& weights, const Tensor& bias,
                  const std::optional<KeptWeights>& kept) {
    Attributes a = attributes();
    a["negative_slope"] = tail_.slope;
    a["clamp_lo"] = tail_.lo;
    a["clamp_hi"] = tail_.hi;
    if (!tail_.round_to.empty()) a["round_to"] = tail_.round_to;
    if (!kept && product_.transpose_w) a["trans_w"] = int64_t{1};
    if (kept) a["weight_bits"] = kept->bits;
    if (kept) a["weight_group_size"] = kept->group;
    const auto parameter = [&](const char* what, const Tensor& tensor) {
      return graph_.add_constant(node_.name() + "/" + what, tensor);
    };
    emit(node_.input(0), constant("weights", weights), bias ? constant("bias", bias) : nullptr,
         nullptr, tail_.residual, std::move(a),
         kept ? parameter("weight_scale", kept->scale) : nullptr,
         kept && kept->zero ? parameter("weight_zero_point", kept->zero) : nullptr);
  }

  void emit_integer(const Node& x_dequantize, const IntegerWeights& weights, const Tensor& bias) {
    const QuantInfo x = *quant_info(x_dequantize);
    const auto y = tail_.quantize ? quant_info(*tail_.quantize) : std::nullopt;
    const double y_scale = y ? y->scale() : 1.0;
    const size_t channels = weights.scales.size();
    Tensor multiplier(DType::f32, {static_cast<int64_t>(channels)}), bias_i32;
    auto m = multiplier.mutable_values<float>();
    if (bias) bias_i32 = Tensor(DType::i32, multiplier.dims());
    for (size_t c = 0; c < channels; ++c) {
      const double step = static_cast<double>(x.scale()) * weights.scales[c];
      m[c] = static_cast<float>(step / y_scale);
      if (bias) {
        const double b = std::nearbyint(bias.values<float>()[c] / step);
        constexpr double most = 2147483647.0;
        if (std::abs(b) > most)
          log(LogLevel::warning,
              fmt::format("{}: the bias of channel {} exceeds int32 steps and is cut",
                          node_.where(), c));
        bias_i32.mutable_values<int32_t>()[c] = static_cast<int32_t>(std::clamp(b, -most, most));
      }
    }
    Attributes a = attributes();
    a["x_zero_point"] = int64_t{x.zero_point()};
    double lo = tail_.lo / y_scale, hi = tail_.hi / y_scale;
    if (y) {
      // The clamp covers the integers' range too: rounding never overflows.
      const double least = y->dtype == DType::u8 ? 0 : -128;
      lo = std::max(lo, least - y->zero_point());
      hi = std::min(hi, least + 255 - y->zero_point());
      a["y_zero_point"] = int64_t{y->zero_point()};
      a["output"] = std::string(dtype_name(y->dtype));
    }
    a["negative_slope"] = tail_.slope;
    a["clamp_lo"] = lo;
    a["clamp_hi"] = hi;
    Value* residual = tail_.residual;
    if (residual) {
      double r_scale = 1;
      if (const Node* dequantize = byte_dequantize(residual)) {
        const QuantInfo r = *quant_info(*dequantize);
        r_scale = r.scale();
        a["residual_zero_point"] = int64_t{r.zero_point()};
        residual = dequantize->input(0);
      }
      a["residual_multiplier"] = static_cast<double>(static_cast<float>(r_scale / y_scale));
    }
    emit(x_dequantize.input(0), constant("weights", weights.values),
         bias ? constant("bias", bias_i32) : nullptr, constant("multiplier", multiplier), residual,
         std::move(a));
  }

  Graph& graph_;
  const Product& product_;
  Node& node_;
  Tail tail_{nullptr};
};

}  // namespace

void fuse_compute(Graph& graph) {
  std::vector<Product> products;
  graph.for_each([&](Node& node) {
    if (const auto product = product_of(graph, node)) products.push_back(*product);
  });
  // Backwards: where two products are added, the later one takes the addition and reads the other.
  for (size_t i = products.size(); i-- > 0;) Fuser(graph, products[i]).run();
}

}  // namespace octavo
