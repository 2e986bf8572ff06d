// fused_conv and fused_gemm: convolution and matrix product of the lowered stage, channels last,
// with bias, residual, clamp and requantization in the producer (ops/fused.h has the arithmetic).
// A float product may have integer weights: w = (q - zero point) * scale in float32.
#include "graph/transposed.h"
#include "ops/fused.h"
#include "ops/op.h"
#include "ops/window.h"

namespace octavo::ops {
namespace {

bool is_byte(DType dtype) { return dtype == DType::u8 || dtype == DType::i8; }

// What a float product is rounded to before its residual.
std::optional<DType> rounding_of(const Node& node) {
  const std::string& type = node.text("round_to");
  return type.empty() ? std::nullopt : std::optional(parse_dtype(type));
}

double round_half(DType half, double sum) {
  return half == DType::f16 ? load_element(store_element<Half>(sum))
                            : load_element(store_element<BFloat16>(sum));
}

// Inputs: x, w, bias, multiplier, residual, weight_scale, weight_zero_point, x_scale, x_zero.
void check_operands(const Node& node, int64_t c_out) {
  const Value *x_scale = node.input(7), *x_zero = node.input(8);
  const bool dynamic = x_scale != nullptr;
  require(node, dynamic == (x_zero != nullptr), "a scale of x comes with a zero point");
  if (dynamic) {
    const Shape& rows = node.input(0)->shape();
    require(node,
            node.input(0)->dtype() == DType::u8 && x_scale->dtype() == DType::f32 &&
                x_zero->dtype() == DType::u8,
            "with a scale x is u8, its scale f32 and its zero point u8");
    require(node, x_scale->shape() == x_zero->shape(), "scale and zero point of x have one shape");
    require(
        node,
        x_scale->shape().rank() == 0 || (rows.rank() == 2 && x_scale->shape() == Shape{rows[0]}),
        "the scale of x is one number, or one for each row");
    require(node, epilogue_of(node).output == DType::f32 && node.integer("x_zero_point") == 0,
            "with a scale of x the output is f32");
    require(node, !node.input(4) || node.input(4)->dtype() == DType::f32,
            "with a scale of x the residual is f32");
  }
  const TensorType &x = node.input(0)->type(), &w = node.input(1)->type();
  const Value *bias = node.input(2), *multiplier = node.input(3);
  const bool integer = is_byte(x.dtype);
  require(node, integer || x.dtype == DType::f32, "the input must be f32, u8 or i8");
  if (const auto round = rounding_of(node))
    require(node, !integer && (*round == DType::f16 || *round == DType::bf16),
            "round_to is f16 or bf16, of f32 products");
  if (const Value* scale = node.input(5)) {
    const int64_t group = node.integer("weight_group_size"), length = w.shape[1].value();
    const int64_t bits = node.integer("weight_bits");
    require(node, !integer && is_byte(w.dtype), "weights with a scale are u8 or i8, x is f32");
    require(node, bits == 8 || bits == 4, "weight_bits must be 8 or 4");
    require(node, group >= 0 && (group == 0 || node.is("fused_gemm")),
            "groups of inputs are of matrix products");
    const Dims wanted{c_out, group == 0 ? 1 : (length + group - 1) / group};
    require(node, scale->type() == TensorType{DType::f32, Shape(wanted)},
            "the weights' scale must be f32 [O, groups]");
    if (const Value* zero = node.input(6))
      require(node, zero->type() == TensorType{w.dtype, Shape(wanted)},
              "the weights' zero point must have the scale's shape and the weights' type");
  } else {
    require(node, w.dtype == (integer ? DType::i8 : DType::f32) && !node.input(6),
            "weights must be f32 for f32, i8 for integers, or have a scale");
  }
  if (bias)
    require(node,
            bias->type() ==
                TensorType{integer && !dynamic ? DType::i32 : DType::f32, Shape(Dims{c_out})},
            "the bias must be one i32 (f32 for f32 outputs of f32 or with a scale of x) per output "
            "channel");
  require(node, integer == (multiplier != nullptr), "integers need a multiplier, floats have none");
  if (multiplier)
    require(node, multiplier->type() == TensorType{DType::f32, Shape(Dims{c_out})},
            "the multiplier must be one f32 per output channel");
  require(node, integer || epilogue_of(node).output == DType::f32, "f32 in gives f32 out");
}

void check_residual(const Node& node, const TensorType& y) {
  if (const Value* r = node.input(4)) {
    require(node, r->shape() == y.shape, "the residual must have the output's shape");
    require(node, r->dtype() == DType::f32 || is_byte(r->dtype()),
            "the residual must be f32, u8 or i8");
  }
}

std::vector<TensorType> infer_conv(const Node& node) {
  const Shape &x = node.input(0)->shape(), &w = node.input(1)->shape();
  require(node, x.rank() == 4 && w.rank() == 4 && w.is_static(),
          "x is [N, H, W, C], w is [O, C/group, KH, KW]");
  check_operands(node, w[0].value());
  const int64_t group = node.integer("group");
  require(node, group > 0 && w[0].value() % group == 0 && x[3] == Dim(w[1].value() * group),
          "channels and groups do not fit");
  const Window window = window_of(node, {w[2].value(), w[3].value()});
  const TensorType y{
      epilogue_of(node).output,
      {x[0], window_output(node, window, 0, x[1]), window_output(node, window, 1, x[2]), w[0]}};
  check_residual(node, y);
  return {y};
}

std::vector<TensorType> infer_gemm(const Node& node) {
  const Shape &x = node.input(0)->shape(), &w = node.input(1)->shape();
  const size_t n = node.integer("trans_w") != 0 ? 1 : 0;
  require(node, x.rank() == 2 && w.rank() == 2 && w.is_static() && x[1] == w[1 - n],
          "x is [M, K], w is [N, K], with trans_w [K, N]");
  require(node, n == 0 || node.input(1)->dtype() == DType::f32, "with trans_w the weights are f32");
  check_operands(node, w[n].value());
  const TensorType y{epilogue_of(node).output, {x[0], w[n]}};
  check_residual(node, y);
  return {y};
}

// A gemm is the 1x1 convolution of an image [1, 1, M, K].
struct Geometry {
  Dims x, w, y;
  Ints strides, pads, dilations;
  int64_t group;
};

template <class X, class W, class Sum>
void accumulate(const Node& node, const Geometry& g, std::span<const Tensor* const> in,
                Tensor& out) {
  const auto x = in[0]->values<X>();
  const auto w = in[1]->values<W>();
  const Epilogue e = epilogue_of(node);
  const auto residual_zero = static_cast<int32_t>(node.integer("residual_zero_point"));
  const auto residual_multiplier = static_cast<float>(node.real("residual_multiplier"));
  const auto slope = static_cast<float>(node.real("negative_slope"));
  const auto optional = [&](size_t i) { return i < in.size() ? in[i] : nullptr; };
  const Tensor *bias = optional(2), *multiplier = optional(3), *residual = optional(4);
  const Tensor *x_scale = optional(7), *x_zero = optional(8);
  const auto round = rounding_of(node);
  const int64_t out_per_group = g.w[0] / g.group;
  size_t at = 0;
  for (int64_t n = 0; n < g.y[0]; ++n)
    for (int64_t oy = 0; oy < g.y[1]; ++oy)
      for (int64_t ox = 0; ox < g.y[2]; ++ox) {
        // Of x: one scale, or one for each row of a matrix.
        const auto row = static_cast<size_t>(x_scale && x_scale->size() > 1 ? ox : 0);
        const auto zero = x_zero ? static_cast<Sum>(x_zero->values<uint8_t>()[row])
                                 : static_cast<Sum>(node.integer("x_zero_point"));
        for (int64_t o = 0; o < g.w[0]; ++o, ++at) {
          Sum sum{};
          const int64_t first = o / out_per_group * g.w[1];
          for (int64_t ky = 0; ky < g.w[2]; ++ky)
            for (int64_t kx = 0; kx < g.w[3]; ++kx) {
              const int64_t iy = oy * g.strides[0] + ky * g.dilations[0] - g.pads[0];
              const int64_t ix = ox * g.strides[1] + kx * g.dilations[1] - g.pads[1];
              if (iy < 0 || iy >= g.x[1] || ix < 0 || ix >= g.x[2]) continue;
              const auto base =
                  static_cast<size_t>(((n * g.x[1] + iy) * g.x[2] + ix) * g.x[3] + first);
              for (int64_t c = 0; c < g.w[1]; ++c)
                sum += (static_cast<Sum>(x[base + static_cast<size_t>(c)]) - zero) *
                       static_cast<Sum>(
                           w[static_cast<size_t>(((o * g.w[1] + c) * g.w[2] + ky) * g.w[3] + kx)]);
            }
          const auto oc = static_cast<size_t>(o);
          float f = 0;
          if constexpr (std::is_floating_point_v<Sum>) {
            if (bias) sum += bias->values<float>()[oc];
            if (round) sum = round_half(*round, sum);
            if (residual) sum += residual->values<float>()[at];
            f = static_cast<float>(sum);
          } else if (x_scale) {
            f = static_cast<float>(static_cast<int32_t>(sum)) *
                (x_scale->values<float>()[row] * multiplier->values<float>()[oc]);
            if (bias) f = f + bias->values<float>()[oc];
            if (residual) f = f + residual->values<float>()[at] * residual_multiplier;
          } else {
            // Wrap-around int32, like the vector units; Sum is wider so that overflow is defined.
            if (bias) sum += bias->values<int32_t>()[oc];
            f = static_cast<float>(static_cast<int32_t>(sum)) * multiplier->values<float>()[oc];
            if (residual) f = f + centred(*residual, at, residual_zero) * residual_multiplier;
          }
          store(e, f < 0 ? f * slope : f, out, at);
        }
      }
}

Tensor dequantized_weights(const Node& node, std::span<const Tensor* const> in) {
  const Tensor& w = *in[1];
  const auto q = w.to_ints();
  const auto scales = in[5]->values<float>();
  const auto zeros =
      in.size() > 6 && in[6] ? in[6]->to_ints() : std::vector<int64_t>(scales.size());
  const auto length = q.size() / std::max<size_t>(static_cast<size_t>(w.dims()[0]), 1);
  const int64_t group = node.integer("weight_group_size");
  const auto groups = static_cast<size_t>(in[5]->dims()[1]);
  Tensor out(DType::f32, w.dims());
  auto to = out.mutable_values<float>();
  for (size_t i = 0; i < q.size(); ++i) {
    const size_t k = i % length;
    const size_t at = i / length * groups + (group > 0 ? k / static_cast<size_t>(group) : 0);
    to[i] = static_cast<float>(q[i] - zeros[at]) * scales[at];
  }
  return out;
}

void run(const Node& node, const Geometry& g, std::span<const Tensor* const> in, Tensor& out) {
  switch (in[0]->dtype()) {
    case DType::u8:
      return accumulate<uint8_t, int8_t, int64_t>(node, g, in, out);
    case DType::i8:
      return accumulate<int8_t, int8_t, int64_t>(node, g, in, out);
    default: {
      if (in.size() <= 5 || !in[5]) return accumulate<float, float, double>(node, g, in, out);
      const Tensor w = dequantized_weights(node, in);
      std::vector<const Tensor*> floats(in.begin(), in.begin() + 5);
      floats[1] = &w;
      return accumulate<float, float, double>(node, g, floats, out);
    }
  }
}

void reference_conv(const Node& node, std::span<const Tensor* const> in, std::span<Tensor> out) {
  const Dims& w = in[1]->dims();
  const Window window = window_of(node, {w[2], w[3]});
  run(node,
      {in[0]->dims(), w, out[0].dims(), window.strides, window.pads, window.dilations,
       node.integer("group")},
      in, out[0]);
}

void reference_gemm(const Node& node, std::span<const Tensor* const> in, std::span<Tensor> out) {
  std::vector<const Tensor*> operands(in.begin(), in.end());
  Tensor turned;
  if (node.integer("trans_w") != 0) {
    turned = transposed_matrix(*in[1]);
    operands[1] = &turned;
  }
  const Dims &x = in[0]->dims(), &w = operands[1]->dims();
  run(node,
      {{1, 1, x[0], x[1]}, {w[0], w[1], 1, 1}, {1, 1, x[0], w[0]}, {1, 1}, {0, 0, 0, 0}, {1, 1}, 1},
      operands, out[0]);
}

std::vector<AttributeSpec> operand_attributes() {
  auto specs = epilogue_attributes();
  specs.push_back({"x_zero_point", AttributeKind::integer, false, int64_t{0}});
  specs.push_back({"residual_zero_point", AttributeKind::integer, false, int64_t{0}});
  specs.push_back({"negative_slope", AttributeKind::real, false, 1.0});
  specs.push_back({"residual_multiplier", AttributeKind::real, false, 1.0});
  specs.push_back({"round_to", AttributeKind::text, false, std::string()});
  specs.push_back({"weight_bits", AttributeKind::integer, false, int64_t{8}});
  specs.push_back({"weight_group_size", AttributeKind::integer, false, int64_t{0}});
  return specs;
}

}  // namespace

const OpImpl op_fused_conv{
    .doc =
        "conv on x [N, H, W, C] f32, u8 or i8, w [O, C/group, KH, KW]; inputs x, w, bias, "
        "multiplier [O], residual, weight_scale [O, groups] and weight_zero_point of u8 or i8 "
        "weights "
        "with f32 x, x_scale and x_zero of dynamic products; y [N, OH, OW, O] with the epilogue of "
        "ops/fused.h; with round_to the f32 sum is rounded to f16 or bf16 before it.",
    .min_inputs = 2,
    .max_inputs = 9,
    .attributes =
        [] {
          auto specs = operand_attributes();
          for (auto& spec : window_attributes()) specs.push_back(spec);
          specs.push_back({"group", AttributeKind::integer, false, int64_t{1}});
          return specs;
        }(),
    .infer = infer_conv,
    .reference = reference_conv};

const OpImpl op_fused_gemm{
    .doc =
        "x [M, K] times the transpose of w [N, K], or with trans_w times w [K, N] of f32; inputs "
        "and epilogue as fused_conv; y [M, N].",
    .min_inputs = 2,
    .max_inputs = 9,
    .attributes =
        [] {
          auto specs = operand_attributes();
          specs.push_back({"trans_w", AttributeKind::integer, false, int64_t{0}});
          return specs;
        }(),
    .infer = infer_gemm,
    .reference = reference_gemm};

}  // namespace octavo::ops
