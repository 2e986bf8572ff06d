// fused_attention: the lowered stage's attention over heads, channels last.
#include <cmath>
#include <limits>

#include "ops/fused.h"
#include "ops/op.h"

namespace octavo::ops {
namespace {

bool is_byte(DType dtype) { return dtype == DType::u8 || dtype == DType::i8; }

struct Sizes {
  size_t batch, queries, keys, heads, depth, v_depth;
};

Sizes sizes_of(std::span<const Tensor* const> in) {
  const Dims &q = in[0]->dims(), &k = in[1]->dims(), &v = in[2]->dims();
  const auto size = [](int64_t d) { return static_cast<size_t>(d); };
  return {size(q[0]), size(q[1]), size(k[1]), size(q[2]), size(q[3]), size(v[3])};
}

std::vector<TensorType> infer(const Node& node) {
  const TensorType &q = node.input(0)->type(), &k = node.input(1)->type(),
                   &v = node.input(2)->type();
  require(node, q.shape.rank() == 4 && k.shape.rank() == 4 && v.shape.rank() == 4,
          "q, k and v are [N, L, H, D]");
  require(node, q.shape[0] == k.shape[0] && q.shape[2] == k.shape[2] && q.shape[3] == k.shape[3],
          "q and k must agree in batch, heads and depth");
  require(node, k.shape[0] == v.shape[0] && k.shape[1] == v.shape[1] && k.shape[2] == v.shape[2],
          "k and v must agree in batch, length and heads");
  const DType output = epilogue_of(node).output;
  if (q.dtype == DType::f32)
    require(node, k.dtype == DType::f32 && v.dtype == DType::f32 && output == DType::f32,
            "f32 in gives f32 out");
  else
    require(node, is_byte(q.dtype) && is_byte(k.dtype) && is_byte(v.dtype),
            "q, k and v must be f32, or u8 or i8");
  if (const Value* mask = node.input(3)) {
    const Shape &m = mask->shape(), full{q.shape[0], q.shape[2], q.shape[1], k.shape[1]};
    require(node, mask->dtype() == DType::f32 && m.rank() == 4, "the mask is f32 [N, H, Lq, Lk]");
    for (size_t i = 0; i < 4; ++i)
      require(node, m[i] == full[i] || (i < 3 && m[i] == Dim(1)),
              "the mask must broadcast to [N, H, Lq, Lk] and be whole along the keys");
  }
  return {{output, {q.shape[0], q.shape[1], q.shape[2], v.shape[3]}}};
}

// Row [batch, head, query] of a mask.
const float* mask_row(const Tensor* mask, size_t batch, size_t head, size_t query) {
  if (!mask) return nullptr;
  const auto d = [&](size_t i) { return static_cast<size_t>(mask->dims()[i]); };
  const size_t row =
      ((d(0) == 1 ? 0 : batch) * d(1) + (d(1) == 1 ? 0 : head)) * d(2) + (d(2) == 1 ? 0 : query);
  return mask->values<float>().data() + row * d(3);
}

void float_row(const Node& node, const Sizes& s, std::span<const Tensor* const> in,
               const float* mask, size_t q_at, size_t kv_at, size_t head, Tensor& out, size_t at) {
  const auto q = in[0]->values<float>(), k = in[1]->values<float>(), v = in[2]->values<float>();
  std::vector<double> weights(s.keys);
  double most = -std::numeric_limits<double>::infinity(), sum = 0;
  for (size_t j = 0; j < s.keys; ++j) {
    double score = 0;
    for (size_t d = 0; d < s.depth; ++d)
      score += static_cast<double>(q[q_at + d]) * k[((kv_at + j) * s.heads + head) * s.depth + d];
    weights[j] = score * node.real("score_multiplier") + (mask ? mask[j] : 0);
    most = std::max(most, weights[j]);
  }
  for (double& w : weights) sum += w = std::exp(w - most);
  for (size_t d = 0; d < s.v_depth; ++d) {
    double y = 0;
    for (size_t j = 0; j < s.keys; ++j)
      y += weights[j] * v[((kv_at + j) * s.heads + head) * s.v_depth + d];
    out.mutable_values<float>()[at + d] = static_cast<float>(y / sum);
  }
}

// round_half_even(255 * 2^t) for t <= 0, each operation a float32 rounding.
int32_t exp2_steps(float t) {
  t = t > -30 ? t : -30;  // and NaN
  const float n = std::nearbyint(t), r = t - n;
  float p = 0.00958279613405466f * r;
  for (float c : {0.05590631067752838f, 0.24024099111557007f, 0.6931242346763611f}) {
    p = p + c;
    p = p * r;
  }
  p = p + 1;
  p = p * 255;
  return static_cast<int32_t>(std::nearbyint(p * std::exp2(n)));
}

// As a signed byte: i8, or u8 less 128.
int32_t signed_byte(const Tensor& t, size_t i) {
  return t.dtype() == DType::i8 ? t.values<int8_t>()[i] : t.values<uint8_t>()[i] - 128;
}

void integer_row(const Node& node, const Sizes& s, std::span<const Tensor* const> in,
                 const float* mask, size_t q_at, size_t kv_at, size_t head, Tensor& out,
                 size_t at) {
  const auto q_zero = static_cast<int32_t>(node.integer("q_zero_point"));
  const auto v_zero =
      static_cast<int32_t>(node.integer("v_zero_point")) - (in[2]->dtype() == DType::u8 ? 128 : 0);
  const auto multiplier = static_cast<float>(node.real("score_multiplier"));
  const Epilogue e = epilogue_of(node);
  std::vector<float> scores(s.keys);
  float most = -std::numeric_limits<float>::infinity();
  for (size_t j = 0; j < s.keys; ++j) {
    int64_t sum = 0;
    for (size_t d = 0; d < s.depth; ++d)
      sum += static_cast<int64_t>(centred(*in[0], q_at + d, q_zero)) *
             signed_byte(*in[1], ((kv_at + j) * s.heads + head) * s.depth + d);
    float f = static_cast<float>(static_cast<int32_t>(sum)) * multiplier;
    if (mask) {
      const float in_powers_of_2 = mask[j] * 1.44269504088896341f;
      f = f + in_powers_of_2;
    }
    scores[j] = f;
    most = std::max(most, f);
  }
  std::vector<int32_t> steps(s.keys);
  int32_t total = 0;
  for (size_t j = 0; j < s.keys; ++j) total += steps[j] = exp2_steps(scores[j] - most);
  total = std::max(total, 1);
  const float ratio = static_cast<float>(node.real("y_multiplier")) / static_cast<float>(total);
  for (size_t d = 0; d < s.v_depth; ++d) {
    int64_t sum = 0;
    for (size_t j = 0; j < s.keys; ++j)
      sum += static_cast<int64_t>(steps[j]) *
             signed_byte(*in[2], ((kv_at + j) * s.heads + head) * s.v_depth + d);
    const float difference =
        static_cast<float>(static_cast<int32_t>(sum)) - static_cast<float>(v_zero * total);
    store(e, difference * ratio, out, at + d);
  }
}

void reference(const Node& node, std::span<const Tensor* const> in, std::span<Tensor> out) {
  const Sizes s = sizes_of(in);
  const Tensor* mask = in.size() > 3 ? in[3] : nullptr;
  const auto row = in[0]->dtype() == DType::f32 ? float_row : integer_row;
  for (size_t n = 0; n < s.batch; ++n)
    for (size_t i = 0; i < s.queries; ++i)
      for (size_t h = 0; h < s.heads; ++h) {
        const size_t position = (n * s.queries + i) * s.heads + h;
        row(node, s, in, mask_row(mask, n, h, i), position * s.depth, n * s.keys, h, out[0],
            position * s.v_depth);
      }
}

}  // namespace

const OpImpl op_fused_attention{
    .doc =
        "softmax(q k^T * score_multiplier + mask) v by heads: q [N, Lq, H, D], k [N, Lk, H, D], v "
        "[N, Lk, H, V], optional f32 mask [N, H, Lq, Lk] (1 repeats, but not along the keys), y "
        "[N, Lq, H, V]. Of bytes: p = round(255 * 2^(f - max f)), f = (q - q_zero_point) k' * "
        "score_multiplier + mask * log2(e), y = epilogue((p v' - v_zero_point' * sum p) * "
        "(y_multiplier / sum p)), where k' and v' are i8, or u8 less 128.",
    .min_inputs = 3,
    .max_inputs = 4,
    .attributes =
        [] {
          auto specs = epilogue_attributes();
          specs.push_back({"score_multiplier", AttributeKind::real, false, 1.0});
          specs.push_back({"y_multiplier", AttributeKind::real, false, 1.0});
          specs.push_back({"q_zero_point", AttributeKind::integer, false, int64_t{0}});
          specs.push_back({"v_zero_point", AttributeKind::integer, false, int64_t{0}});
          return specs;
        }(),
    .infer = infer,
    .reference = reference};

}  // namespace octavo::ops
