// What runtimes do with Q/DQ graphs, as data: where a runtime's placement puts Q/DQ and what its
// linter says of a file both follow from these facts, so they cannot disagree. docs/targets.md says
// how each was checked.
#pragma once
#include <span>
#include <string_view>

#include "graph/dtype.h"

namespace octavo {

// How a runtime runs an op on integers.
enum class IntegerForm {
  none,        // it does not
  product,     // multiplies them: convolution, matrix product
  arithmetic,  // integers in and out, each side with a scale of its own
  copy,        // moves or selects them: both sides have one scale
};

struct OpFact {
  std::string_view op;  // of ops.def
  IntegerForm form;
  bool quantized_output = false;  // integer only with a quantize behind it (and behind its clamp)
  // Of a copy: it carries the dequantize of its input on to its readers, so it needs no quantize of
  // its own.
  bool carries_dequantize = false;
  // Of a product with a bias that is not dequantized: integer only with a quantize behind it.
  bool float_bias_wants_output = false;
};

struct TargetFacts {
  const char* name;
  std::span<const OpFact> ops;  // the rest runs in float
  // Activations: u8 with any zero point, or i8 with zero point 0.
  DType activation;
  bool affine_activations;          // of files that others made: zero points other than 0 are fine
  bool u8_weights, affine_weights;  // not affine: zero point 0, of u8 128
  // Biases as i32 constants behind a dequantize; else they stay float.
  bool integer_bias;
  // relu and clip vanish into the quantize behind them, if it saturates where they clamp.
  bool clamp_vanishes;
  // A function of one element right behind a product runs inside it.
  bool fuses_functions;
  // A leaky_relu right behind a product runs inside it, where match.h finds its slope fusible.
  bool fuses_leaky_relu;
  // A function of one element between a dequantize and a quantize is a table.
  bool function_tables;
  // A product's kernel adds a residual, so that of an addition only the shortcut is quantized.
  bool products_take_additions;
  // Inputs and output of a concat share one scale.
  bool shared_concat;
  // An average over the picture has a form on integers only where it keeps the axes it is over.
  bool averages_keep_axes;
  // A dequantized i8 value that several nodes read keeps them all in float.
  bool i8_needs_single_reader;
  // Where weights alone are integers: the products and tables that the runtime does not dequantize
  // at load or at each call.
  struct WeightOnly {
    bool int8, conv, symmetric;  // 8 bits at all; convolutions; of 4 bits: no zero points
    // A gemm with trans_b, as others may write it.
    bool trans_b;
    // Rows of a dequantized table are gathered; else its integers are, and what is read is
    // multiplied by its scales.
    bool tables, four_bit_tables;
    bool gathers_integers;
    int64_t group;  // of 4 bits, if none is asked for
    // Groups are powers of two from this on (0: any), and whether scales may run
    // along the inputs one by one.
    int64_t least_group;
    bool input_scales;
    bool takes_group(int64_t size) const {
      return least_group == 0 || (size >= least_group && (size & (size - 1)) == 0);
    }
  };
  WeightOnly weight_only;
  // Why it does not run products behind a DynamicQuantizeLinear on integers; null: it does.
  const char* no_dynamic;
  bool dynamic_rows;  // with a scale for each row of the activation
  // Of these, the cast, the scales and a constant bias run inside the product.
  bool dynamic_matrix_tail, dynamic_conv_tail;
  // The least channels of a convolution, and the least K and N of a matrix product, that gain.
  int64_t least_channels, least_matrix;

  // Of what relu and clip give: the quantize behind must not reach beyond their bounds.
  bool clamp_must_saturate() const { return !fuses_functions && !function_tables; }

  const OpFact* find(std::string_view op) const {
    for (const OpFact& fact : ops)
      if (fact.op == op) return &fact;
    return nullptr;
  }
  IntegerForm form(std::string_view op) const {
    const OpFact* fact = find(op);
    return fact ? fact->form : IntegerForm::none;
  }
};

// One per file of this folder. `octavo` places by what its own passes fuse (octavo.cpp); its facts
// are for the linter.
const TargetFacts& octavo_facts();
const TargetFacts& onnxruntime_facts();
const TargetFacts& openvino_facts();
const TargetFacts& tensorrt_facts();

}  // namespace octavo
