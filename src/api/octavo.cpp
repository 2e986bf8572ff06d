#include "api/octavo.h"

#include <algorithm>
#include <chrono>
#include <random>
#include <set>

#include "evaluate/record.h"
#include "frontends/onnx/import.h"
#include "graph/octavo_file.h"
#include "graph/op_def.h"
#include "quantize/algorithms/awq.h"
#include "quantize/names.h"
#include "quantize/placement/precisions.h"
#include "support/cpu.h"
#include "support/env.h"
#include "support/error.h"
#include "support/file.h"
#include "support/log.h"

namespace octavo {

using nlohmann::json;

Graph load_model(const std::string& path) {
  return is_octavo_file(path) ? load_octavo(path) : load_onnx(path);
}

void save_model(const Graph& graph, const std::string& path) {
  check_output(path);
  path.ends_with(".onnx") ? export_onnx(graph, path) : save_octavo(graph, path);
}

void check_output(const std::string& path) {
  if (!path.ends_with(".onnx") && !path.ends_with(".octavo"))
    throw UserError(ErrorKind::value, path, "the ending names no known format",
                    "use .onnx or .octavo");
  check_writable(path);
}

Program::Signature signature_of(const Graph& graph) {
  Program::Signature signature;
  for (const Value* input : graph.inputs()) {
    signature.input_names.push_back(input->name());
    signature.input_types.push_back(input->type());
  }
  for (const Value* output : graph.outputs()) {
    signature.output_names.push_back(output->name());
    signature.output_types.push_back(output->type());
  }
  return signature;
}

namespace {

size_t constant_bytes(const Graph& graph) {
  size_t bytes = 0;
  for (const Value* value : graph.constants()) bytes += value->constant().bytes();
  return bytes;
}

json describe_model(const Graph& graph) {
  json model{{"name", graph.name},
             {"stage", stage_name(graph.stage)},
             {"nodes", graph.node_count()},
             {"weights_bytes", constant_bytes(graph)}};
  for (const Value* input : graph.inputs())
    model["inputs"].push_back({{"name", input->name()}, {"type", input->type().str()}});
  for (const Value* output : graph.outputs())
    model["outputs"].push_back({{"name", output->name()}, {"type", output->type().str()}});
  return model;
}

}  // namespace

void check_request(const QuantizeRequest& request, bool data) {
  const QuantizeMode mode = request.options.mode;
  if (!request.calibrator.empty()) find_calibrator(request.calibrator);
  for (const std::string& name : request.compare) find_calibrator(name);
  if (!request.options.weights.empty()) check_weight_method(request.options.weights);
  const int bits = request.options.weight_bits;
  if (bits != 8 && bits != 4)
    throw UserError(ErrorKind::value, "bits", fmt::format("{} bits", bits), "use 8 or 4");
  if (request.options.group_size < 0 || request.options.group_size > 1 << 20)
    throw UserError(ErrorKind::value, "group_size",
                    fmt::format("{} elements", request.options.group_size),
                    "use 1 to 1048576, or 0 for the default");
  if (mode != QuantizeMode::weight_only && (bits != 8 || request.options.group_size != 0))
    throw UserError(ErrorKind::value, bits != 8 ? "bits" : "group_size",
                    fmt::format("is not for mode {}", mode_name(mode)),
                    "leave it out, use mode weight_only, or a rules file");
  const std::string& activation = request.options.activation;
  if (activation != "tensor" && activation != "row")
    throw UserError(ErrorKind::value, "activation", fmt::format("'{}' is not known", activation),
                    "use tensor or row");
  if (activation == "row" && mode != QuantizeMode::dynamic)
    throw UserError(ErrorKind::value, "activation",
                    fmt::format("row is not for mode {}", mode_name(mode)),
                    "leave it out, use mode dynamic, or a rules file");
  if (!request.smooth.empty()) parse_factor_places("smooth", request.smooth);
  if (!request.equalize.empty()) parse_factor_places("equalize", request.equalize);
  const std::string& scales = request.options.weight_scales;
  if (scales != "channel" && scales != "tensor")
    throw UserError(ErrorKind::value, "weight_scales", fmt::format("'{}' is not known", scales),
                    "use channel or tensor");
  const std::string& weights = request.options.weights;
  const auto refuse = [&](const std::string& what, const char* hint) {
    throw UserError(ErrorKind::value, what, fmt::format("is not for mode {}", mode_name(mode)),
                    hint);
  };
  if (mode == QuantizeMode::static_) {
    if (weights.starts_with("awq")) refuse("weights " + weights, "use gptq, or mode weight_only");
    if (!data)
      throw UserError(ErrorKind::value, "data", "mode static calibrates on data",
                      "give samples, or use mode dynamic or weight_only, which need none");
    return;
  }
  constexpr const char* static_only =
      "leave it out; mode static calibrates, and a rules file may give nodes other precisions";
  if (!request.calibrator.empty()) refuse("calibrator", static_only);
  if (!request.compare.empty()) refuse("compare", static_only);
  if (request.bias_correction) refuse("bias_correction", static_only);
  if (!request.smooth.empty()) refuse("smooth", static_only);
  if (!request.equalize.empty()) refuse("equalize", static_only);
  if (scales == "tensor") refuse("weight_scales tensor", static_only);
  if (!looks_at_data(weights)) return;
  if (mode == QuantizeMode::dynamic) refuse("weights " + weights, "use mse or max");
  if (weights == "adaround") refuse("weights " + weights, "use gptq or awq");
  if (!data)
    throw UserError(ErrorKind::value, "data", weights + " fits weights to data",
                    "give samples, or use mse or max, which need none");
}

namespace {

json describe_quantization(const Ptq& ptq, const QuantizeRequest& request) {
  const Placement& placed = ptq.placement();
  json skipped = json::array(), precisions = json::array();
  for (const auto& s : placed.skipped)
    skipped.push_back({{"node", s.node}, {"op", s.op}, {"reason", s.reason}});
  for (const ProductPrecision& p : product_precisions(ptq.graph(), placed)) {
    precisions.push_back(
        {{"node", p.node}, {"op", p.op}, {"precision", precision_name(p.precision)}});
    if (p.group_size) precisions.back()["group_size"] = p.group_size;
    if (p.by_row) precisions.back()["activation"] = "row";
  }
  return {{"mode", mode_name(request.options.mode)},
          {"target", request.options.target},
          {"weights", ptq.weight_method()},
          {"weight_scales", request.options.weight_scales},
          {"integer_layers", placed.weights.size() + placed.products.size() + placed.tables.size()},
          {"precisions", precisions},
          {"skipped", skipped}};
}

// What moved between channels before anything was quantized.
struct Moved {
  std::vector<EqualizedPair> equalized;
  std::vector<SmoothedTensor> smoothed;
};

// Equalizes and smooths in place, in mode static; the graph becomes canonical.
Moved move_factors(Graph& graph, const Dataset* data, const QuantizeRequest& request,
                   const Progress& progress) {
  const auto where = [](const char* option, const std::string& given, const char* fallback) {
    return parse_factor_places(option, given.empty() ? fallback : given);
  };
  const FactorPlaces smooth = where("smooth", request.smooth, default_smoothing),
                     equalize = where("equalize", request.equalize, default_equalization);
  if (request.options.mode != QuantizeMode::static_ ||
      (smooth == FactorPlaces::none && equalize == FactorPlaces::none))
    return {};
  canonicalize(graph);
  if (graph.stage == Stage::quantized) return {};  // Ptq says it
  name_uniquely(graph);
  const std::string& weights = request.options.weights;
  Moved moved;
  moved.equalized = equalize_weights(graph, {.where = equalize, .rules = request.options.rules});
  moved.smoothed =
      smooth_activations(graph, *data,
                         {.where = smooth,
                          .rules = request.options.rules,
                          .weight_error = weight_error_left(weights.empty() ? "gptq" : weights),
                          .most_samples = request.options.most_samples,
                          .threads = request.options.threads},
                         progress);
  return moved;
}

json describe(const std::vector<EqualizedPair>& equalized) {
  json all = json::array();
  for (const EqualizedPair& pair : equalized)
    all.push_back({{"products", {pair.first, pair.second}},
                   {"bounded", pair.bounded},
                   {"least_factor", pair.least},
                   {"most_factor", pair.most}});
  return all;
}

json describe(const std::vector<SmoothedTensor>& smoothed) {
  json all = json::array();
  for (const SmoothedTensor& s : smoothed)
    all.push_back({{"tensor", s.tensor},
                   {"products", s.products},
                   {"by", s.by},
                   {"alpha", s.alpha},
                   {"shift", s.shift},
                   {"added_channels", s.copies},
                   {"sqnr_db_before", finite_or_null(s.sqnr_db_before)},
                   {"sqnr_db_after", finite_or_null(s.sqnr_db_after)}});
  return all;
}

// Calibrators, tensors and layers of the record.
void describe_results(json& record, const Ptq& ptq, const std::vector<std::string>& calibrators,
                      const std::vector<PtqResult>& quantized,
                      const std::vector<Comparison>& comparisons) {
  for (const TensorError& tensor :
       comparisons.empty() ? std::vector<TensorError>{} : comparisons[0].tensors)
    record["tensors"].push_back({{"name", tensor.name}, {"layer", tensor.layer}});
  for (const LayerReport& layer : quantized[0].layers) {
    json entry{{"name", layer.node}, {"op", layer.op}, {"by_calibrator", json::object()}};
    if (!layer.calibrated) entry["weights_sqnr_db"] = finite_or_null(layer.weight_sqnr_db);
    record["layers"].push_back(std::move(entry));
  }
  for (size_t k = 0; k < comparisons.size(); ++k) {
    const std::string& name = calibrators[k];
    const Comparison& c = comparisons[k];
    record["calibrators"].push_back({{"name", name},
                                     {"output_sqnr_db", finite_or_null(c.output_sqnr_db)},
                                     {"agreement", c.agreement},
                                     {"confident_agreement", c.confident_agreement},
                                     {"confident_samples", c.confident_samples},
                                     {"weights_bytes", constant_bytes(quantized[k].graph)}});
    const json chosen = ptq.needs_data() ? ptq.describe(name) : json::object();
    for (size_t i = 0; i < c.tensors.size(); ++i) {
      json& entry = record["tensors"][i]["by_calibrator"][name];
      entry = chosen.value(c.tensors[i].name, json::object());
      entry["sqnr_db"] = finite_or_null(c.tensors[i].sqnr_db);
    }
    for (size_t i = 0; i < quantized[k].layers.size(); ++i)
      if (const LayerReport& layer = quantized[k].layers[i]; layer.calibrated)
        record["layers"][i]["by_calibrator"][name]["weights_sqnr_db"] =
            finite_or_null(layer.weight_sqnr_db);
  }
}

}  // namespace

Graph equalized(const Graph& graph, const EqualizeOptions& options) {
  Graph result = graph.clone();
  canonicalize(result);
  if (result.stage == Stage::quantized)
    throw UserError(ErrorKind::value, graph.name, "is quantized already", "give the float model");
  name_uniquely(result);
  equalize_weights(result, options);
  return result;
}

QuantizeResult quantize(const Graph& graph, const Dataset* data, const QuantizeRequest& request,
                        const std::string& command, const Progress& progress) {
  check_request(request, data != nullptr);  // said before any work
  PtqOptions options = request.options;
  options.correct_bias = request.bias_correction.value_or(true);
  Graph prepared = graph.clone();
  auto [equalized, smoothed] = move_factors(prepared, data, request, progress);
  for (const SmoothedTensor& s : smoothed)
    if (s.copies == 0) options.whole_ranges.insert(s.tensor);
  if (options.weights.starts_with("awq")) {
    const Ptq unscaled(std::move(prepared), options);
    prepared = awq_scaled(unscaled.graph(), unscaled.placement(), *data,
                          {.most_samples = options.most_samples,
                           .most_bytes = options.most_bytes,
                           .threads = options.threads},
                          progress, smoothed);
  }
  Ptq ptq(std::move(prepared), options);
  const bool calibrates = ptq.needs_data(), fits = calibrates || ptq.fits_weights();
  if (calibrates && !data)
    throw UserError(ErrorKind::value, "data", "a rule asks for int8, which calibrates on data",
                    "give samples, or take the rule out");
  if (calibrates) ptq.calibrate(*data, progress);
  const Dataset* judge = request.evaluation ? request.evaluation : data;

  QuantizeResult result;
  result.record = new_record(command);
  json& record = result.record;
  record["model"] = describe_model(ptq.graph());
  record["data"] = {{"calibration_samples", ptq.samples()},
                    {"evaluation_samples", judge ? judge->size() : 0},
                    {"evaluated_on_calibration_data", fits && request.evaluation == nullptr}};
  record["quantization"] = describe_quantization(ptq, request);
  record["quantization"]["equalized"] = describe(equalized);
  record["quantization"]["smoothed"] = describe(smoothed);
  for (const char* key : {"calibrators", "tensors", "layers"}) record[key] = json::array();
  std::vector<std::string> calibrators;
  std::vector<PtqResult> quantized;
  if (calibrates) {
    calibrators.push_back(request.calibrator.empty() ? default_calibrator : request.calibrator);
    for (const std::string& name : request.compare)
      if (std::find(calibrators.begin(), calibrators.end(), name) == calibrators.end())
        calibrators.push_back(name);
    quantized = ptq.quantize(calibrators, *data, progress);
  } else {
    calibrators.emplace_back("none");
    quantized.push_back(ptq.quantize(data, progress));
  }
  record["quantization"]["calibrator"] = calibrators[0];
  record["quantization"]["bias_correction"] = calibrates && options.correct_bias;
  record["quantization"]["fitted_samples"] = quantized[0].fitted_samples;
  std::vector<const Graph*> graphs;
  graphs.reserve(quantized.size());
  for (const PtqResult& one : quantized) graphs.push_back(&one.graph);
  std::vector<Comparison> comparisons;
  if (judge) comparisons = compare(ptq.graph(), graphs, *judge, options.threads, progress);
  describe_results(record, ptq, calibrators, quantized, comparisons);
  if (judge)
    for (const Collapse& collapse : comparisons[0].collapses) {
      record["warnings"].push_back(describe(collapse));
      log(LogLevel::warning, describe(collapse));
    }
  result.graph = std::move(quantized[0].graph);
  record["quantized_model"] = describe_model(result.graph);
  return result;
}

json inspect(const Graph& graph) {
  json info = describe_model(graph);
  std::map<std::string, int> ops;
  info["layers"] = json::array();
  graph.for_each([&](Node& node) {
    ++ops[std::string(node.op_name())];
    json layer{{"name", node.name()},
               {"op", node.op_name()},
               {"output", node.outputs().empty() ? "" : node.output()->type().str()}};
    size_t weights = 0;
    for (const Value* input : node.inputs())
      if (input && input->is_constant()) weights += input->constant().bytes();
    layer["weights_bytes"] = weights;
    info["layers"].push_back(std::move(layer));
  });
  info["ops"] = ops;
  return info;
}

namespace {

std::string symbol_name(const Program::Signature& signature, size_t input, size_t axis) {
  const Dim& dim = signature.input_types[input].shape[axis];
  return dim.is_unknown() ? fmt::format("{}.{}", signature.input_names[input], axis) : dim.symbol();
}

// Every symbol, and whether it is a leading axis somewhere.
std::map<std::string, bool> symbols_of(const Program::Signature& signature) {
  std::map<std::string, bool> leading;
  for (size_t i = 0; i < signature.input_types.size(); ++i)
    for (size_t axis = 0; axis < signature.input_types[i].shape.size(); ++axis)
      if (!signature.input_types[i].shape[axis].is_static())
        leading[symbol_name(signature, i, axis)] |= axis == 0;
  return leading;
}

std::vector<Dims> concrete_dims(const Program::Signature& signature, const Symbols& symbols) {
  std::vector<Dims> all;
  for (size_t i = 0; i < signature.input_types.size(); ++i) {
    const Shape& shape = signature.input_types[i].shape;
    Dims dims;
    for (size_t axis = 0; axis < shape.size(); ++axis)
      dims.push_back(shape[axis].is_static() ? shape[axis].value()
                                             : symbols.at(symbol_name(signature, i, axis)));
    all.push_back(std::move(dims));
  }
  return all;
}

Symbols all_equal(const Program::Signature& signature, int64_t value) {
  Symbols symbols;
  for (const auto& [name, leading] : symbols_of(signature)) symbols[name] = value;
  return symbols;
}

std::string symbols_text(const Symbols& symbols) {
  std::string text;
  for (const auto& [name, value] : symbols)
    text += fmt::format("{}{} = {}", text.empty() ? "" : ", ", name, value);
  return text;
}

json signature_json(const Program& program) {
  const Program::Signature& signature = program.signature();
  json info{{"threads", program.threads()}, {"inputs", json::array()}, {"outputs", json::array()}};
  for (size_t i = 0; i < signature.input_types.size(); ++i)
    info["inputs"].push_back(
        {{"name", signature.input_names[i]}, {"type", signature.input_types[i].str()}});
  for (size_t i = 0; i < signature.output_types.size(); ++i)
    info["outputs"].push_back(
        {{"name", signature.output_names[i]}, {"type", signature.output_types[i].str()}});
  return info;
}

}  // namespace

Symbols choose_symbols(Program& program, std::optional<int64_t> all, const Symbols& given) {
  const auto symbols = symbols_of(program.signature());
  const auto names = [&] {
    std::string list;
    for (const auto& [name, leading] : symbols) list += (list.empty() ? "" : ", ") + name;
    return list.empty() ? std::string("it has none") : "they are: " + list;
  };
  for (const auto& [name, value] : given) {
    if (!symbols.contains(name))
      throw UserError(ErrorKind::value, "symbols",
                      fmt::format("'{}' is no symbolic dimension of the inputs", name), names());
    if (value < 1)
      throw UserError(ErrorKind::value, "symbols", fmt::format("{} = {}", name, value),
                      "dimensions are positive");
  }
  std::optional<UserError> first;
  std::string with;
  Symbols tried;
  for (int64_t value = 1; value <= 1024; value *= 2) {
    Symbols chosen;
    for (const auto& [name, leading] : symbols) chosen[name] = all ? *all : leading ? 1 : value;
    for (const auto& [name, fixed] : given) chosen[name] = fixed;
    if (value > 1 && chosen == tried) break;  // nothing is left to choose
    tried = chosen;
    try {
      program.plan(concrete_dims(program.signature(), chosen));
      return chosen;
    } catch (const UserError& error) {
      if (error.kind() == ErrorKind::unsupported) throw;  // whatever the numbers
      if (first) continue;
      first = error;
      with = chosen.empty() ? "" : fmt::format(" (with {})", symbols_text(chosen));
    }
  }
  throw UserError(
      first->kind(), first->where(), first->message() + with,
      first->hint().empty() ? "choose other numbers for symbolic dimensions" : first->hint());
}

json inspect(Program& program, std::optional<int64_t> all, const Symbols& given) {
  try {
    return inspect_plan(program, choose_symbols(program, all, given));
  } catch (const UserError& error) {
    if (all || !given.empty()) throw;
    json info = signature_json(program);
    info["bound"] = nullptr;
    info["reason"] = error.what();
    info["steps"] = json::array();
    return info;
  }
}

json inspect_plan(Program& program, const Symbols& symbols) {
  const auto plan = program.plan(concrete_dims(program.signature(), symbols));
  json info = signature_json(program);
  info["bound"] = symbols;
  info["steps"] = json::array();
  info["arena_bytes"] = plan->arena_bytes;
  info["least_arena_bytes"] = plan->least_arena_bytes;
  info["scratch_bytes"] = plan->scratch_bytes;
  for (const Step& step : plan->steps)
    info["steps"].push_back({{"node", step.node},
                             {"op", step.op},
                             {"kernel", step.kernel->name()},
                             {"isa", isa_name(step.kernel->isa())},
                             {"macs", step.macs},
                             {"bytes", step.bytes},
                             {"packed_bytes", step.kernel->packed_bytes()},
                             {"declined", step.declined}});
  return info;
}

json lint_graph(const Graph& graph, const std::string& target) {
  const LintReport report = lint(graph, target);
  json findings = json::array();
  for (const LintFinding& f : report.findings)
    findings.push_back({{"kind", f.kind == LintKind::rule      ? "rule"
                                 : f.kind == LintKind::weights ? "weights"
                                                               : "float"},
                        {"node", f.node},
                        {"op", f.op},
                        {"reason", f.reason}});
  return {{"target", target}, {"findings", findings}, {"integer", report.integer}};
}

json lint_model(const std::string& path, const std::string& target) {
  return lint_graph(load_model(path), target);
}

std::vector<Tensor> random_inputs(const Program::Signature& signature, uint64_t seed,
                                  int64_t symbol_value) {
  return random_inputs(signature, seed, all_equal(signature, symbol_value));
}

std::vector<Tensor> random_inputs(const Program::Signature& signature, uint64_t seed,
                                  const Symbols& symbols) {
  std::mt19937_64 generator(seed);
  std::normal_distribution<float> normal;
  std::vector<Tensor> inputs;
  const auto dims = concrete_dims(signature, symbols);
  for (size_t i = 0; i < dims.size(); ++i) {
    const DType dtype = signature.input_types[i].dtype;
    Tensor x(DType::f32, dims[i]);
    for (float& v : x.mutable_values<float>())
      v = is_float(dtype) ? normal(generator) : static_cast<float>(generator() % 2);
    inputs.push_back(convert(x, dtype));
  }
  return inputs;
}

BenchResult bench(Program& program, const std::vector<Tensor>& inputs, double seconds,
                  const Progress& progress) {
  std::vector<Dims> dims;
  std::vector<const void*> in;
  for (const Tensor& input : inputs) {
    dims.push_back(input.dims());
    in.push_back(input.data());
  }
  program.run(inputs);  // checks the types
  const auto plan = program.plan(dims);
  std::vector<Tensor> outputs;
  std::vector<void*> out;
  for (const TensorType& type : plan->output_types) {
    outputs.emplace_back(type.dtype, type.shape.dims());
    out.push_back(outputs.back().mutable_data());
  }
  using Clock = std::chrono::steady_clock;
  for (int i = 0; i < 3; ++i) program.run(*plan, in, out);
  BenchResult result;
  const auto begin = Clock::now();
  while (result.milliseconds.size() < 5 ||
         std::chrono::duration<double>(Clock::now() - begin).count() < seconds) {
    const auto start = Clock::now();
    program.run(*plan, in, out);
    result.milliseconds.push_back(
        std::chrono::duration<double, std::milli>(Clock::now() - start).count());
    if (progress) progress("measuring", result.milliseconds.size(), 0);
  }
  std::vector<double> sorted = result.milliseconds;
  std::sort(sorted.begin(), sorted.end());
  result.median = sorted[sorted.size() / 2];
  result.least = sorted[0];
  return result;
}

json doctor() {
  json info{{"octavo", octavo_version},
            {"cpu", cpu_model_name()},
            {"hardware_isa", isa_name(hardware_isa())},
            {"isa", isa_name(best_isa())},
            {"available_cpus", available_cpus()},
            {"threads", default_pool().size()},
            {"ops", all_ops().size()},
            {"environment", json::array()}};
  for (const EnvFlag& flag : env_flags())
    info["environment"].push_back(
        {{"name", flag.name}, {"value", env_string(flag.name, "")}, {"meaning", flag.meaning}});
  return info;
}

}  // namespace octavo
