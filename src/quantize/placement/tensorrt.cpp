// TensorRT with explicit quantization, by its published placement rules (docs/targets.md): signed
// and symmetric, Q/DQ on the inputs of products, none on their outputs.
#include "quantize/placement/facts.h"
#include "quantize/placement/placement.h"

namespace octavo {
namespace {

constexpr OpFact ops[] = {
    {"conv", IntegerForm::product},   {"conv_transpose", IntegerForm::product},
    {"gemm", IntegerForm::product},   {"matmul", IntegerForm::product},
    {"add", IntegerForm::arithmetic}, {"concat", IntegerForm::copy},
    {"max_pool", IntegerForm::copy},  {"resize", IntegerForm::copy},
};

}  // namespace

const TargetFacts& tensorrt_facts() {
  static constexpr TargetFacts facts{
      .name = "tensorrt",
      .ops = ops,
      .activation = DType::i8,
      .affine_activations = false,
      .u8_weights = false,
      .affine_weights = false,
      .integer_bias = false,
      .clamp_vanishes = true,
      .fuses_functions = true,
      .fuses_leaky_relu = false,
      .function_tables = false,
      .products_take_additions = true,
      .shared_concat = true,
      .averages_keep_axes = false,
      .i8_needs_single_reader = false,
      .weight_only = {.int8 = false,
                      .conv = false,
                      .symmetric = true,
                      .trans_b = true,
                      .tables = false,
                      .four_bit_tables = false,
                      .gathers_integers = false,
                      .group = 128,
                      .least_group = 0,
                      .input_scales = false},
      .no_dynamic = "tensorrt has no dynamic quantization",
      .dynamic_rows = false,
      .dynamic_matrix_tail = false,
      .dynamic_conv_tail = false,
      .least_channels = 16,
      .least_matrix = 16,
  };
  return facts;
}

Placement place_tensorrt(const Graph& graph, const Rules& rules) {
  return place_by_facts(graph, rules, tensorrt_facts());
}

}  // namespace octavo
