// Checks what graph.h promises, and the grammar of each stage:
//   captured   any op
//   canonical  ops whose row in ops.def says canonical
//   quantized  these, and quantization nodes, whose scales are positive finite constants and whose
//              zero points are constants within the integers
//   lowered    these, and the fused kernels
#pragma once
#include <string>
#include <vector>

#include "graph/graph.h"

namespace octavo {

// InternalError naming the node and the rule: passes call this on their own work. `after` says
// whose.
void verify(const Graph& graph, Stage stage, const std::string& after = "");
inline void verify(const Graph& graph) { verify(graph, graph.stage); }

// Every rule that is broken, one line each; empty if the graph is sound.
std::vector<std::string> violations(const Graph& graph, Stage stage);

// Whether an op of `first` stage (OpDef::stage) may appear in a graph of `stage`.
bool allowed_in(Stage first, Stage stage);

}  // namespace octavo
