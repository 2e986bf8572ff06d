// ONNX Runtime's CPU provider: an op runs on integers only if Q/DQ stand on all its sides, and what
// pattern its graph transformers do not know stays float.
#include "quantize/placement/facts.h"
#include "quantize/placement/placement.h"

namespace octavo {
namespace {

constexpr OpFact ops[] = {
    {"conv", IntegerForm::product, true},  // QLinearConv
    // QGemm, with or without integers out.
    {.op = "gemm", .form = IntegerForm::product, .float_bias_wants_output = true},
    {"matmul", IntegerForm::product},  // QLinearMatMul, MatMulIntegerToFloat
    {"add", IntegerForm::arithmetic, true},
    {"mul", IntegerForm::arithmetic, true},
    {"concat", IntegerForm::arithmetic, true},
    {"avg_pool", IntegerForm::arithmetic, true},
    {"reduce_mean", IntegerForm::arithmetic, true},  // GlobalAveragePool
    {"sigmoid", IntegerForm::arithmetic, true},
    {"leaky_relu", IntegerForm::arithmetic, true},
    {"softmax", IntegerForm::arithmetic, true},
    {"max_pool", IntegerForm::copy, false, true},
    {"resize", IntegerForm::copy, true},
    {"transpose", IntegerForm::copy, false, true},
    {"reshape", IntegerForm::copy, true},
    {"squeeze", IntegerForm::copy, true},
    {"unsqueeze", IntegerForm::copy, true},
};

}  // namespace

const TargetFacts& onnxruntime_facts() {
  static constexpr TargetFacts facts{
      .name = "onnxruntime",
      .ops = ops,
      .activation = DType::u8,
      .affine_activations = true,
      .u8_weights = true,
      .affine_weights = true,
      .integer_bias = true,
      .clamp_vanishes = true,
      .fuses_functions = false,
      .fuses_leaky_relu = false,
      .function_tables = false,
      .products_take_additions = false,
      .shared_concat = false,
      .averages_keep_axes = true,
      .i8_needs_single_reader = true,
      .weight_only = {.int8 = true,
                      .conv = false,
                      .symmetric = false,
                      .trans_b = false,
                      .tables = true,
                      .four_bit_tables = false,
                      .gathers_integers = true,
                      .group = 32,
                      .least_group = 16,
                      .input_scales = false},
      .no_dynamic = nullptr,
      .dynamic_rows = false,
      .dynamic_matrix_tail = true,
      .dynamic_conv_tail = false,
      .least_channels = 1,
      .least_matrix = 1,
  };
  return facts;
}

Placement place_onnxruntime(const Graph& graph, const Rules& rules) {
  return place_by_facts(graph, rules, onnxruntime_facts());
}

}  // namespace octavo
