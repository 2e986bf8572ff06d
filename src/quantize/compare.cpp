#include "quantize/compare.h"

#include <unordered_map>

#include "codegen/compile.h"
#include "evaluate/metrics.h"
#include "graph/op_def.h"
#include "quantize/apply.h"
#include "support/error.h"

namespace octavo {
namespace {

// The same graph with further outputs, compiled.
Program with_outputs(const Graph& graph, const std::vector<std::string>& names, int threads) {
  Graph observed = graph.clone();
  for (const std::string& name : names) {
    Value* value = observed.find_value(name);
    OCTAVO_CHECK(value);
    observed.add_output(value);
  }
  return compile(std::move(observed), {.threads = threads});
}

// The node whose result a value is, functions of one element behind it left out: of relu(conv), the
// convolution.
std::string layer_of(const Value* value) {
  const Node* node = value->producer();
  while (node && node->op().kind == OpKind::pointwise) {
    const Value* data = nullptr;
    for (const Value* input : node->inputs()) {
      if (!input || input->is_constant()) continue;
      if (data) return node->name();  // several: an addition, say
      data = input;
    }
    if (!data || !data->producer()) break;
    node = data->producer();
  }
  return node ? node->name() : "";
}

// The collapsed tensors that no collapsed tensor goes into, each with those that it goes into.
std::vector<Collapse> find_collapses(const Graph& graph, const std::vector<TensorError>& tensors) {
  std::unordered_map<std::string, const TensorError*> errors;
  for (const TensorError& t : tensors) errors.emplace(t.name, &t);
  std::vector<Collapse> collapses;
  std::unordered_map<const Value*, size_t> origin;  // of values behind a collapse
  const auto visit = [&](const Value* value) {
    const auto it = errors.find(value->name());
    if (it == errors.end() || !(it->second->sqnr_db < collapsed_sqnr_db)) return;
    if (const auto from = origin.find(value); from != origin.end()) {
      ++collapses[from->second].followers;
      return;
    }
    origin[value] = collapses.size();
    collapses.push_back({value->name(), it->second->layer, it->second->sqnr_db});
  };
  for (const Value* input : graph.inputs()) visit(input);
  graph.for_each([&](Node& node) {
    for (const Value* output : node.outputs()) {
      for (const Value* input : node.inputs())
        if (const auto from = origin.find(input); from != origin.end()) {
          origin.emplace(output, from->second);
          break;
        }
      visit(output);
    }
  });
  return collapses;
}

}  // namespace

std::string describe(const Collapse& c) {
  std::string text = c.layer.empty() ? fmt::format("input '{}'", c.tensor)
                                     : fmt::format("layer '{}' (tensor '{}')", c.layer, c.tensor);
  text += fmt::format(": SQNR of {:.1f} dB, its signal has collapsed", c.sqnr_db);
  if (c.followers)
    text += fmt::format(", and that of {} tensor{} computed from it", c.followers,
                        c.followers == 1 ? "" : "s");
  return text + "; another calibrator may keep it, or a rule keep the layer in float";
}

std::vector<Comparison> compare(const Graph& float_graph, std::span<const Graph* const> quantized,
                                const Dataset& data, int threads, const Progress& progress) {
  if (quantized.empty()) return {};
  std::vector<std::string> names, twins, layers;
  const auto consider = [&](const Value* value) {
    if (value->name().empty() || float_graph.is_output(value)) return;
    const std::string twin = dequantized_name(value->name());
    for (const Graph* graph : quantized)
      if (!graph->find_value(twin)) return;
    names.push_back(value->name());
    twins.push_back(twin);
    layers.push_back(layer_of(value));
  };
  for (const Value* input : float_graph.inputs()) consider(input);
  float_graph.for_each([&](Node& node) {
    for (const Value* output : node.outputs()) consider(output);
  });
  struct Contestant {
    Program program;
    std::vector<Sqnr> errors;
    Sqnr outputs;
    TopAgreement agreement;
  };
  Program truth = with_outputs(float_graph, names, threads);
  const size_t outputs = float_graph.outputs().size();
  std::vector<Contestant> contestants;
  for (const Graph* graph : quantized)
    contestants.push_back(
        {with_outputs(*graph, twins, threads), std::vector<Sqnr>(names.size() + outputs), {}, {}});
  for (size_t i = 0; i < data.size(); ++i) {
    const auto inputs = data.sample(i);
    const auto a = truth.run(inputs);
    for (Contestant& c : contestants) {
      const auto b = c.program.run(inputs);
      for (size_t k = 0; k < a.size(); ++k) {
        if (a[k].dtype() != DType::f32) continue;
        c.errors[k].add(a[k], b[k]);
        if (k < outputs) c.outputs.add(a[k], b[k]);
      }
      if (a[0].dtype() == DType::f32) c.agreement.add(a[0], b[0]);
    }
    if (progress) progress("comparing with float", i + 1, data.size());
  }
  std::vector<Comparison> results;
  for (const Contestant& c : contestants) {
    Comparison result;
    for (size_t k = 0; k < names.size(); ++k)
      result.tensors.push_back({names[k], layers[k], c.errors[outputs + k].decibels()});
    for (size_t k = 0; k < outputs; ++k)
      if (const Value* value = float_graph.outputs()[k]; !c.errors[k].empty())
        result.tensors.push_back({value->name(), layer_of(value), c.errors[k].decibels()});
    result.collapses = find_collapses(float_graph, result.tensors);
    result.output_sqnr_db = c.outputs.decibels();
    result.agreement = c.agreement.fraction();
    result.confident_agreement = c.agreement.confident_fraction();
    result.samples = data.size();
    result.confident_samples = static_cast<size_t>(c.agreement.confident_rows());
    results.push_back(std::move(result));
  }
  return results;
}

}  // namespace octavo
