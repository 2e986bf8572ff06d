#pragma once
#include "graph/graph.h"

namespace octavo {

// Every node and every output of a node gets a name that no other has; names that are there and
// unique stay. Quantization speaks of tensors and layers by name.
void name_uniquely(Graph& graph);

}  // namespace octavo
