#include "quantize/ptq.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <nlohmann/json.hpp>

#include "codegen/compile.h"
#include "evaluate/metrics.h"
#include "graph/op_def.h"
#include "passes/pipeline.h"
#include "quantize/calibrators/calibrators.h"
#include "quantize/weights.h"
#include "support/error.h"

namespace octavo {
namespace {

constexpr int levels = 256;

// Sums of each channel of a tensor: what bias correction needs of a product's input.
struct ChannelSums {
  std::vector<double> sums;
  double count = 0;  // values per channel
  void add(const Tensor& x, size_t axis) {
    const Dims& dims = x.dims();
    const auto channels = static_cast<size_t>(dims[axis]);
    size_t inner = 1;
    for (size_t i = axis + 1; i < dims.size(); ++i) inner *= static_cast<size_t>(dims[i]);
    sums.resize(channels, 0);
    const auto values = x.values<float>();
    for (size_t i = 0; i < values.size(); i += inner) {
      double sum = 0;
      for (size_t k = 0; k < inner; ++k) sum += values[i + k];
      sums[i / inner % channels] += sum;
    }
    count += static_cast<double>(values.size()) / static_cast<double>(channels);
  }
};

struct ActivationState {
  HistogramStatistics histogram;
  ChannelSums channels;  // empty unless a product reads it
};

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

// One channel axis for a product's input: 1 for convolutions, the last for matrices.
size_t channel_axis(const Node& product) {
  return product.is("conv") ? 1 : product.input(0)->shape().size() - 1;
}

}  // namespace

struct Ptq::State {
  PtqOptions options;
  Graph graph;
  Placement placement;
  std::vector<std::string> names;                 // of the placed activations
  std::map<std::string, size_t> channel_axis_of;  // activations that products read
  std::map<std::string, ActivationState> statistics;
  size_t samples = 0;

