#include "quantize/algorithms/layer_by_layer.h"

#include <algorithm>
#include <cmath>
#include <set>
#include <unordered_map>

#include "codegen/compile.h"
#include "graph/op_def.h"
#include "quantize/algorithms/adaround.h"
#include "quantize/algorithms/bias_correction.h"
#include "quantize/algorithms/gptq.h"
#include "quantize/algorithms/segments.h"
#include "quantize/samples.h"
#include "quantize/weights.h"
#include "support/error.h"

namespace octavo {
namespace {

using Held = std::map<std::string, std::vector<Tensor>>;  // by value name, one per sample

// Rows of inputs for the second moments: enough for the longest rows of weights that networks have
// (docs/decisions/0002); grouped products have short ones.
constexpr size_t dense_rows = 25600, grouped_rows = 8192;
constexpr double damping = 0.1;

std::unordered_map<std::string, const Node*> nodes_by_name(const Graph& graph) {
  std::unordered_map<std::string, const Node*> nodes;
  graph.for_each([&](Node& node) { nodes.emplace(node.name(), &node); });
  return nodes;
}

size_t channel_axis(const Node& product) {
  return product.is("conv") || product.is("conv_transpose") ? 1
                                                            : product.output()->shape().size() - 1;
}

// One product of the quantized network at its turn.
struct Turn {
  const PlacedWeights& placed;
  ProductShape shape;
  ActivationParams x_params;
  const std::vector<Tensor>& x;  // integers, one per sample
  ThreadPool& pool;
};

Moments moments_of(const InputSamples& samples, size_t group, size_t length, ThreadPool& pool) {
  constexpr size_t chunk = 2048;
  std::vector<int64_t> products(length * length, 0), sums(length, 0);
  for (size_t first = 0; first < samples.rows(); first += chunk) {
    const ShortMatrix x =
        samples.gather(group, first, std::min(chunk, samples.rows() - first), pool);
    add_products(x, products, pool);
    for (size_t k = 0; k < length; ++k)
      for (size_t n = 0; n < x.stride(); ++n) sums[k] += x.row(k)[n];
  }
  Moments moments{length, std::vector<double>(length * length)};
  const auto rows = static_cast<double>(samples.rows());
  // Centred: the bias takes the mean error, whatever the rounding.
  for (size_t i = 0; i < length; ++i)
    for (size_t j = 0; j <= i; ++j)
      moments.values[i * length + j] = moments.values[j * length + i] =
          static_cast<double>(products[i * length + j]) / rows -
          static_cast<double>(sums[i]) / rows * (static_cast<double>(sums[j]) / rows);
  return moments;
}

std::vector<int8_t> round_for_data(const Turn& turn, const WeightRows& rows,
                                   const std::vector<float>& scales, bool learned, uint64_t seed) {
  const size_t groups = turn.shape.groups, budget = groups == 1 ? dense_rows : grouped_rows;
  const size_t per_input = (budget + turn.x.size() - 1) / turn.x.size();
  const InputSamples samples(turn.shape, turn.x, turn.x_params.zero_point, per_input, seed);
  if (samples.rows() == 0) return round_to_nearest(rows, scales);
  std::vector<int8_t> q(rows.values.size());
  const size_t in_group = rows.channels / groups;
  auto task = [&](int64_t g, int) {
    const auto group = static_cast<size_t>(g);
    const Moments moments = moments_of(samples, group, rows.length, turn.pool);
    const auto rounded =
        learned ? adaround(rows, scales, group * in_group, in_group, moments, turn.pool)
                : gptq_round(rows, scales, group * in_group, in_group, moments, damping, turn.pool);
    std::copy(rounded.begin(), rounded.end(),
              q.begin() + static_cast<ptrdiff_t>(group * in_group * rows.length));
  };
  if (groups == 1)
    task(0, 0);
  else
    turn.pool.run(static_cast<int64_t>(groups), task);
  return q;
}

InputSums sums_of_all(const Turn& turn) {
  std::vector<InputSums> each(turn.x.size());
  auto task = [&](int64_t i, int) {
    each[static_cast<size_t>(i)] =
        input_sums(turn.shape, turn.x[static_cast<size_t>(i)], turn.x_params.zero_point);
  };
  turn.pool.run(static_cast<int64_t>(each.size()), task);
  InputSums all;
  for (const InputSums& one : each) all.add(one);
  return all;
}

// The bias that makes the quantized sums' means those of the float network, `wanted`; `residual`:
// the means of what is added. A channel whose bias would overflow the accumulator gets a larger
// scale.
std::vector<float> corrected_bias(const Turn& turn, const WeightRows& rows,
                                  const std::vector<double>& wanted,
                                  const std::vector<double>& residual, std::vector<int8_t>& q,
                                  std::vector<float>& scales) {
  const InputSums sums = sums_of_all(turn);
  std::vector<float> bias(rows.channels);
  if (sums.positions == 0) return bias_of(*turn.placed.node, rows.channels);
  constexpr double most = 1 << 30;  // steps of the accumulator
  for (int attempt = 0; attempt < 3; ++attempt) {
    const auto means = integer_means(turn.shape, sums, turn.x_params.scale, q, scales);
    bool changed = false;
    for (size_t c = 0; c < rows.channels; ++c) {
      bias[c] = static_cast<float>(wanted[c] - residual[c] - means[c]);
      if (std::fabs(bias[c]) <= most * turn.x_params.scale * scales[c]) continue;
      scales[c] = least_scale(bias[c], turn.x_params.scale);
      if (!turn.placed.per_tensor) round_row_to_nearest(rows, c, scales[c], q);
      changed = true;
    }
    if (!changed) break;
    if (!turn.placed.per_tensor) continue;
    share_scale(scales);
    q = round_to_nearest(rows, scales);
  }
  return bias;
}

std::vector<double> residual_means(const std::vector<Tensor>& tensors, size_t axis,
                                   const ActivationParams* params, ThreadPool& pool) {
  std::vector<ChannelSums> each(tensors.size());
  auto task = [&](int64_t i, int) {
    const auto k = static_cast<size_t>(i);
    if (params)
      each[k].add(tensors[k], axis, params->scale, params->zero_point);
    else
      each[k].add(tensors[k], axis);
  };
  pool.run(static_cast<int64_t>(each.size()), task);
  ChannelSums all;
  for (const ChannelSums& one : each) all.add(one);
  std::vector<double> means(all.sums.size());
  for (size_t c = 0; c < means.size(); ++c) means[c] = all.mean(c);
  return means;
}

// The tensors of `wanted` that `held` lacks, for all samples.
void advance(const Graph& quantized, const std::vector<std::string>& wanted, Held& held,
             size_t samples, ThreadPool& pool) {
  std::vector<std::string> have, missing;
  have.reserve(held.size());
  for (const auto& [name, tensors] : held) have.push_back(name);
  for (const std::string& name : wanted)
    if (!held.contains(name)) missing.push_back(name);
  Held next;
  if (!missing.empty()) {
    const Graph part = extract(quantized, have, missing);
    std::vector<const std::vector<Tensor>*> inputs;
    for (const Value* input : part.inputs()) inputs.push_back(&held.at(input->name()));
    // Samples in parallel, each on one thread: small layers gain nothing from more.
    Program program = compile(part.clone(), {.threads = 1});
    std::vector<std::vector<Tensor>> outputs(samples);
    auto task = [&](int64_t i, int) {
      std::vector<Tensor> x;
      x.reserve(inputs.size());
      for (const auto* input : inputs) x.push_back((*input)[static_cast<size_t>(i)]);
      outputs[static_cast<size_t>(i)] = program.run(x);
    };
    pool.run(static_cast<int64_t>(samples), task);
    for (size_t k = 0; k < missing.size(); ++k)
      for (auto& sample : outputs) next[missing[k]].push_back(std::move(sample[k]));
  }
  for (const std::string& name : wanted)
    if (const auto it = held.find(name); it != held.end()) next[name] = std::move(it->second);
  held = std::move(next);
}

}  // namespace

LayerByLayer::LayerByLayer(const Graph& graph, const Placement& placement, const Dataset& data,
                           size_t most_samples, size_t most_bytes, int threads)
    : graph_(graph),
      placement_(placement),
      data_(data),
      most_samples_(most_samples),
      most_bytes_(most_bytes),
      threads_(threads) {}

void LayerByLayer::choose_samples(const Graph& quantized,
                                  const std::vector<std::vector<std::string>>& cuts) {
  // Shapes of the first sample stand for all.
  Graph bound = quantized.clone();
  const std::vector<Tensor> first = data_.sample(0);
  for (size_t i = 0; i < first.size(); ++i) bound.inputs()[i]->set_type(first[i].type());
  bound.infer_types();
  const auto bytes = [&](const std::string& name) {
    const Value* value = bound.find_value(name);
    OCTAVO_CHECK(value);
    if (!value->shape().is_static()) return size_t{0};
    return static_cast<size_t>(element_count(value->shape().dims())) * dtype_size(value->dtype());
  };
  size_t peak = 1;  // of one cut and what the next adds to it
  for (size_t k = 0; k < cuts.size(); ++k) {
    std::set<std::string> together(cuts[k].begin(), cuts[k].end());
    if (k + 1 < cuts.size()) together.insert(cuts[k + 1].begin(), cuts[k + 1].end());
    size_t sum = 0;
    for (const std::string& name : together) sum += bytes(name);
    peak = std::max(peak, sum);
  }
  const size_t available = most_samples_ ? std::min(most_samples_, data_.size()) : data_.size();
  const size_t count = std::clamp<size_t>(most_bytes_ / peak, 1, available);
  for (size_t i = 0; i < count; ++i) chosen_.push_back(i * available / count);
}

void LayerByLayer::measure_float(const Progress& progress) {
  Graph observed = graph_.clone();
  std::map<std::string, size_t> axes;
  for (const PlacedWeights& placed : placement_.weights) {
    const size_t axis = channel_axis(*placed.node);
    axes[placed.node->output()->name()] = axis;
    if (const Residual r = residual_of(graph_, *placed.node)) axes[r.value()->name()] = axis;
  }
  const size_t first = observed.outputs().size();
  for (const auto& [name, axis] : axes) observed.add_output(observed.find_value(name));
  Program program = compile(std::move(observed), {.threads = 1});
  ThreadPool pool(threads_);
  std::vector<ChannelSums> sums(axes.size());
  std::vector<size_t> axis_of;
  axis_of.reserve(axes.size());
  for (const auto& [name, axis] : axes) axis_of.push_back(axis);
  run_samples(program, data_, chosen_, pool,
              [&](std::span<const std::vector<Tensor>> outputs, size_t done) {
                auto task = [&](int64_t k, int) {
                  const auto n = static_cast<size_t>(k);
                  for (const auto& sample : outputs) sums[n].add(sample[first + n], axis_of[n]);
                };
                pool.run(static_cast<int64_t>(sums.size()), task);
                if (progress) progress("measuring float means", done, chosen_.size());
              });
  const auto find = [&](const Value* value) -> const ChannelSums& {
    return sums[static_cast<size_t>(std::distance(axes.begin(), axes.find(value->name())))];
  };
  for (const PlacedWeights& placed : placement_.weights) {
    const ChannelSums& own = find(placed.node->output());
    const Residual r = residual_of(graph_, *placed.node);
    std::vector<double> means(own.sums.size());
    for (size_t c = 0; c < means.size(); ++c)
      means[c] = own.mean(c) + (r ? find(r.value()).mean(c) : 0);
    float_means_.push_back(std::move(means));
  }
}

std::map<std::string, WeightParams> LayerByLayer::run(
    const std::map<std::string, ActivationParams>& activations, const LayerMethods& methods,
    const Progress& progress) {
  const auto& products = placement_.weights;
  std::map<std::string, WeightParams> params;
  for (const PlacedWeights& placed : products)
    params[placed.node->name()] = nearest_weights(placed, activations, methods.weights);
  const bool for_data = looks_at_data(methods.weights);
  if (products.empty() || (!methods.correct_bias && !for_data)) return params;
  Graph quantized = apply_quantization(graph_, placement_, activations, params);

  std::vector<Demand> demands;
  std::vector<std::string> x_names, residual_names;
  {
    const auto nodes = nodes_by_name(quantized);
    for (const PlacedWeights& placed : products) {
      Demand demand{nodes.at(placed.node->name()), {}};
      const Value* x = held(demand.product->input(0));
      const bool known = has_product_shape(placed) &&
                         activations.contains(placed.node->input(0)->name()) &&
                         (x->dtype() == DType::u8 || x->dtype() == DType::i8);
      x_names.push_back(known ? x->name() : "");
      residual_names.emplace_back();
      if (known) demand.values.push_back(x);
      if (const Residual r = residual_of(graph_, *placed.node); r && known) {
        demand.values.push_back(held(nodes.at(r.addition->name())->input(r.index)));
        residual_names.back() = demand.values.back()->name();
      }
      demands.push_back(std::move(demand));
    }
  }
  const auto cut = cuts(quantized, demands);
  if (chosen_.empty()) choose_samples(quantized, cut);
  if (methods.correct_bias && float_means_.empty()) measure_float(progress);

  ThreadPool pool(threads_);
  Held tensors;
  {
    std::vector<std::string> inputs;
    inputs.reserve(quantized.inputs().size());
    for (const Value* input : quantized.inputs()) inputs.push_back(input->name());
    Graph prefix = extract(quantized, inputs, cut[0]);
    std::vector<size_t> places;
    for (const Value* input : prefix.inputs())
      places.push_back(static_cast<size_t>(std::find(inputs.begin(), inputs.end(), input->name()) -
                                           inputs.begin()));
    Program program = compile(std::move(prefix), {.threads = threads_});
    for (size_t i : chosen_) {
      const auto sample = data_.sample(i);
      std::vector<Tensor> x;
      x.reserve(places.size());
      for (size_t place : places) x.push_back(sample[place]);
      auto outputs = program.run(x);
      for (size_t k = 0; k < cut[0].size(); ++k)
        tensors[cut[0][k]].push_back(std::move(outputs[k]));
    }
  }
  for (size_t k = 0; k < products.size(); ++k) {
    const PlacedWeights& placed = products[k];
    WeightParams& layer = params[placed.node->name()];
    if (!x_names[k].empty()) {
      const Turn turn{placed, product_shape(placed), activations.at(placed.node->input(0)->name()),
                      tensors.at(x_names[k]), pool};
      const WeightRows rows = weight_rows(placed.node->input(1)->constant(), placed.axis);
      std::vector<int8_t> q =
          for_data ? round_for_data(turn, rows, layer.scales, methods.weights == "adaround", k)
                   : round_to_nearest(rows, layer.scales);
      if (methods.correct_bias) {
        std::vector<double> residual(rows.channels, 0.0);
        if (!residual_names[k].empty()) {
          const Residual r = residual_of(graph_, *placed.node);
          const auto& added = tensors.at(residual_names[k]);
          const auto it = activations.find(r.value()->name());
          residual = residual_means(added, channel_axis(*placed.node),
                                    added[0].dtype() == DType::f32 ? nullptr : &it->second, pool);
        }
        layer.bias =
            Tensor::from(Dims{static_cast<int64_t>(rows.channels)},
                         corrected_bias(turn, rows, float_means_[k], residual, q, layer.scales));
      }
      layer.values = integer_tensor(q, placed.node->input(1)->constant(), placed.axis);
    }
    if (k + 1 < products.size()) {
      quantized = apply_quantization(graph_, placement_, activations, params);
      advance(quantized, cut[k + 1], tensors, chosen_.size(), pool);
    }
    if (progress) progress("quantizing layer by layer", k + 1, products.size());
  }
  return params;
}

}  // namespace octavo
