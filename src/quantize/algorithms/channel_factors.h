// Factors s of the channels of what products read: y = x W = (x / s) (s W). Where x / s can go:
// into a layer_norm's gain and bias; if others read the norm too (a residual stream), the products
// get a norm of their own; behind product, bias and relu, through which positive factors pass, into
// that product; behind a gelu nowhere, so that a multiplication is inserted. Through attention too
// they pass, P (V / s) = (P V) / s, into the product that makes its values V. Shifts z go into the
// bias of a norm, y = ((x - z) / s) (s W) + z W, or of that product: rows of P sum to 1.
#pragma once
#include <functional>
#include <string>
#include <vector>

#include "graph/graph.h"

namespace octavo {

// Where an algorithm may move factors: nowhere, where they vanish into weights that are there, or
// also where an operation has to be added.
enum class FactorPlaces { none, folded, all };
// "none, folded, all"; UserError about `option` unless `name` is one of them.
std::string factor_places_names();
FactorPlaces parse_factor_places(const std::string& option, const std::string& name);

// Matrix products with constant weights that read one tensor.
struct ChannelSite {
  Value* x;
  std::vector<Node*> products;
  const Value* before_gelu = nullptr;  // what the gelu behind which x lies reads; or null
  // The product whose output channels become those of x, through a relu, in which x is linear in
  // positive factors, or a gelu; and the addition of its bias, if it is a node of its own.
  Node *source = nullptr, *source_bias = nullptr;
  // If x is what attention mixes: its values, as the source makes them, [N, L, channels].
  const Value* values = nullptr;
};

// Whether the product's weights are [outputs, inputs].
bool is_transposed(const Node& product);

size_t channel_count(const ChannelSite& site);

// Which sites are looked for besides those behind norms and relus.
struct ChannelSearch {
  bool behind_gelus = false, behind_attention = false;
};

// Of the products that `takes` accepts, in graph order.
std::vector<ChannelSite> find_channel_sites(const Graph& graph, ChannelSearch search,
                                            const std::function<bool(const Node&)>& takes);

// The weights of products of one input as [inputs, outputs].
struct ChannelMatrix {
  size_t rows = 0, columns = 0;
  std::vector<float> values;
};
ChannelMatrix weights_of(const std::vector<Node*>& products, size_t inputs);

// Whether shifts have where to go: the norm or the source, and every product have constant biases.
bool takes_shifts(const Graph& graph, const ChannelSite& site);

// Moves factors, one for each channel of site.x, into the products' weights, and their inverse
// before; shifts, if there are any, into biases. Returns "norm", "own norm", "product" or
// "multiplication"; site.x is then what the products read.
std::string apply_factors(Graph& graph, ChannelSite& site, const std::vector<float>& s,
                          const std::vector<float>& shifts = {});

}  // namespace octavo
