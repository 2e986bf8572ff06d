// The passes. Each is one function in a file of its own; what must hold before is said here, the
// grammar of the stages is checked by the driver (pipeline.h). None changes what a graph computes,
// but for the float rounding of what it merges; those of the lowered stage keep the integer
// arithmetic of ops/fused.h.
#pragma once
#include "graph/graph.h"

namespace octavo {

// ---- captured or canonical, to canonical

// Nodes whose inputs are all constant become constants, unless the result would exceed 64 MB.
void fold_constants(Graph& graph);
// batch_norm after a conv, conv_transpose or gemm with constant weights goes into weights and bias;
// any other becomes a multiplication and an addition, or more if its parameters are computed. No
// batch_norm is left.
void fold_batch_norm(Graph& graph);
// The first of that alone.
void fold_batch_norm_into_products(Graph& graph);
// Removes identities (reshape and transpose to the same, clip without bounds), merges reshape and
// transpose chains, x * sigmoid(x) becomes silu, a constant addend of conv or gemm becomes its
// bias.
void simplify(Graph& graph);
// x / 2 * (1 + erf(x / sqrt 2)), however its products are ordered, becomes gelu.
void fuse_gelu(Graph& graph);

// ---- any stage but lowered

// After the types of inputs changed: infers all types again, in order; on the way, constant inputs
// that are parameters become attributes, and small values that are known now become constants
// (shapes of known inputs and what is computed from them).
void specialize(Graph& graph);

// ---- quantized or canonical, static shapes, to lowered

// quantize of a constant becomes an integer constant.
void quantize_constants(Graph& graph);
// Products of f16 or bf16, functions of elements, pooling and means compute in f32: operands keep
// the values that half holds (constants once, here), and round_to gives the result its half's
// value. A cast to half and back becomes round_to, or nothing where the values are half's already.
void widen_halves(Graph& graph);
// conv_transpose with constant weights, in float or integers, becomes a conv and depth_to_space; a
// clamp and a quantize that follow stay with the conv.
void lower_conv_transpose(Graph& graph);
// matmul(softmax(matmul(q, k) * scale + mask), v) over four axes becomes fused_attention; an
// integer one where q, k and v are dequantized.
void fuse_attention(Graph& graph);
// A dequantize of 8 bits whose one reader only moves elements goes behind it: bytes are moved, and
// the next op sees that its input is an integer.
void sink_dequantize(Graph& graph);
// layer_norm over the last axis takes the quantize that reads it; other readers get the float
// value.
void fuse_layer_norm(Graph& graph);
// gather of rows of a dequantized constant matrix becomes fused_gather: only what is read is
// dequantized.
void fuse_gather(Graph& graph);
// conv, gemm and matmul with constant weights become fused_conv and fused_gemm with what follows:
// bias, one residual addition, a clamp (relu, clip) and a quantize. Between a dequantized input and
// integer weights the product is an integer one.
void fuse_compute(Graph& graph);
// Other ops between dequantize and quantize run on the integers: pooling, add, mul, movement,
// functions of one element (as a table), changes of scale.
void fuse_integer(Graph& graph);
// Float pooling becomes `pool`.
void lower_pooling(Graph& graph);
// Moves the transposes that the above put around channels-last ops through the ops between, until
// inverse pairs meet and vanish.
void sink_transposes(Graph& graph);
// A quantize that only a transpose to channels last reads becomes one node with it.
void merge_quantize_transpose(Graph& graph);

}  // namespace octavo
