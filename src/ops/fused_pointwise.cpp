// Integer ops of the lowered stage that are not convolutions: sums, products, tables, pooling.
#include "ops/fused.h"
#include "ops/op.h"
#include "ops/window.h"

namespace octavo::ops {
namespace {

bool is_byte(DType dtype) { return dtype == DType::u8 || dtype == DType::i8; }

std::vector<TensorType> infer_binary(const Node& node) {
  const TensorType &a = node.input(0)->type(), &b = node.input(1)->type();
  require(node, is_byte(a.dtype) && is_byte(b.dtype), "the inputs must be u8 or i8");
  require(node, a.shape == b.shape, "the inputs must have one shape");
  return {{epilogue_of(node).output, a.shape}};
}

int32_t zero_point(const Node& node, const char* name) {
  return static_cast<int32_t>(node.integer(name));
}

void reference_add(const Node& node, std::span<const Tensor* const> in, std::span<Tensor> out) {
  const Epilogue e = epilogue_of(node);
  const auto a_multiplier = static_cast<float>(node.real("a_multiplier"));
  const auto b_multiplier = static_cast<float>(node.real("b_multiplier"));
  for (size_t i = 0; i < static_cast<size_t>(out[0].size()); ++i) {
    const float a = centred(*in[0], i, zero_point(node, "a_zero_point")) * a_multiplier;
    const float b = centred(*in[1], i, zero_point(node, "b_zero_point")) * b_multiplier;
    store(e, a + b, out[0], i);
  }
}

void reference_mul(const Node& node, std::span<const Tensor* const> in, std::span<Tensor> out) {
  const Epilogue e = epilogue_of(node);
  const auto multiplier = static_cast<float>(node.real("multiplier"));
  for (size_t i = 0; i < static_cast<size_t>(out[0].size()); ++i) {
    const float product =
        centred(*in[0], i, zero_point(node, "a_zero_point")) *  // exact: below 2^16
        centred(*in[1], i, zero_point(node, "b_zero_point"));
    store(e, product * multiplier, out[0], i);
  }
}

std::vector<AttributeSpec> with_zero_points(std::vector<AttributeSpec> specs) {
  for (auto& spec : epilogue_attributes()) specs.push_back(spec);
  specs.push_back({"a_zero_point", AttributeKind::integer, false, int64_t{0}});
  specs.push_back({"b_zero_point", AttributeKind::integer, false, int64_t{0}});
  return specs;
}

std::vector<TensorType> infer_lookup(const Node& node) {
  const TensorType &x = node.input(0)->type(), &table = node.input(1)->type();
  require(node, is_byte(x.dtype) && is_byte(table.dtype) && table.shape == Shape(Dims{256}),
          "x must be u8 or i8, the table 256 of u8 or i8");
  return {{table.dtype, x.shape}};
}

void reference_lookup(const Node&, std::span<const Tensor* const> in, std::span<Tensor> out) {
  const auto* x = reinterpret_cast<const uint8_t*>(in[0]->data());
  const auto* table = reinterpret_cast<const uint8_t*>(in[1]->data());
  auto* y = reinterpret_cast<uint8_t*>(out[0].mutable_data());
  for (int64_t i = 0; i < in[0]->size(); ++i) y[i] = table[x[i]];
}

// pool: max or average of x [N, H, W, C].
std::vector<TensorType> infer_pool(const Node& node) {
  const TensorType& x = node.input(0)->type();
  const Epilogue e = epilogue_of(node);
  const bool average = node.text("mode") == "average";
  require(node, average || node.text("mode") == "max", "mode must be max or average");
  require(node, x.shape.rank() == 4, "x is [N, H, W, C]");
  require(node, is_byte(x.dtype) || x.dtype == DType::f32, "x must be f32, u8 or i8");
  require(node, average ? is_byte(x.dtype) || e.output == DType::f32 : e.output == x.dtype,
          "max keeps the element type; an average of f32 is f32");
  const Ints& kernel = node.integers("kernel");
  require(node, kernel.size() == 2, "kernel is [KH, KW]");
  const Window window = window_of(node, kernel);
  const bool ceil_mode = node.integer("ceil_mode") != 0;
  return {{e.output,
           {x.shape[0], window_output(node, window, 0, x.shape[1], ceil_mode),
            window_output(node, window, 1, x.shape[2], ceil_mode), x.shape[3]}}};
}

void reference_pool(const Node& node, std::span<const Tensor* const> in, std::span<Tensor> out) {
  const Tensor& x = *in[0];
  const Dims &xd = x.dims(), &yd = out[0].dims();
  const Window window = window_of(node, node.integers("kernel"));
  const bool average = node.text("mode") == "average", all = node.integer("count_include_pad") != 0;
  const Epilogue e = epilogue_of(node);
  const auto multiplier = static_cast<float>(node.real("multiplier"));
  const int32_t zero = zero_point(node, "x_zero_point");
  size_t at = 0;
  for (int64_t n = 0; n < yd[0]; ++n)
    for (int64_t oy = 0; oy < yd[1]; ++oy)
      for (int64_t ox = 0; ox < yd[2]; ++ox)
        for (int64_t c = 0; c < yd[3]; ++c, ++at) {
          double sum = 0, most = -std::numeric_limits<double>::infinity();
          int64_t count = 0;
          for (int64_t ky = 0; ky < window.kernel[0]; ++ky)
            for (int64_t kx = 0; kx < window.kernel[1]; ++kx) {
              const int64_t iy = oy * window.strides[0] + ky * window.dilations[0] - window.pads[0];
              const int64_t ix = ox * window.strides[1] + kx * window.dilations[1] - window.pads[1];
              // Padding counts, but not what ceil_mode adds behind it.
              const bool padded = iy < xd[1] + window.pads[2] && ix < xd[2] + window.pads[3];
              const bool inside = iy >= 0 && iy < xd[1] && ix >= 0 && ix < xd[2];
              count += all ? padded : inside;
              if (!inside) continue;
              const double v =
                  centred(x, static_cast<size_t>(((n * xd[1] + iy) * xd[2] + ix) * xd[3] + c),
                          average ? zero : 0);
              sum += v;
              most = std::max(most, v);
            }
          if (!average) {
            if (x.dtype() == DType::f32)
              out[0].mutable_values<float>()[at] = static_cast<float>(most);
            else
              store({-256, 256, 0, e.output}, static_cast<float>(most), out[0], at);
          } else if (x.dtype() == DType::f32) {
            store(e, static_cast<float>(sum / static_cast<double>(count)), out[0], at);
          } else {  // sum is an exact int32
            store(e,
                  static_cast<float>(static_cast<int32_t>(sum)) *
                      (multiplier / static_cast<float>(count)),
                  out[0], at);
          }
        }
}

}  // namespace

const OpImpl op_quantized_add{
    .doc =
        "y = epilogue((a - a_zero_point) * a_multiplier + (b - b_zero_point) * b_multiplier), "
        "integers.",
    .min_inputs = 2,
    .max_inputs = 2,
    .attributes = with_zero_points(
        {{"a_multiplier", AttributeKind::real, true}, {"b_multiplier", AttributeKind::real, true}}),
    .infer = infer_binary,
    .reference = reference_add};

const OpImpl op_quantized_mul{
    .doc = "y = epilogue((a - a_zero_point) * (b - b_zero_point) * multiplier), integers.",
    .min_inputs = 2,
    .max_inputs = 2,
    .attributes = with_zero_points({{"multiplier", AttributeKind::real, true}}),
    .infer = infer_binary,
    .reference = reference_mul};

const OpImpl op_lookup{
    .doc = "y = table[x as an unsigned byte]: any function of one 8-bit element.",
    .min_inputs = 2,
    .max_inputs = 2,
    .infer = infer_lookup,
    .reference = reference_lookup};

const OpImpl op_pool{
    .doc =
        "max or average over windows of x [N, H, W, C]; integer averages are "
        "epilogue(sum(x - x_zero_point) * (multiplier / count)).",
    .attributes =
        [] {
          auto specs = epilogue_attributes();
          for (auto& spec : window_attributes()) specs.push_back(spec);
          specs.push_back({"mode", AttributeKind::text, true});
          specs.push_back({"kernel", AttributeKind::integers, true});
          specs.push_back({"ceil_mode", AttributeKind::integer, false, int64_t{0}});
          specs.push_back({"count_include_pad", AttributeKind::integer, false, int64_t{0}});
          specs.push_back({"x_zero_point", AttributeKind::integer, false, int64_t{0}});
          specs.push_back({"multiplier", AttributeKind::real, false, 1.0});
          return specs;
        }(),
    .infer = infer_pool,
    .reference = reference_pool};

}  // namespace octavo::ops
