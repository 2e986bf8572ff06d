// Q/DQ graphs that others placed (a torch module's own quantizers), in the form that a target takes
// best.
#pragma once
#include <string>

#include "graph/graph.h"

namespace octavo {

// Changes no scale, and no value but of biases. Where the target runs i8 activations in float if
// several nodes read them, all of them become u8, zero points 128 higher: the same grid. Where it
// wants a quantize behind a reshape, squeeze or unsqueeze, there is one with its input's
// parameters. Where it runs a product with a float bias in float, the bias becomes i32 in steps of
// the accumulator. What the target still runs in float, lint says. `graph`: of any stage but
// lowered. UserError: an unknown target.
void retarget(Graph& graph, const std::string& target);

}  // namespace octavo
