// Networks whose layers are measured: residual and gated convolutions, a transformer block, and one
// that is bad in one place.
#pragma once
#include <memory>
#include <string>
#include <vector>

#include "api/octavo.h"
#include "graph/text.h"

namespace octavo {

// Residual, concat, depthwise, pooling, two outputs, any batch; no node has a name.
inline constexpr const char* residual_network = R"(graph "residual" canonical {
  input %x : f32[N, 4, 9, 9]
  const %0 : f32[8, 4, 3, 3] = random(1, -1, 1)
  const %1 : f32[8, 1, 3, 3] = random(2, -1, 1)
  const %2 : f32[8, 16, 1, 1] = random(3, -1, 1)
  const %3 : f32[5, 8] = random(4, -1, 1)
  %4 = conv(%x, %0) {pads = [1, 1, 1, 1]}
  %5 = relu(%4)
  %6 = conv(%5, %1) {pads = [1, 1, 1, 1], group = 8}
  %7 = concat(%5, %6) {axis = 1}
  %8 = conv(%7, %2)
  %9 = add(%8, %5)
  %10 = relu(%9)
  %11 = reduce_mean(%10) {axes = [2, 3], keepdims = 0}
  %12 = gemm(%11, %3) {trans_b = 1}
  return %12, %10
})";

// SiLU, squeeze and excite, an addition whose shortcut comes from another product.
inline constexpr const char* gated_network = R"(graph "gated" canonical {
  input %x : f32[2, 3, 12, 12]
  const %w0 : f32[8, 3, 3, 3] = random(1, -0.5, 0.5)
  const %w1 : f32[8, 8, 1, 1] = random(2, -0.5, 0.5)
  const %w2 : f32[8, 8, 1, 1] = random(3, -0.5, 0.5)
  const %w3 : f32[8, 8, 3, 3] = random(4, -0.3, 0.3)
  const %w4 : f32[6, 8] = random(5, -1, 1)
  %c0 = conv(%x, %w0) {pads = [1, 1, 1, 1], strides = [2, 2]}
  %a0 = silu(%c0)
  %mean = reduce_mean(%a0) {axes = [2, 3], keepdims = 1}
  %c1 = conv(%mean, %w1)
  %gate = sigmoid(%c1)
  %gated = mul(%a0, %gate)
  %c2 = conv(%gated, %w2)
  %c3 = conv(%a0, %w3) {pads = [1, 1, 1, 1]}
  %sum = add(%c2, %c3)
  %act = relu(%sum)
  %pool = max_pool(%act) {kernel = [2, 2], strides = [2, 2]}
  %last = reduce_mean(%pool) {axes = [2, 3], keepdims = 0}
  %y = gemm(%last, %w4) {trans_b = 1}
  return %y
})";

inline constexpr const char* transformer_network = R"(graph "transformer" canonical {
  input %x : f32[1, 6, 16]
  const %scale : f32[16] = random(9, 0.5, 1.5)
  const %shift : f32[16] = random(10, -0.5, 0.5)
  const %wq : f32[16, 16] = random(1, -0.5, 0.5)
  const %wk : f32[16, 16] = random(2, -0.5, 0.5)
  const %wv : f32[16, 16] = random(3, -0.5, 0.5)
  const %bq : f32[16] = random(13, -0.5, 0.5)
  const %wo : f32[16, 16] = random(4, -0.5, 0.5)
  const %w1 : f32[16, 32] = random(5, -0.5, 0.5)
  const %w2 : f32[32, 16] = random(6, -0.5, 0.5)
  const %root : f32[] = 2.828
  %n, %mean, %factor = layer_norm(%x, %scale, %shift) {epsilon = 0.00001}
  %q0 = matmul(%n, %wq)
  %q1 = add(%q0, %bq)
  %k1 = matmul(%n, %wk)
  %v1 = matmul(%n, %wv)
  %q2 = reshape(%q1) {shape = [1, 6, 2, 8]}
  %k2 = reshape(%k1) {shape = [1, 6, 2, 8]}
  %v2 = reshape(%v1) {shape = [1, 6, 2, 8]}
  %q = transpose(%q2) {perm = [0, 2, 1, 3]}
  %k = transpose(%k2) {perm = [0, 2, 3, 1]}
  %v = transpose(%v2) {perm = [0, 2, 1, 3]}
  %s = matmul(%q, %k)
  %d = div(%s, %root)
  %p = softmax(%d)
  %o = matmul(%p, %v)
  %t = transpose(%o) {perm = [0, 2, 1, 3]}
  %r = reshape(%t) {shape = [1, 6, 16]}
  %proj = matmul(%r, %wo)
  %h = add(%proj, %x)
  %n2, %mean2, %factor2 = layer_norm(%h, %scale, %shift) {epsilon = 0.00001}
  %m1 = matmul(%n2, %w1)
  %g = gelu(%m1)
  %m2 = matmul(%g, %w2)
  %y = add(%m2, %h)
  return %y
})";

