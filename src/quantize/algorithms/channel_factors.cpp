#include "quantize/algorithms/channel_factors.h"

#include <algorithm>

#include "graph/op_def.h"
#include "passes/match.h"
#include "support/error.h"

namespace octavo {
namespace {

constexpr struct {
  const char* name;
  FactorPlaces value;
} places[] = {
    {"none", FactorPlaces::none}, {"folded", FactorPlaces::folded}, {"all", FactorPlaces::all}};

bool transposed(const Node& product) {
  return product.is("gemm") && product.integer("trans_b") != 0;
}

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
  return product.input(1)->constant().dims()[transposed(product) ? 1 : 0];
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

Source source_of(const Graph& graph, Value* x) {
  Node* node = x->producer();
  if (!node->is("relu") && !node->is("leaky_relu")) return {};
  Value* value = node->input(0);
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

// vector / s, or 1 / s.
Value* divided(Graph& graph, const Value* vector, const std::vector<float>& s,
               const std::string& name) {
  Tensor result(DType::f32, Dims{static_cast<int64_t>(s.size())});
  auto to = result.mutable_values<float>();
  for (size_t k = 0; k < s.size(); ++k)
    to[k] = (vector ? vector->constant().values<float>()[k] : 1) / s[k];
  return graph.add_constant(name + "/smoothed", std::move(result));
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

size_t channel_count(const ChannelSite& site) {
  return static_cast<size_t>(inputs_of(*site.products[0]));
}

std::vector<ChannelSite> find_channel_sites(const Graph& graph, bool behind_gelus,
                                            const std::function<bool(const Node&)>& takes) {
  std::vector<ChannelSite> sites;
  graph.for_each([&](Node& node) {
    if (!is_plain_product(node) || !takes(node)) return;
    Value* x = node.input(0);
    const Node* producer = x->producer();
    if (!producer) return;
    const bool norm = is_channel_norm(*producer, inputs_of(node));
    const bool gelu = !norm && behind_gelus && producer->is("gelu");
    const Source source = norm || gelu ? Source{} : source_of(graph, x);
    if (!norm && !gelu && !source.product) return;
    const auto known =
        std::find_if(sites.begin(), sites.end(), [&](const ChannelSite& s) { return s.x == x; });
    if (known != sites.end())
      known->products.push_back(&node);
    else
      sites.push_back(
          {x, {&node}, gelu ? producer->input(0) : nullptr, source.product, source.bias});
  });
  std::erase_if(sites, [&](const ChannelSite& site) {  // who else reads x would see it divided
    return site.source &&
           (site.x->uses().size() != site.products.size() || graph.is_output(site.x));
  });
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
            transposed(*product) ? w[o * inputs + k] : w[k * outputs + o];
    first += outputs;
  }
  return all;
}

std::string apply_factors(Graph& graph, ChannelSite& site, const std::vector<float>& s) {
  for (Node* product : site.products) {
    const Value* w = product->input(1);
    Tensor scaled(DType::f32, w->constant().dims());
    const auto from = w->constant().values<float>();
    auto to = scaled.mutable_values<float>();
    const size_t inner = transposed(*product) ? 1 : from.size() / s.size();
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
    const size_t inner = transposed(*source) ? from.size() / s.size() : 1;
    for (size_t i = 0; i < from.size(); ++i) to[i] = from[i] / s[i / inner % s.size()];
    source->set_input(1, graph.add_constant(w->name() + "/smoothed", std::move(scaled)));
    if (source->input(2))
      source->set_input(2, divided(graph, source->input(2), s, source->name() + "/bias"));
    if (Node* add = site.source_bias) {
      const size_t side = add->input(0)->is_constant() ? 0 : 1;
      add->set_input(side, divided(graph, add->input(side), s, add->name() + "/bias"));
    }
    return "product";
  }
  Value* gain = divided(graph, producer->input(1), s, producer->name() + "/gain");
  Value* bias = producer->input(2)
                    ? divided(graph, producer->input(2), s, producer->name() + "/bias")
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
