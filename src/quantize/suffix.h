// Of two networks that share names, the part of the second that computes something else, so that it
// alone is run again on values that the first has computed.
#pragma once
#include <string>
#include <vector>

#include "graph/graph.h"

namespace octavo {

struct Suffix {
  std::vector<std::string> cut;  // values that both networks have, and the part reads
  std::vector<size_t> changed;   // which of the wanted values may differ from the base's
};

// What of `wanted` (values of `variant`) may differ from the values of the same index in `like`
// (values of `base`), and where to cut before it. Values are the same if ops, attributes,
// constants and inputs are, all the way up. The cut never parts what compilation fuses, so that the
// part alone gives the whole network's bits: it lies at inputs of the network, integers, inputs of
// products with constant weights, and values with several readers.
Suffix suffix_of(const Graph& base, const std::vector<std::string>& like, const Graph& variant,
                 const std::vector<std::string>& wanted);

// Names of a graph's outputs.
std::vector<std::string> output_names(const Graph& graph);

}  // namespace octavo
