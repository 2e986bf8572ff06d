// From a graph to a program.
#pragma once
#include "graph/graph.h"
#include "runtime/program.h"

namespace octavo {

struct CompileOptions {
  int threads = 0;       // 0: what affinity and cgroup quota allow
  bool optimize = true;  // false: no fusion; each canonical node by itself (tests)
  // Functions of one element that follow one another run as one step, products of activations read
  // transposed operands where they lie. For programs without many constants: training.
  bool fuse_steps = false;
  // Denormal numbers are not taken for zero (docs/decisions/0039).
  bool keep_denormals = false;
};

// Any stage but lowered. Static graphs are planned at once, graphs with symbols per binding at
// their first call. UserError (unsupported) names what cannot be compiled.
Program compile(Graph graph, const CompileOptions& options = {});

// The lowered form for one binding of the inputs' shapes (inspect, tests).
Graph lowered(const Graph& graph, const std::vector<Dims>& input_dims,
              const CompileOptions& options = {});

// The plan of a lowered graph for a pool of `options.threads` (not 0), and what comes after it.
std::shared_ptr<const Plan> build_plan(const Graph& graph, const CompileOptions& options,
                                       std::optional<Continuation> then = {});

}  // namespace octavo
