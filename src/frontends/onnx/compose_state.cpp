// Layers that carry a state from call to call: CausalConvWithState, LinearAttention, TensorScatter.
#include <cmath>

#include "frontends/onnx/compose.h"

namespace octavo::onnx_import {
namespace {

// Depthwise convolution along time over what came before.
std::vector<Value*> import_causal_conv(OnnxNodeReader& reader) {
  Composer make(reader);
  Value *x = make.input(0), *w = make.input(1), *past = reader.input(3);
  if (x->shape().rank() != 3 || w->shape().rank() != 3)
    reader.invalid("input and weights must be of rank 3");
  const int64_t before = make.known_size(w, 2, "a kernel size") - 1,
                channels = make.known_size(w, 0, "a number of channels");
  Value* padded =
      past ? make.concat({past, x}, 2) : make("pad", {x}, {{"pads", Ints{0, 0, before, 0, 0, 0}}});
  Value* y = make("conv", {padded, w, reader.input(2)}, {{"group", channels}});
  const std::string activation = reader.text("activation", "none");
  if (activation == "silu" || activation == "swish")
    y = make.cast(make("silu", {make.cast(y, DType::f32)}), x->dtype());
  else if (activation != "none")
    reader.invalid(fmt::format("activation '{}' is not known", activation));
  Value* state =
      before == 0 ? make.slice(padded, 2, 0, 0) : make.slice(padded, 2, -before, INT64_MAX);
  return {y, state};
}

// [batch, time, heads * size] to [batch, heads, time, size], in f32.
Value* split(Composer& make, Value* x, int64_t heads) {
  return make.transpose(make.reshape(make.cast(x, DType::f32), {0, 0, heads, -1}), {0, 2, 1, 3});
}

// state = exp(decay) state + k v', v' = beta (v - k state); y = scale q state, step by step.
std::vector<Value*> import_linear_attention(OnnxNodeReader& reader) {
  Composer make(reader);
  const std::string rule = reader.text("update_rule", "gated_delta");
  const bool gated = rule == "gated" || rule == "gated_delta",
             delta = rule == "delta" || rule == "gated_delta";
  if (!gated && !delta && rule != "linear")
    reader.invalid(fmt::format("update_rule '{}' is not known", rule));
  const int64_t q_heads = reader.integer("q_num_heads", 0),
                heads = reader.integer("kv_num_heads", 0);
  if (heads < 1 || q_heads < 1 || q_heads % heads != 0)
    reader.invalid("q_num_heads must be a multiple of kv_num_heads");
  Value *q = split(make, make.input(0), q_heads), *k = split(make, make.input(1), heads),
        *v = split(make, make.input(2), heads), *past = reader.input(3);
  Value* decay = gated ? make("exp", {split(make, make.input(4), heads)}) : nullptr;
  Value* beta = nullptr;
  if (delta) {
    beta = make.cast(make.input(5), DType::f32);
    beta = make("unsqueeze", {make.transpose(beta, {0, 2, 1})}, {{"axes", Ints{3}}});
  }
  const int64_t steps = make.known_size(q, 2, "a number of steps"),
                size = make.known_size(k, 3, "a size of keys");
  double scale = reader.real("scale", 0);
  if (scale == 0) scale = 1 / std::sqrt(static_cast<double>(size));
  const auto at = [&](Value* x, int64_t t) { return make.slice(x, 2, t, t + 1); };
  Value* state = past ? make.cast(past, DType::f32) : nullptr;
  std::vector<Value*> outputs;
  for (int64_t t = 0; t < steps; ++t) {
    Value *key = make.transpose(at(k, t), {0, 1, 3, 2}), *value = at(v, t);
    if (state && gated) state = make("mul", {state, make.transpose(at(decay, t), {0, 1, 3, 2})});
    if (delta) {
      if (state) value = make("sub", {value, make("matmul", {at(k, t), state})});
      value = make("mul", {value, at(beta, t)});
    }
    Value* more = make("matmul", {key, value});
    state = state ? make("add", {state, more}) : more;
    Value* read = state;
    if (q_heads != heads) {
      read = make("expand", {make("unsqueeze", {read}, {{"axes", Ints{2}}})},
                  {{"shape", Ints{1, 1, q_heads / heads, 1, 1}}});
      read = make.reshape(read, {0, q_heads, -1, make.known_size(v, 3, "a size of values")});
    }
    outputs.push_back(make("mul", {make("matmul", {at(q, t), read}), make.number(scale, read)}));
  }
  if (outputs.empty()) reader.unsupported("no steps");
  Value* y = make.reshape(make.transpose(make.concat(outputs, 2), {0, 2, 1, 3}), {0, 0, -1});
  return {make.cast(y, make.input(0)->dtype()),
          make.cast(state, past ? past->dtype() : make.input(0)->dtype())};
}

// Rows of `update` written into a cache along an axis, from an index per sample on.
std::vector<Value*> import_tensor_scatter(OnnxNodeReader& reader) {
  Composer make(reader);
  Value *cache = make.input(0), *update = make.input(1), *start = reader.input(2);
  const int64_t rank = cache->shape().rank();
  int64_t axis = reader.integer("axis", -2);
  if (axis < 0) axis += rank;
  if (axis < 1 || axis >= rank || update->shape().rank() != rank)
    reader.invalid("axis is outside the rank, or the ranks differ");
  const std::string mode = reader.text("mode", "linear");
  if (mode != "linear" && mode != "circular") reader.invalid("mode must be linear or circular");
  Ints column(static_cast<size_t>(rank), 1), sample = column;
  column[static_cast<size_t>(axis)] = -1;
  sample[0] = -1;
  Value* index = make.reshape(
      make("range", {make.ints({0}), make.size(update, axis), make.ints({1})}), column);
  if (start) index = make("add", {index, make.reshape(start, sample)});
  if (mode == "circular") index = make("mod", {index, make.size(cache, axis)});
  index = make("expand", {index, make("shape", {update})});
  return {make("scatter_elements", {cache, index, update}, {{"axis", axis}})};
}

constexpr OnnxImportRule rules[] = {
    {.op_type = "CausalConvWithState", .import = import_causal_conv},
    {.op_type = "LinearAttention", .import = import_linear_attention},
    {.op_type = "TensorScatter", .since = 24, .import = import_tensor_scatter}};

}  // namespace

std::span<const OnnxImportRule> state_rules() { return rules; }

}  // namespace octavo::onnx_import
