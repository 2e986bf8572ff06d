// Attention of ONNX and of ONNX Runtime (com.microsoft), and rotary embeddings.
#include <cmath>

#include "frontends/onnx/compose.h"

namespace octavo::onnx_import {
namespace {

struct Heads {
  Value *q = nullptr, *k = nullptr, *v = nullptr;  // [batch, heads, length, size]
  Value* mask = nullptr;                           // bool or added; broadcasts to the logits
  Value *past_k = nullptr, *past_v = nullptr;
  Value* lengths = nullptr;  // of keys that are not padding, per sample
  double scale = 0;          // 0: 1 / sqrt(size)
  double softcap = 0;
  bool causal = false;
  int64_t left = -1, right = -1;  // the window about each query; -1 is unbounded
  std::optional<DType> precision;
  int64_t logits_mode = 0;
};

struct Attended {
  Value *y, *k, *v, *logits;
};

// [batch, length, heads * size] to [batch, heads, length, size].
Value* split_heads(Composer& make, Value* x, int64_t heads) {
  if (heads < 1) make.reader().invalid("the number of heads must be given");
  if (x->shape().rank() != 3)
    make.reader().invalid(
        fmt::format("an input is {} instead of [batch, length, size]", x->shape().str()));
  if (const Dim& size = x->shape()[2]; size.is_static() && size.value() % heads != 0)
    make.reader().invalid(fmt::format("{} heads do not divide {}", heads, size.value()));
  return make.transpose(make.reshape(x, {0, 0, heads, -1}), {0, 2, 1, 3});
}
Value* merge_heads(Composer& make, Value* x) {
  return make.reshape(make.transpose(x, {0, 2, 1, 3}), {0, 0, -1});
}

// Each head of keys or values serves several of queries.
Value* repeat_heads(Composer& make, Value* x, int64_t heads) {
  const int64_t own = make.known_size(x, 1, "a number of heads"),
                size = make.known_size(x, 3, "a size of heads");
  if (own == heads) return x;
  if (own == 0 || heads % own != 0) make.reader().invalid("the numbers of heads do not fit");
  Value* wide = make("unsqueeze", {x}, {{"axes", Ints{2}}});
  wide = make("expand", {wide}, {{"shape", Ints{1, 1, heads / own, 1, 1}}});
  return make.reshape(wide, {0, heads, -1, size});
}

// Which keys a query may see, by position: null if all.
Value* visible(Composer& make, const Heads& h, Value* queries, Value* keys) {
  if (!h.causal && h.left < 0 && h.right < 0) return nullptr;
  Value *zero = make.ints({0}), *one = make.ints({1});
  Value* row = make.reshape(make("range", {zero, queries, one}), {-1, 1});
  Value* column = make.reshape(make("range", {zero, keys, one}), {1, -1});
  if (h.past_k)
    row = make("add", {row, make.size(h.past_k, 2)});
  else if (h.lengths)
    row = make("add", {row, make("sub", {make.reshape(h.lengths, {-1, 1, 1, 1}), queries})});
  Value* ahead = make("sub", {column, row});
  Value* allowed = nullptr;
  const auto require = [&](Value* condition) {
    allowed = allowed ? make("logical_and", {allowed, condition}) : condition;
  };
  if (h.causal) require(make("less_equal", {ahead, zero}));
  if (h.left >= 0) require(make("greater_equal", {ahead, make.ints({-h.left})}));
  if (h.right >= 0) require(make("less_equal", {ahead, make.ints({h.right})}));
  return allowed;
}

// What is added to the logits: 0 or -inf by position and mask, and the mask's own numbers.
Value* bias_of(Composer& make, const Heads& h, Value* queries, Value* keys, const Value* like) {
  Value *zero = make.number(0, like), *never = make.number(-HUGE_VAL, like);
  const auto as_bias = [&](Value* allowed) { return make("where", {allowed, zero, never}); };
  Value* bias = nullptr;
  const auto add = [&](Value* more) { bias = bias ? make("add", {bias, more}) : more; };
  if (Value* mask = h.mask) {
    const Dim &have = mask->shape().back(), &want = h.k->shape()[2];
    if (have.is_static() && want.is_static() && have.value() < want.value()) {
      Ints pads(2 * mask->shape().size(), 0);
      pads.back() = want.value() - have.value();
      mask = make("pad", {mask, make.number(mask->dtype() == DType::boolean ? 0 : -HUGE_VAL, mask)},
                  {{"pads", pads}});
    }
    add(mask->dtype() == DType::boolean ? as_bias(mask) : make.cast(mask, like->dtype()));
  }
  if (Value* allowed = visible(make, h, queries, keys)) add(as_bias(allowed));
  if (h.lengths) {
    Value* column = make("range", {make.ints({0}), keys, make.ints({1})});
    add(as_bias(
        make("less", {make.reshape(column, {1, -1}), make.reshape(h.lengths, {-1, 1, 1, 1})})));
  }
  return bias;
}

Attended attend(Composer& make, Heads h) {
  if (h.past_k) h.k = make.concat({h.past_k, h.k}, 2);
  if (h.past_v) h.v = make.concat({h.past_v, h.v}, 2);
  Attended result{nullptr, h.k, h.v, nullptr};
  const int64_t heads = make.known_size(h.q, 1, "a number of heads");
  Value *k = repeat_heads(make, h.k, heads), *v = repeat_heads(make, h.v, heads);
  double scale = h.scale;
  if (scale == 0)
    scale = 1 / std::sqrt(static_cast<double>(make.known_size(h.q, 3, "a size of heads")));
  // Half of the scale on either side, so that half types do not overflow.
  Value* root = make.number(std::sqrt(scale), h.q);
  Value* logits = make(
      "matmul", {make("mul", {h.q, root}), make("mul", {make.transpose(k, {0, 1, 3, 2}), root})});
  result.logits = logits;
  if (h.softcap > 0) {
    Value* cap = make.number(h.softcap, logits);
    logits = make("mul", {make("tanh", {make("div", {logits, cap})}), cap});
  }
  if (h.logits_mode == 1) result.logits = logits;
  Value* bias = bias_of(make, h, make.size(h.q, 2), make.size(h.k, 2), logits);
  if (bias) logits = make("add", {logits, bias});
  if (h.logits_mode == 2) result.logits = logits;
  if (h.precision) logits = make.cast(logits, *h.precision);
  Value* weights = make("softmax", {logits});
  if (bias) {  // a query that may see nothing sees zeros
    Value* most = make("reduce_max", {bias}, {{"axes", Ints{-1}}});
    Value* nothing = make("equal", {most, make.number(-HUGE_VAL, most)});
    weights = make("where", {nothing, make.number(0, weights), weights});
  }
  weights = make.cast(weights, h.q->dtype());
  if (h.logits_mode == 3) result.logits = weights;
  result.y = make("matmul", {weights, v});
  return result;
}

std::vector<Value*> import_attention(OnnxNodeReader& reader) {
  Composer make(reader);
  Heads h{.q = make.input(0),
          .k = make.input(1),
          .v = make.input(2),
          .mask = reader.input(3),
          .past_k = reader.input(4),
          .past_v = reader.input(5),
          .lengths = reader.input(6),
          .scale = reader.real("scale", 0),
          .softcap = reader.real("softcap", 0),
          .causal = reader.integer("is_causal", 0) != 0,
          .left = reader.integer("left_window_size", -1),
          .right = reader.integer("right_window_size", -1),
          .precision = std::nullopt,
          .logits_mode = reader.integer("qk_matmul_output_mode", 0)};
  if (h.q->shape().rank() != h.k->shape().rank() || h.k->shape().rank() != h.v->shape().rank())
    reader.invalid("query, key and value differ in rank");
  if (!h.past_k != !h.past_v) reader.invalid("past key and past value go together");
  if (const int64_t type = reader.integer("softmax_precision", 0))
    h.precision = reader.element_type(type);
  const bool flat = h.q->shape().rank() == 3;
  if (flat) {
    const int64_t kv = reader.integer("kv_num_heads", 0);
    h.q = split_heads(make, h.q, reader.integer("q_num_heads", 0));
    h.k = split_heads(make, h.k, kv);
    h.v = split_heads(make, h.v, kv);
  } else if (h.q->shape().rank() != 4) {
    reader.invalid("query, key and value must be of rank 3 or 4");
  }
  const Attended a = attend(make, h);
  return {flat ? merge_heads(make, a.y) : a.y, a.k, a.v, a.logits};
}

// ---- com.microsoft

// 1 keeps, 0 leaves out: [batch, keys], or the lengths [batch].
void set_key_mask(Composer& make, Heads& h, Value* mask) {
  if (!mask) return;
  const int64_t rank = mask->shape().rank();
  if (rank == 1)
    h.lengths = make.cast(mask, DType::i64);
  else if (rank == 2)
    h.mask = make.reshape(make.cast(mask, DType::boolean), {0, 1, 1, -1});
  else
    make.reader().unsupported(fmt::format("a key mask of rank {}", rank));
}

void add_attention_bias(Composer& make, Heads& h, Value* bias) {
  if (!bias) return;
  if (!h.mask) {
    h.mask = bias;
    return;
  }
  Value* kept = make("where", {h.mask, make.number(0, bias), make.number(-HUGE_VAL, bias)});
  h.mask = make("add", {kept, bias});
}

std::vector<Value*> import_multi_head(OnnxNodeReader& reader) {
  Composer make(reader);
  const int64_t heads = reader.integer("num_heads", 0);
  Value *q = make.input(0), *k = make.input(1), *v = make.input(2);
  if (q->shape().rank() != 3 || k->shape().rank() != 3 || v->shape().rank() != 3)
    reader.unsupported("packed query, key and value");
  if (Value* bias = reader.input(3)) {
    const int64_t nq = make.known_size(q, 2, "a hidden size"),
                  nk = make.known_size(k, 2, "a hidden size"),
                  nv = make.known_size(v, 2, "a hidden size");
    q = make("add", {q, make.slice(bias, 0, 0, nq)});
    k = make("add", {k, make.slice(bias, 0, nq, nq + nk)});
    v = make("add", {v, make.slice(bias, 0, nq + nk, nq + nk + nv)});
  }
  Heads h{.q = split_heads(make, q, heads),
          .k = split_heads(make, k, heads),
          .v = split_heads(make, v, heads),
          .past_k = reader.input(6),
          .past_v = reader.input(7),
          .scale = reader.real("scale", 0),
          .causal = reader.integer("unidirectional", 0) != 0,
          .precision = std::nullopt};
  if (!h.past_k != !h.past_v) reader.invalid("past key and past value go together");
  set_key_mask(make, h, reader.input(4));
  add_attention_bias(make, h, reader.input(5));
  const Attended a = attend(make, h);
  return {merge_heads(make, a.y), a.k, a.v};
}

std::vector<Value*> import_fused(OnnxNodeReader& reader) {
  Composer make(reader);
  if (reader.input(4)) reader.unsupported("a past state");
  const int64_t heads = reader.integer("num_heads", 0);
  Value* all = make("matmul", {make.input(0), make.input(1)});
  if (reader.input(2)) all = make("add", {all, reader.input(2)});
  const int64_t width = make.known_size(all, 2, "a hidden size");
  Ints sizes = reader.integers("qkv_hidden_sizes", {});
  if (sizes.empty()) sizes.assign(3, width / 3);
  if (sizes.size() != 3 || sizes[0] + sizes[1] + sizes[2] != width)
    reader.invalid("the hidden sizes do not add up to the weights' columns");
  Heads h{.q = split_heads(make, make.slice(all, 2, 0, sizes[0]), heads),
          .k = split_heads(make, make.slice(all, 2, sizes[0], sizes[0] + sizes[1]), heads),
          .v = split_heads(make, make.slice(all, 2, sizes[0] + sizes[1], width), heads),
          .scale = reader.real("scale", 0),
          .causal = reader.integer("unidirectional", 0) != 0,
          .precision = std::nullopt};
  set_key_mask(make, h, reader.input(3));
  add_attention_bias(make, h, reader.input(5));
  return {merge_heads(make, attend(make, h).y)};
}

// ---- rotary embeddings

// Pairs (a, b) turned by an angle: (a cos - b sin, a sin + b cos), over the last axis of
// [batch, length, heads, size].
Value* rotate(Composer& make, Value* x, Value* cos, Value* sin, int64_t turned, bool interleaved) {
  const int64_t size = make.known_size(x, 3, "a size of heads");
  if (turned == 0) turned = size;
  if (turned < 2 || turned > size || turned % 2 != 0)
    make.reader().invalid("rotary_embedding_dim does not fit the size of heads");
  Value* part = turned == size ? x : make.slice(x, 3, 0, turned);
  Value *a = nullptr, *b = nullptr;
  if (interleaved) {
    Value* pairs = make.reshape(part, {0, 0, 0, -1, 2});
    const auto side = [&](int64_t i) {
      return make("squeeze", {make.slice(pairs, 4, i, i + 1)}, {{"axes", Ints{4}}});
    };
    a = side(0), b = side(1);
  } else {
    a = make.slice(part, 3, 0, turned / 2), b = make.slice(part, 3, turned / 2, turned);
  }
  const auto times = [&](Value* p, Value* q) { return make("mul", {p, q}); };
  Value* real = make("sub", {times(cos, a), times(sin, b)});
  Value* imaginary = make("add", {times(sin, a), times(cos, b)});
  Value* y = nullptr;
  if (interleaved) {
    const Attributes last{{"axes", Ints{4}}};
    y = make.concat({make("unsqueeze", {real}, last), make("unsqueeze", {imaginary}, last)}, 4);
    y = make.reshape(y, {0, 0, 0, turned});
  } else {
    y = make.concat({real, imaginary}, 3);
  }
  return turned == size ? y : make.concat({y, make.slice(x, 3, turned, size)}, 3);
}

std::vector<Value*> import_rotary(OnnxNodeReader& reader, size_t cos_at, size_t sin_at,
                                  size_t position_at) {
  Composer make(reader);
  Value *x = make.input(0), *cos = make.input(cos_at), *sin = make.input(sin_at);
  const bool flat = x->shape().rank() == 3;
  if (flat) {
    int64_t heads = reader.integer("num_heads", 0);
    if (heads == 0) {  // com.microsoft may leave it to the cache: half a head wide
      const int64_t half = make.known_size(cos, -1, "a size of the cache");
      heads = half == 0 ? 0 : make.known_size(x, 2, "a hidden size") / (2 * half);
    }
    if (heads < 1) reader.invalid("num_heads must be given");
    x = make.reshape(x, {0, 0, heads, -1});
  } else {
    x = make.transpose(x, {0, 2, 1, 3});
  }
  if (Value* positions = reader.input(position_at)) {
    if (positions->shape().rank() == 1) {  // one offset for all: it counts from there
      Value* steps = make("range", {make.ints({0}), make.size(x, 1), make.ints({1})});
      positions = make("add", {positions, make.reshape(steps, {1, -1})});
    }
    cos = make("gather", {cos, positions});
    sin = make("gather", {sin, positions});
  }
  const auto per_head = [&](Value* cache) {
    return make("unsqueeze", {cache}, {{"axes", Ints{2}}});
  };
  Value* y =
      rotate(make, x, per_head(cos), per_head(sin), reader.integer("rotary_embedding_dim", 0),
             reader.integer("interleaved", 0) != 0);
  return {flat ? make.reshape(y, {0, 0, -1}) : make.transpose(y, {0, 2, 1, 3})};
}

constexpr std::string_view microsoft = "com.microsoft";
constexpr OnnxImportRule rules[] = {
    {.op_type = "Attention", .since = 23, .import = import_attention},
    {.op_type = "RotaryEmbedding",
     .since = 23,
     .import = [](OnnxNodeReader& r) { return import_rotary(r, 1, 2, 3); }},
    {.op_type = "RotaryEmbedding",
     .import = [](OnnxNodeReader& r) { return import_rotary(r, 2, 3, 1); },
     .domain = microsoft},
    {.op_type = "MultiHeadAttention", .import = import_multi_head, .domain = microsoft},
    {.op_type = "Attention", .import = import_fused, .domain = microsoft}};

}  // namespace

std::span<const OnnxImportRule> attention_rules() { return rules; }

}  // namespace octavo::onnx_import
