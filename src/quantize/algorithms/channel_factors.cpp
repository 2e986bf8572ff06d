#include "quantize/algorithms/channel_factors.h"

#include <algorithm>

#include "graph/op_def.h"
#include "passes/attention.h"
#include "passes/match.h"
#include "support/error.h"

namespace octavo {
namespace {

constexpr struct {
  const char* name;
  FactorPlaces value;
} places[] = {
    {"none", FactorPlaces::none}, {"folded", FactorPlaces::folded}, {"all", FactorPlaces::all}};

bool is_plain_product(const Node& node) {
  if (node.is("gemm")) {
    if (node.real("alpha") != 1 || node.integer("trans_a") != 0) return false;
  } else if (!node.is("matmul")) {
    return false;
  }
  const Value *x = node.input(0), *w = node.input(1);
  return w && w->is_constant() && w->dtype() == DType::f32 && w->shape().rank() == 2 &&
         w->constant().size() > 0 && !x->is_constant() && x->dtype() == DType::f32 &&
         x->shape().rank() >= 2;
}

int64_t inputs_of(const Node& product) {
  return product.input(1)->constant().dims()[is_transposed(product) ? 1 : 0];
}

bool is_channel_norm(const Node& node, int64_t channels) {
  if (!node.is("layer_norm")) return false;
  const int64_t rank = node.input(0)->shape().rank();
  if (normalize_axis(node.integer("axis"), rank, node.where()) != rank - 1) return false;
  for (size_t i = 1; i < node.outputs().size(); ++i)
    if (!node.output(i)->uses().empty()) return false;
  for (size_t i : {1u, 2u})
    if (const Value* v = node.input(i); v && (!v->is_constant() || v->dtype() != DType::f32 ||
                                              v->constant().dims() != Dims{channels}))
      return false;
  return true;
}

struct Source {
  Node *product = nullptr, *bias = nullptr;
};

// Of what a product, with or without an addition of its bias, makes for one reader.
Source source_of(const Graph& graph, Value* value) {
  const auto step = [&](Value* to) {
    value = to;
    return only_user(graph, to) != nullptr;
  };
  if (!only_user(graph, value)) return {};
  Source source;
  const int64_t channels = value->shape().back().is_static() ? value->shape().back().value() : -1;
  if (Node* add = value->producer(); add && add->is("add")) {
    const size_t side = add->input(0)->is_constant() ? 0 : 1;
    const Value* bias = add->input(side);
    if (!bias->is_constant() || bias->dtype() != DType::f32 ||
        bias->constant().dims() != Dims{channels} || !step(add->input(1 - side)))
      return {};
    source.bias = add;
  }
  Node* product = value->producer();
  if (!product || !is_plain_product(*product)) return {};
  if (const Value* bias = product->input(2);
      bias && (!bias->is_constant() || bias->constant().dims() != Dims{channels}))
    return {};
  source.product = product;
  return source;
}

Source source_before_function(const Graph& graph, Value* x) {
  Node* node = x->producer();
  if (!node->is("relu") && !node->is("leaky_relu") && !node->is("gelu")) return {};
  return source_of(graph, node->input(0));
}

// What the op `name` makes `x` of, if nothing else reads that.
Value* alone_before(const Graph& graph, const Value* x, const char* name) {
  Node* node = x->producer();
  return node && node->is(name) && only_user(graph, node->input(0)) ? node->input(0) : nullptr;
}

bool swaps_heads(const Value* x) {
  const Node* node = x->producer();
  return node->is("transpose") && node->integers("perm") == Ints{0, 2, 1, 3};
}

// Whether [N, L, H, D] and [N, L, H D] hold the same channels.
bool merges_heads(const Shape& heads, const Shape& merged) {
  return heads.rank() == 4 && merged.rank() == 3 && heads[0] == merged[0] &&
         heads[1] == merged[1] && heads[2].is_static() && heads[3].is_static() &&
         merged[2].is_static() && heads[2].value() * heads[3].value() == merged[2].value();
}

// The values of attention that x is a mixture of, channel by channel, [N, L, H D] as x; or null.
Value* mixed_values(const Graph& graph, const Value* x) {
  const Value* heads = alone_before(graph, x, "reshape");
  if (!heads || !merges_heads(heads->shape(), x->shape())) return nullptr;
  const Value* mixed = alone_before(graph, heads, "transpose");
  if (!mixed || !swaps_heads(heads) || !mixed->producer()) return nullptr;
  const auto attention = attention_of(graph, *mixed->producer());
  if (!attention || !only_user(graph, attention->v)) return nullptr;
  const Value* split = alone_before(graph, attention->v, "transpose");
  if (!split || !swaps_heads(attention->v)) return nullptr;
  Value* values = alone_before(graph, split, "reshape");
  return values && merges_heads(split->shape(), values->shape()) &&
                 values->shape()[2] == x->shape()[2] && split->shape()[2] == heads->shape()[2]
             ? values
             : nullptr;
}

// (vector - shifts) / s; without a vector 1 / s.
Value* divided(Graph& graph, const Value* vector, const std::vector<float>& s,
               const std::string& name, const std::vector<float>& shifts = {}) {
  Tensor result(DType::f32, Dims{static_cast<int64_t>(s.size())});
  auto to = result.mutable_values<float>();
  for (size_t k = 0; k < s.size(); ++k)
    to[k] =
        ((vector ? vector->constant().values<float>()[k] : 1) - (shifts.empty() ? 0 : shifts[k])) /
        s[k];
  return graph.add_constant(name + "/smoothed", std::move(result));
}

// Where a product's constant bias is read: by itself, or by the addition behind it.
struct BiasPlace {
  Node* node = nullptr;
  size_t index = 0;
};

BiasPlace bias_of(const Graph& graph, Node& product) {
  const Dims& w = product.input(1)->constant().dims();
  const Dims channels{w[is_transposed(product) ? 0 : 1]};
  const auto fits = [&](const Value* bias) {
    return bias && bias->is_constant() && bias->dtype() == DType::f32 &&
           bias->constant().dims() == channels;
  };
  if (product.is("gemm") && product.real("beta") == 1 && fits(product.input(2)))
    return {&product, 2};
  Node* add = only_user(graph, product.output());
  if (!add || !add->is("add")) return {};
  for (size_t i : {0u, 1u})
    if (fits(add->input(i))) return {add, i};
  return {};
}

// The bias takes z W, W as it was before factors.
void add_shifts(Graph& graph, Node& product, const std::vector<float>& shifts) {
  const BiasPlace place = bias_of(graph, product);
  const Value* old = place.node->input(place.index);
  const auto w = product.input(1)->constant().values<float>();
  const size_t inputs = shifts.size(), outputs = w.size() / inputs;
  Tensor bias(DType::f32, old->constant().dims());
  for (size_t o = 0; o < outputs; ++o) {
    double sum = old->constant().values<float>()[o];
    for (size_t k = 0; k < inputs; ++k)
      sum += static_cast<double>(shifts[k]) *
             w[is_transposed(product) ? o * inputs + k : k * outputs + o];
    bias.mutable_values<float>()[o] = static_cast<float>(sum);
  }
  place.node->set_input(place.index, graph.add_constant(old->name() + "/shifted", std::move(bias)));
}

}  // namespace

std::string factor_places_names() {
  std::string all;
  for (const auto& one : places) all += (all.empty() ? "" : ", ") + std::string(one.name);
  return all;
}

FactorPlaces parse_factor_places(const std::string& option, const std::string& name) {
  for (const auto& one : places)
    if (name == one.name) return one.value;
  throw UserError(ErrorKind::value, option, fmt::format("'{}' is not known", name),
                  "use one of: " + factor_places_names());
}

bool is_transposed(const Node& product) {
  return product.is("gemm") && product.integer("trans_b") != 0;
}

size_t channel_count(const ChannelSite& site) {
  return static_cast<size_t>(inputs_of(*site.products[0]));
}

std::vector<ChannelSite> find_channel_sites(const Graph& graph, ChannelSearch search,
                                            const std::function<bool(const Node&)>& takes) {
  std::vector<ChannelSite> sites;
  graph.for_each([&](Node& node) {
    if (!is_plain_product(node) || !takes(node)) return;
    Value* x = node.input(0);
    const Node* producer = x->producer();
    if (!producer) return;
    const bool norm = is_channel_norm(*producer, inputs_of(node));
    const bool gelu = !norm && search.behind_gelus && producer->is("gelu");
    Value* values = search.behind_attention ? mixed_values(graph, x) : nullptr;
    const Source source = norm     ? Source{}
                          : values ? source_of(graph, values)
                                   : source_before_function(graph, x);
    if (!norm && !gelu && (!source.product || producer->is("gelu"))) return;
    const auto known =
        std::find_if(sites.begin(), sites.end(), [&](const ChannelSite& s) { return s.x == x; });
    if (known != sites.end())
      known->products.push_back(&node);
    else
      sites.push_back(
          {x, {&node}, gelu ? producer->input(0) : nullptr, source.product, source.bias, values});
  });
  const auto shared = [&](const ChannelSite& site) {  // who else reads x would see it changed
    return site.source &&
           (site.x->uses().size() != site.products.size() || graph.is_output(site.x));
  };
  std::erase_if(sites, [&](const ChannelSite& s) { return !s.before_gelu && shared(s); });
  for (ChannelSite& site : sites)
    if (shared(site)) site.source = site.source_bias = nullptr;
  return sites;
}

ChannelMatrix weights_of(const std::vector<Node*>& products, size_t inputs) {
  ChannelMatrix all{inputs, 0, {}};
  for (const Node* product : products)
    all.columns += static_cast<size_t>(product->input(1)->constant().size()) / inputs;
  all.values.resize(inputs * all.columns);
  size_t first = 0;
  for (const Node* product : products) {
    const auto w = product->input(1)->constant().values<float>();
    const size_t outputs = w.size() / inputs;
    for (size_t k = 0; k < inputs; ++k)
      for (size_t o = 0; o < outputs; ++o)
        all.values[k * all.columns + first + o] =
            is_transposed(*product) ? w[o * inputs + k] : w[k * outputs + o];
    first += outputs;
  }
  return all;
}

bool takes_shifts(const Graph& graph, const ChannelSite& site) {
  const Node* producer = site.x->producer();
  if (site.values) {  // attention's: the source's bias may be an addition or the product's own
    if (!site.source_bias && !(site.source->input(2) && site.source->real("beta") == 1))
      return false;
  } else if (!producer->is("layer_norm") || !producer->input(2)) {
    return false;
  }
  return std::all_of(site.products.begin(), site.products.end(),
                     [&](Node* product) { return bias_of(graph, *product).node != nullptr; });
}

std::string apply_factors(Graph& graph, ChannelSite& site, const std::vector<float>& s,
                          const std::vector<float>& shifts) {
  for (Node* product : site.products) {
    if (!shifts.empty()) add_shifts(graph, *product, shifts);
    const Value* w = product->input(1);
    Tensor scaled(DType::f32, w->constant().dims());
    const auto from = w->constant().values<float>();
    auto to = scaled.mutable_values<float>();
    const size_t inner = is_transposed(*product) ? 1 : from.size() / s.size();
    for (size_t i = 0; i < from.size(); ++i) to[i] = from[i] * s[i / inner % s.size()];
    product->set_input(1, graph.add_constant(w->name() + "/smoothed", std::move(scaled)));
  }
  Node* producer = site.x->producer();
  if (site.before_gelu) {
    site.x = graph.apply("mul", {site.x, divided(graph, nullptr, s, producer->name() + "/factors")},
                         {}, site.x->name() + "/smoothed", producer->next());
    for (Node* product : site.products) product->set_input(0, site.x);
    return "multiplication";
  }
  if (Node* source = site.source) {
    const Value* w = source->input(1);
    Tensor scaled(DType::f32, w->constant().dims());
    const auto from = w->constant().values<float>();
    auto to = scaled.mutable_values<float>();
    const size_t inner = is_transposed(*source) ? from.size() / s.size() : 1;
    for (size_t i = 0; i < from.size(); ++i) to[i] = from[i] / s[i / inner % s.size()];
    source->set_input(1, graph.add_constant(w->name() + "/smoothed", std::move(scaled)));
    Node* add = site.source_bias;
    if (source->input(2))
      source->set_input(2, divided(graph, source->input(2), s, source->name() + "/bias",
                                   add ? std::vector<float>{} : shifts));
    if (add) {
      const size_t side = add->input(0)->is_constant() ? 0 : 1;
      add->set_input(side, divided(graph, add->input(side), s, add->name() + "/bias", shifts));
    }
    return "product";
  }
  Value* gain = divided(graph, producer->input(1), s, producer->name() + "/gain");
  Value* bias = producer->input(2)
                    ? divided(graph, producer->input(2), s, producer->name() + "/bias", shifts)
                    : nullptr;
  if (site.x->uses().size() == site.products.size() && !graph.is_output(site.x)) {
    producer->set_input(1, gain);
    if (bias) producer->set_input(2, bias);
    return "norm";
  }
  site.x = graph.apply("layer_norm", {producer->input(0), gain, bias}, producer->attributes(),
                       site.x->name() + "/smoothed", producer->next());
  for (Node* product : site.products) product->set_input(0, site.x);
  return "own norm";
}

}  // namespace octavo