  std::map<std::string, ActivationParams> choose(const std::string& calibrator,
                                                 std::map<std::string, Range>* ranges) const;
  WeightParams choose_weights(const PlacedWeights& placed,
                              const std::map<std::string, ActivationParams>& activations) const;
  void check_calibrated() const {
    if (samples == 0)
      throw UserError(ErrorKind::value, "quantize", "nothing was calibrated",
                      "call calibrate with data first");
  }
};

Ptq::Ptq(Graph graph, PtqOptions options) : s_(std::make_unique<State>()) {
  const PlacementTarget& target = find_placement_target(options.target);
  if (options.weights != "max" && options.weights != "mse")
    throw UserError(ErrorKind::value, "weights", fmt::format("'{}' is not known", options.weights),
                    "use one of: " + weight_method_names());
  canonicalize(graph);
  if (graph.stage == Stage::quantized)
    throw UserError(ErrorKind::value, graph.name, "is quantized already", "give the float model");
  s_->options = std::move(options);
  s_->graph = std::move(graph);
  s_->placement = target.place(s_->graph, s_->options.rules);
  if (s_->placement.weights.empty())
    throw UserError(ErrorKind::value, s_->graph.name, "has no layer that can be integer",
                    "INT8 needs convolutions or matrix products with constant weights that no rule "
                    "keeps in float");
  for (const PlacedActivation& a : s_->placement.activations) {
    s_->names.push_back(a.value->name());
    s_->statistics[a.value->name()];
  }
  for (const PlacedWeights& w : s_->placement.weights)
    s_->channel_axis_of[w.node->input(0)->name()] = channel_axis(*w.node);
}
Ptq::~Ptq() = default;
Ptq::Ptq(Ptq&&) noexcept = default;

const Graph& Ptq::graph() const { return s_->graph; }
const Placement& Ptq::placement() const { return s_->placement; }
size_t Ptq::samples() const { return s_->samples; }

void Ptq::calibrate(const Dataset& data, const Progress& progress) {
  const size_t count =
      s_->options.most_samples ? std::min(s_->options.most_samples, data.size()) : data.size();
  if (count == 0) throw UserError(ErrorKind::value, "calibration data", "there is no sample");
  Program program = with_outputs(s_->graph, s_->names, s_->options.threads);
  const size_t first = s_->graph.outputs().size();
  for (size_t i = 0; i < count; ++i) {
    const auto outputs = program.run(data.sample(i));
    for (size_t k = 0; k < s_->names.size(); ++k) {
      ActivationState& state = s_->statistics.at(s_->names[k]);
      const Tensor& x = outputs[first + k];
      try {
        state.histogram.collect(x.values<float>());
      } catch (const UserError& e) {
        throw UserError(ErrorKind::value, fmt::format("tensor '{}' of sample {}", s_->names[k], i),
                        e.message(), e.hint());
      }
      if (const auto axis = s_->channel_axis_of.find(s_->names[k]);
          axis != s_->channel_axis_of.end())
        state.channels.add(x, axis->second);
    }
    if (progress) progress("calibrating", i + 1, count);
  }
  s_->samples += count;
}

std::map<std::string, ActivationParams> Ptq::State::choose(
    const std::string& calibrator, std::map<std::string, Range>* ranges) const {
  const Calibrator& chosen = find_calibrator(calibrator);
  std::vector<Range> group(static_cast<size_t>(placement.groups));
  for (const PlacedActivation& a : placement.activations) {
    const HistogramStatistics& h = statistics.at(a.value->name()).histogram;
    if (h.empty()) continue;
    const Range r = chosen.choose(h, levels);
    Range& all = group[static_cast<size_t>(a.group)];
    all = {std::min(all.min, r.min), std::max(all.max, r.max)};
  }
  std::map<std::string, ActivationParams> params;
  for (const PlacedActivation& a : placement.activations) {
    const Range r = group[static_cast<size_t>(a.group)];
    ActivationParams p;
    p.dtype = DType::u8;
    const double step = (r.max - r.min) / (levels - 1);
    // A tensor that is always zero: any scale represents it.
    p.scale = step > 1e-30 ? static_cast<float>(step) : 1.0f;
    p.zero_point = static_cast<int32_t>(
        std::clamp(std::nearbyint(-r.min / static_cast<double>(p.scale)), 0.0, 255.0));
    params[a.value->name()] = p;
    if (ranges) (*ranges)[a.value->name()] = r;
  }
  return params;
}

WeightParams Ptq::State::choose_weights(
    const PlacedWeights& placed, const std::map<std::string, ActivationParams>& activations) const {
  const Node& node = *placed.node;
  const WeightRows rows = weight_rows(node.input(1)->constant(), placed.axis);
  WeightParams params;
  params.scales = options.weights == "mse" ? mse_scales(rows) : max_scales(rows);
  std::vector<float> bias(rows.channels, 0.0f);
  if (node.input(2)) {
    const auto given = node.input(2)->constant().to_doubles();
    for (size_t c = 0; c < bias.size(); ++c)
      bias[c] = static_cast<float>(given.size() == 1 ? given[0] : given[c]);
  }
  const std::string& x_name = node.input(0)->name();
  const float x_scale = activations.at(x_name).scale;
  for (size_t c = 0; c < rows.channels; ++c)
    params.scales[c] = std::max(params.scales[c], least_scale(bias[c], x_scale));
  const std::vector<int8_t> q = round_to_nearest(rows, params.scales);
  params.values = integer_tensor(q, node.input(1)->constant(), placed.axis);

  const ChannelSums& x = statistics.at(x_name).channels;
  const bool correct = options.correct_bias && x.count > 0;
  if (correct) {
    // E[W x] - E[Wq x] from the mean of each input channel (Nagel et al., "Data-Free Quantization",
    // 2019, section 4.2, with measured means).
    const int64_t groups = node.is("conv") ? node.integer("group") : 1;
    const size_t inputs = x.sums.size() / static_cast<size_t>(groups), taps = rows.length / inputs;
    for (size_t c = 0; c < rows.channels; ++c) {
      const size_t first = c / (rows.channels / static_cast<size_t>(groups)) * inputs;
      double error = 0;
      for (size_t k = 0; k < rows.length; ++k)
        error += (rows.values[c * rows.length + k] -
                  static_cast<double>(q[c * rows.length + k]) * params.scales[c]) *
                 x.sums[first + k / taps] / x.count;
      bias[c] = static_cast<float>(bias[c] + error);
    }
  }
  if (node.input(2) || correct)
    params.bias = Tensor::from(Dims{static_cast<int64_t>(rows.channels)}, bias);
  return params;
}

Graph Ptq::quantize(const std::string& calibrator, const Dataset&, const Progress& progress) const {
  s_->check_calibrated();
  const auto activations = s_->choose(calibrator, nullptr);
  std::map<std::string, WeightParams> weights;
  for (const PlacedWeights& placed : s_->placement.weights) {
    weights[placed.node->name()] = s_->choose_weights(placed, activations);
    if (progress) progress("quantizing weights", weights.size(), s_->placement.weights.size());
  }
  return apply_quantization(s_->graph, s_->placement, activations, weights);
}

nlohmann::json Ptq::describe(const std::string& calibrator) const {
  s_->check_calibrated();
  std::map<std::string, Range> ranges;
  const auto params = s_->choose(calibrator, &ranges);
  nlohmann::json result = nlohmann::json::object();
  for (const auto& [name, p] : params) {
    const HistogramStatistics& h = s_->statistics.at(name).histogram;
    result[name] = {
        {"scale", p.scale},        {"zero_point", p.zero_point}, {"dtype", dtype_name(p.dtype)},
        {"min", ranges[name].min}, {"max", ranges[name].max},    {"data_min", h.min()},
        {"data_max", h.max()}};
  }
  return result;
}

// ---- statistics as bytes: a count, then for each tensor its name, histogram and channel sums,
// each preceded by its length.

namespace {

void put(std::string& out, const std::string& bytes) {
  const uint64_t length = bytes.size();
  out.append(reinterpret_cast<const char*>(&length), sizeof length);
  out += bytes;
}

std::string take(const std::string& in, size_t& at, const std::string& where) {
  uint64_t length = 0;
  if (in.size() - at < sizeof length)
    throw UserError(ErrorKind::file, where, "the statistics are cut off");
  std::memcpy(&length, in.data() + at, sizeof length);
  at += sizeof length;
  if (in.size() - at < length)
    throw UserError(ErrorKind::file, where, "the statistics are cut off");
  at += length;
  return in.substr(at - length, length);
}

}  // namespace

std::string Ptq::statistics() const {
  s_->check_calibrated();
  std::string out;
  put(out, std::to_string(s_->samples));
  for (const std::string& name : s_->names) {
    const ActivationState& state = s_->statistics.at(name);
    put(out, name);
    put(out, state.histogram.serialize());
    std::string sums(reinterpret_cast<const char*>(&state.channels.count), sizeof(double));
    sums.append(reinterpret_cast<const char*>(state.channels.sums.data()),
                state.channels.sums.size() * sizeof(double));
    put(out, sums);
  }
  return out;
}

void Ptq::merge_statistics(const std::string& bytes, const std::string& where) {
  size_t at = 0;
  const std::string count = take(bytes, at, where);
  if (count.empty() || count.size() > 18 ||
      count.find_first_not_of("0123456789") != std::string::npos)
    throw UserError(ErrorKind::file, where, "these are no statistics");
  std::map<std::string, ActivationState> theirs;
  for (const std::string& name : s_->names) {
    if (take(bytes, at, where) != name)
      throw UserError(
          ErrorKind::file, where,
          fmt::format("the statistics are of another network or target: no '{}'", name));
    ActivationState& state = theirs[name];
    state.histogram = HistogramStatistics::deserialize(take(bytes, at, where), where);
    const std::string sums = take(bytes, at, where);
    if (sums.size() < sizeof(double) || sums.size() % sizeof(double) != 0)
      throw UserError(ErrorKind::file, where, "the channel sums are damaged");
    std::memcpy(&state.channels.count, sums.data(), sizeof(double));
    state.channels.sums.resize(sums.size() / sizeof(double) - 1);
    std::memcpy(state.channels.sums.data(), sums.data() + sizeof(double),
                sums.size() - sizeof(double));
    const ChannelSums& ours = s_->statistics.at(name).channels;
    if (!ours.sums.empty() && ours.sums.size() != state.channels.sums.size())
      throw UserError(ErrorKind::file, where, "the channel sums are of another network");
  }
  for (const std::string& name : s_->names) {  // nothing above threw: take all or nothing
    ActivationState& ours = s_->statistics.at(name);
    ours.histogram.merge(theirs[name].histogram);
    ours.channels.sums.resize(theirs[name].channels.sums.size(), 0);
    for (size_t c = 0; c < ours.channels.sums.size(); ++c)
      ours.channels.sums[c] += theirs[name].channels.sums[c];
    ours.channels.count += theirs[name].channels.count;
  }
  s_->samples += std::stoull(count);
}

// ---- comparison

Comparison compare(const Graph& float_graph, const Graph& quantized, const Dataset& data,
                   int threads, const Progress& progress) {
  Comparison result;
  std::vector<std::string> names, twins;
  const auto consider = [&](const Value* value) {
    if (value->name().empty() || float_graph.is_output(value)) return;
    if (!quantized.find_value(dequantized_name(value->name()))) return;
    names.push_back(value->name());
    twins.push_back(dequantized_name(value->name()));
  };
  for (const Value* input : float_graph.inputs()) consider(input);
  float_graph.for_each([&](Node& node) {
    for (const Value* output : node.outputs()) consider(output);
  });
  Program truth = with_outputs(float_graph, names, threads),
          approximation = with_outputs(quantized, twins, threads);
  const size_t outputs = float_graph.outputs().size();
  std::vector<Sqnr> errors(names.size() + outputs);
  Sqnr all_outputs;
  TopAgreement agreement;
  for (size_t i = 0; i < data.size(); ++i) {
    const auto inputs = data.sample(i);
    const auto a = truth.run(inputs), b = approximation.run(inputs);
    for (size_t k = 0; k < a.size(); ++k) {
      if (a[k].dtype() != DType::f32) continue;
      errors[k].add(a[k], b[k]);
      if (k < outputs) all_outputs.add(a[k], b[k]);
    }
    if (a[0].dtype() == DType::f32) agreement.add(a[0], b[0]);
    if (progress) progress("comparing with float", i + 1, data.size());
  }
  for (size_t k = 0; k < names.size(); ++k)
    result.tensors.push_back({names[k], errors[outputs + k].decibels()});
  for (size_t k = 0; k < outputs; ++k)
    if (!errors[k].empty())
      result.tensors.push_back({float_graph.outputs()[k]->name(), errors[k].decibels()});
  result.output_sqnr_db = all_outputs.decibels();
  result.agreement = agreement.fraction();
  result.confident_agreement = agreement.confident_fraction();
  result.samples = data.size();
  result.confident_samples = static_cast<size_t>(agreement.confident_rows());
  return result;
}

}  // namespace octavo
