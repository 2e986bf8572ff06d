// Products that stay float, in float16 or bfloat16: half the bytes of their weights in a file.
#pragma once
#include <string>

#include "graph/graph.h"

namespace octavo {

// Each convolution and matrix product of f32 that does not multiply integers becomes
//   cast to f32 (product (cast to half (x), half weights, half bias))
// where constants are stored in half and all else stays f32. Products of dequantized operands, and
// those whose weights alone are dequantized, stay as they are. A batch_norm behind such a product
// goes into it first. `type`: "float32" (nothing changes),
// "float16" or "bfloat16". `graph`: of any stage but lowered; as it was if this throws.
// UserError: another type; a constant beyond float16's range.
void use_float_products(Graph& graph, const std::string& type);

}  // namespace octavo
