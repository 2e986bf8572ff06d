// Attention by products: forward as the pattern that liboctavo fuses, and for training with the
// logarithms of the sums that backward wants.
#include <cmath>

#include "lower.h"

namespace octavo::aten {
namespace {

using Values = std::vector<IrValue*>;

bool has_mask(const Call& call) { return call.find("attn_mask") >= 0 && call.given("attn_mask"); }
bool is_causal(const Call& call) { return call.find("is_causal") >= 0 && call.flag("is_causal"); }

bool accepts(const Call& call) {
  bool good = true;
  call.for_each_tensor(
      [&](ValueId value) { good = good && is_f32(call.graph().values[Call::at(value)]); });
  const auto &q = call.info("query").sizes, &k = call.info("key").sizes;
  if (!good || q.size() != 4 || k.size() != 4 || q[0] != k[0] || q[1] != k[1]) return false;
  if (call.find("dropout_p") >= 0 && call.real("dropout_p") != 0) return false;
  if (call.find("enable_gqa") >= 0 && call.flag("enable_gqa")) return false;
  // The mask is a constant.
  return !is_causal(call) || (!has_mask(call) && q[2] * k[2] <= 1 << 22);
}

bool accepts_forward(const Call& call) {
  if (call.find("query") < 0 || !accepts(call)) return false;
  const auto& q = call.info("query").sizes;
  const std::vector<std::int64_t> rows(q.begin(), q.end() - 1);
  const auto& outputs = call.node().outputs;
  for (std::size_t i = 1; i < outputs.size(); ++i)
    if (!call.unused(i) && (i > 1 || call.output(i).sizes != rows)) return false;
  return is_f32(call.output());
}

struct Scores {
  IrValue* scores;      // scaled, masked
  IrValue* masked_out;  // rows of which nothing is left, or null; they give zeros
  double scale;
};

Scores scores_of(Lowering& to, const Call& call) {
  IrValue *q = to.tensor(call, "query"), *k = to.tensor(call, "key");
  const auto q_sizes = Lowering::sizes(q), k_sizes = Lowering::sizes(k);
  const double scale = call.real("scale", 1 / std::sqrt(static_cast<double>(q_sizes.back())));
  IrValue* scores = to.mul(to.apply("matmul", {q, to.swap_last(k)}), to.scalar(scale));
  IrValue* masked_out = nullptr;
  if (has_mask(call)) {
    IrValue* mask = to.tensor(call, "attn_mask");
    scores = to.add(scores, mask);
    if (const auto rank = static_cast<std::int64_t>(mask->shape().size()))
      masked_out = to.apply(
          "equal", {to.reduce("reduce_max", mask, {rank - 1}, true), to.scalar(-INFINITY)});
  }
  if (is_causal(call)) {
    const std::int64_t rows = q_sizes[2], columns = k_sizes[2];
    octavo::Tensor mask(DType::f32, {rows, columns});
    auto values = mask.mutable_values<float>();
    for (std::int64_t i = 0; i < rows; ++i)
      for (std::int64_t j = 0; j < columns; ++j)
        values[static_cast<std::size_t>(i * columns + j)] = j <= i ? 0.0f : -INFINITY;
    scores = to.add(scores, to.graph().add_constant("", mask));
  }
  return {scores, masked_out, scale};
}

IrValue* or_zero(Lowering& to, const Scores& s, IrValue* y) {
  return s.masked_out ? to.where(s.masked_out, to.scalar(0), y) : y;
}

Values forward(Lowering& to, const Call& call) {
  const Scores s = scores_of(to, call);
  IrValue* value = to.tensor(call, "value");
  Values results(call.node().outputs.size(), nullptr);
  if (results.size() < 2 || call.unused(1)) {
    IrValue* weights = to.apply("softmax", {s.scores}, {{"axis", std::int64_t{-1}}});
    results[0] = or_zero(to, s, to.apply("matmul", {weights, value}));
    return results;
  }
  IrValue* greatest = to.reduce("reduce_max", s.scores, {3}, true);
  IrValue* powers = to.apply("exp", {to.sub(s.scores, greatest)});
  IrValue* sum = to.reduce("reduce_sum", powers, {3}, true);
  results[0] = or_zero(to, s, to.apply("matmul", {to.div(powers, sum), value}));
  results[1] =
      to.reshape(or_zero(to, s, to.add(greatest, to.apply("log", {sum}))), call.output(1).sizes);
  return results;
}

// With P = exp(scores - logsumexp): dV = P' dO, dS = P (dO V' - sum(dO O)), dQ = scale dS K,
// dK = scale dS' Q.
bool accepts_backward(const Call& call) {
  if (!accepts(call)) return false;
  const auto& q = call.info("query").sizes;
  return call.info("logsumexp").sizes == std::vector<std::int64_t>(q.begin(), q.end() - 1);
}
Values backward(Lowering& to, const Call& call) {
  const Scores s = scores_of(to, call);
  IrValue *grad = to.tensor(call, "grad_out"), *out = to.tensor(call, "out");
  std::vector<std::int64_t> rows = call.info("logsumexp").sizes;
  rows.push_back(1);
  IrValue* logsumexp = to.reshape(to.tensor(call, "logsumexp"), rows);
  IrValue* weights = or_zero(to, s, to.apply("exp", {to.sub(s.scores, logsumexp)}));
  Values results(3, nullptr);
  if (!call.unused(2)) results[2] = to.apply("matmul", {to.swap_last(weights), grad});
  if (call.unused(0) && call.unused(1)) return results;
  IrValue* slope = to.apply("matmul", {grad, to.swap_last(to.tensor(call, "value"))});
  IrValue* sum = to.reduce("reduce_sum", to.mul(grad, out), {3}, true);
  IrValue* d = to.mul(to.mul(weights, to.sub(slope, sum)), s.scale);
  if (!call.unused(0)) results[0] = to.apply("matmul", {d, to.tensor(call, "key")});
  if (!call.unused(1)) results[1] = to.apply("matmul", {to.swap_last(d), to.tensor(call, "query")});
  return results;
}

constexpr Rule rules[] = {
    {"aten::scaled_dot_product_attention", accepts_forward, forward},
    {"aten::_scaled_dot_product_flash_attention_for_cpu", accepts_forward, forward},
    {"aten::_scaled_dot_product_flash_attention_for_cpu_backward", accepts_backward, backward},
};

}  // namespace

std::span<const Rule> attention_rules() { return rules; }

}  // namespace octavo::aten
