// Graphs in which shapes depend on values. A graph whose input shapes are known is cut where a
// shape is not: what can be planned goes first, what needs its results is planned when they are
// known, and so on.
#pragma once
#include "graph/graph.h"

namespace octavo {

// The two parts of a graph in which something is not static.
struct Cut {
  // Everything whose shapes are known. Its outputs are what `rest` reads.
  Graph first;
  // Takes the outputs of `first`, then those of `between`; gives the outputs of the whole.
  Graph rest;
  // Inputs of `rest` on whose values its shapes depend: they are constants once it is planned.
  std::vector<size_t> value_inputs;
  // Nodes whose outputs have a shape that depends on data (non_zero, say): a graph of these alone,
  // which takes outputs of `first` (their indices here) and is interpreted.
  Graph between;
  std::vector<size_t> between_inputs;
};

bool all_static(const Graph& graph);
// Of a specialized graph (passes.h) with static inputs that is not all static.
Cut cut(const Graph& graph);

}  // namespace octavo
