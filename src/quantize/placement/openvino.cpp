// OpenVINO's CPU plugin: a dequantize moves down through copies and pooling until a product takes
// it, and a product takes the functions behind it along.
#include "quantize/placement/facts.h"
#include "quantize/placement/placement.h"

namespace octavo {
namespace {

constexpr OpFact ops[] = {
    {"conv", IntegerForm::product},
    {"conv_transpose", IntegerForm::product},
    {"gemm", IntegerForm::product},
    {"matmul", IntegerForm::product},
    {"add", IntegerForm::arithmetic, true},
    {"reduce_mean", IntegerForm::arithmetic},
    {"avg_pool", IntegerForm::copy, false, true},
    {"max_pool", IntegerForm::copy, false, true},
    {"concat", IntegerForm::copy, false, true},
    {"resize", IntegerForm::copy, false, true},
    {"transpose", IntegerForm::copy, false, true},
    {"reshape", IntegerForm::copy, false, true},
    {"squeeze", IntegerForm::copy, false, true},
    {"unsqueeze", IntegerForm::copy, false, true},
};

}  // namespace

const TargetFacts& openvino_facts() {
  static constexpr TargetFacts facts{
      .name = "openvino",
      .ops = ops,
      .activation = DType::u8,
      .affine_activations = true,
      .u8_weights = false,
      .affine_weights = false,
      .integer_bias = true,
      .clamp_vanishes = true,
      .fuses_functions = true,
      .fuses_leaky_relu = false,
      .function_tables = false,
      .products_take_additions = false,
      .shared_concat = false,
      .averages_keep_axes = false,
      .i8_needs_single_reader = false,
      .weight_only = {.int8 = true,
                      .conv = false,
                      .symmetric = false,
                      .trans_b = true,
                      .tables = true,
                      .four_bit_tables = false,
                      .gathers_integers = false,
                      .group = 32,
                      .least_group = 0,
                      .input_scales = true},
      .no_dynamic =
          "openvino computes products of activations that are quantized at each call in float",
      .dynamic_rows = false,
      .dynamic_matrix_tail = false,
      .dynamic_conv_tail = false,
      .least_channels = 1,
      .least_matrix = 1,
  };
  return facts;
}

Placement place_openvino(const Graph& graph, const Rules& rules) {
  return place_by_facts(graph, rules, openvino_facts());
}

}  // namespace octavo