// Three products in a row. The middle one's input is mostly below 1 with a few values of 1000,
// which its weights (0 for those channels) never see: its range wastes the integers.
inline constexpr const char* bad_middle_network = R"(graph "bad" canonical {
  input %x : f32[1, 4]
  const %w0 : f32[4, 4] = [1, 0, 0, 0, 0, 1, 0, 0, 0, 0, 1, 0, 0, 0, 0, 1000]
  const %w1 : f32[4, 4] = [1, 1, 0, 0, 0, 1, 1, 0, 1, 0, 1, 0, 0, 0, 0, 0]
  const %w2 : f32[4, 4] = [1, 0, 1, 0, 0, 1, 0, 1, 1, 0, 0, 1, 0, 1, 0, 1]
  %first = matmul(%x, %w0)
  %middle = matmul(%first, %w1)
  %last = matmul(%middle, %w2)
  return %last
})";

// A table of words, products of every precision (mixed_rules), a convolution, and an addition of
// two products that read one tensor.
inline constexpr const char* mixed_network = R"(graph "mixed" canonical {
  input %x : f32[1, 4, 8, 8]
  input %words : i64[1, 64]
  const %table : f32[128, 32] = random(1, -1, 1)
  const %w0 : f32[8, 4, 3, 3] = random(2, -0.5, 0.5)
  const %w1 : f32[8, 8, 1, 1] = random(3, -0.5, 0.5)
  const %w2 : f32[40, 48] = random(4, -0.3, 0.3)
  const %b2 : f32[48] = random(5, -0.5, 0.5)
  const %w3 : f32[48, 40] = random(6, -0.3, 0.3)
  const %w4 : f32[48, 40] = random(7, -0.3, 0.3)
  const %w5 : f32[40, 24] = random(8, -0.3, 0.3)
  %embedded = gather(%table, %words) {axis = 0}
  %c0 = conv(%x, %w0) {pads = [1, 1, 1, 1]}
  %a0 = relu(%c0)
  %c1 = conv(%a0, %w1)
  %a1 = relu(%c1)
  %flat = reshape(%a1) {shape = [1, 8, 64]}
  %rows = transpose(%flat) {perm = [0, 2, 1]}
  %both = concat(%embedded, %rows) {axis = 2}
  %m2 = matmul(%both, %w2)
  %h2 = add(%m2, %b2)
  %a2 = relu(%h2)
  %m3 = matmul(%a2, %w3)
  %m4 = matmul(%a2, %w4)
  %sum = add(%m3, %m4)
  %y = matmul(%sum, %w5)
  return %y
})";

// Convolutions: one dynamic, one of i8 weights. Matrix products: two dynamic, one of which reads
// what the 4-bit one reads, and the last static.
inline Rules mixed_rules() {
  Rules rules;
  rules.rules = {{.name = "c0", .precision = Precision::dynamic},
                 {.name = "c1", .precision = Precision::int8_weights},
                 {.name = "m2", .precision = Precision::dynamic},
                 {.name = "m3", .precision = Precision::dynamic},
                 {.name = "m4", .precision = Precision::int4_weights, .group_size = 16}};
  return rules;
}

inline std::unique_ptr<Dataset> noise(const Graph& graph, size_t samples, uint64_t seed = 1,
                                      int64_t batch = 1) {
  std::vector<std::vector<Tensor>> all;
  for (size_t i = 0; i < samples; ++i)
    all.push_back(random_inputs(signature_of(graph), seed + i, batch));
  return memory_dataset(std::move(all), signature_of(graph));
}

}  // namespace octavo
