// The selectors, one file per kind of work (select_*.cpp), listed in select.cpp.
#pragma once
#include "codegen/select.h"

namespace octavo {

void select_conv(const Node& node, Selected& selected);  // fused_conv, fused_gemm
void select_attention(const Node& node, Selected& selected);
void select_layer_norm(const Node& node, Selected& selected);
void select_matmul(const Node& node, Selected& selected);  // of two activations
// With operands that lie transposed: `transposed_operand` of the node's own.
void select_matmul_of(const Node& node, bool trans_a, bool trans_b, Selected& selected);
// What `value` is the transpose of in its last two axes; null if it is none.
const Value* transposed_operand(const Value* value);

void select_binary(const Node& node, Selected& selected);            // two floats
void select_quantized_binary(const Node& node, Selected& selected);  // quantized_add, quantized_mul
void select_unary(const Node& node, Selected& selected);             // float, one element
void select_lookup(const Node& node, Selected& selected);

void select_pool(const Node& node, Selected& selected);
void select_reduce(const Node& node, Selected& selected);  // reduce_*
void select_softmax(const Node& node, Selected& selected);

void select_quantize(const Node& node, Selected& selected);
void select_dequantize(const Node& node, Selected& selected);
void select_dynamic_quantize(const Node& node, Selected& selected);
void select_quantize_to_nhwc(const Node& node, Selected& selected);

void select_transpose(const Node& node, Selected& selected);
void select_slice(const Node& node, Selected& selected);
void select_concat(const Node& node, Selected& selected);
void select_expand(const Node& node, Selected& selected);
void select_tile(const Node& node, Selected& selected);
void select_depth_to_space(const Node& node, Selected& selected);  // and space_to_depth
void select_pad(const Node& node, Selected& selected);
void select_gather(const Node& node, Selected& selected);
void select_fused_gather(const Node& node, Selected& selected);
void select_where(const Node& node, Selected& selected);
void select_cast(const Node& node, Selected& selected);
void select_resize(const Node& node, Selected& selected);

}  // namespace octavo
