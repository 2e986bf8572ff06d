#include "quantize/sensitivity.h"

#include <algorithm>
#include <cmath>
#include <nlohmann/json.hpp>
#include <optional>
#include <set>
#include <unordered_map>

#include "codegen/compile.h"
#include "graph/text.h"
#include "quantize/algorithms/segments.h"
#include "quantize/checkpoint.h"
#include "quantize/suffix.h"
#include "support/cpu.h"
#include "support/error.h"
#include "support/hash.h"

namespace octavo {
namespace {

constexpr const char* mode_names[] = {"only", "all_but", "sqnr"};

// What is measured once: a part of one quantized network, run on held values.
struct Job {
  std::string key;  // in the checkpoint
  std::vector<std::string> cut;
  std::vector<size_t> changed;  // outputs that the part computes; the rest are the base's
  std::optional<Graph> part;    // none: nothing is changed
  std::optional<Graph> truth;   // of mode sqnr: the same part of the float network
  size_t bytes = 0;             // that the compiled part holds: packed constants, arenas
  std::optional<Program> program, truth_program;
};

// What is held of one sample.
struct Sample {
  std::vector<Tensor> truth;              // the float network's outputs
  std::vector<Tensor> base;               // the base's outputs
  std::map<std::string, Tensor> at_cuts;  // the base's values
};

uint64_t hash_of(const std::vector<Tensor>& tensors) {
  uint64_t hash = fnv1a_seed;
  for (const Tensor& tensor : tensors) {
    const std::string type = tensor.type().str();
    hash = fnv1a(std::as_bytes(std::span(type)), hash);
    hash = fnv1a({tensor.data(), tensor.bytes()}, hash);
  }
  return hash;
}

size_t constant_bytes(const Graph& graph) {
  size_t bytes = 0;
  for (const Value* value : graph.constants()) bytes += value->constant().bytes();
  return bytes;
}

std::unordered_map<std::string, std::string> output_of_nodes(const Graph& graph) {
  std::unordered_map<std::string, std::string> outputs;
  graph.for_each([&](Node& node) {
    if (!node.outputs().empty()) outputs.emplace(node.name(), node.output()->name());
  });
  return outputs;
}

// The value of a variant that is the layer's own output. A dynamic product leaves the layer's name
// to its sum of integers, and that of the output to its last node.
std::string own_output(const Graph& variant, const std::string& layer, const Value& base_output) {
  const std::string of_node = output_of_nodes(variant).at(layer);
  return variant.find_value(of_node)->dtype() == base_output.dtype() ? of_node : base_output.name();
}

class Run {
 public:
  Run(Variants& variants, const Dataset& data, const SensitivityOptions& options,
      const Progress& progress)
      : variants_(variants),
        judge_(options.evaluation ? *options.evaluation : data),
        options_(options),
        progress_(progress),
        pool_(variants.options().threads),
        base_(options.mode == SensitivityMode::all_but ? variants.quantize(variants.everything())
                                                       : variants.graph().clone()) {
    const size_t most = variants.options().most_samples;
    count_ = most && !options.evaluation ? std::min(most, judge_.size()) : judge_.size();
    if (count_ == 0) throw UserError(ErrorKind::value, "data", "there is no sample to judge by");
    make_jobs();
    checkpoint_.emplace(options.checkpoint, identity(), options.checkpoint_seconds);
  }

  SensitivityResult run() {
    measure();
    SensitivityResult result;
    result.mode = options_.mode;
    result.metric = options_.metric;
    result.calibration_samples = variants_.statistics().samples();
    result.evaluation_samples = count_;
    const auto& layers = variants_.layers();
    for (size_t k = 0; k < layers.size(); ++k)
      result.layers.push_back({layers[k], k, figures_of(checkpoint_->scores(jobs_[k].key))});
    result.quantized = figures_of(checkpoint_->scores("all"));
    if (options_.custom) {
      result.float_scores = checkpoint_->scores("float");
      result.float_metric = figures_of(result.float_scores).metric.value;
    }
    const double sign = options_.mode == SensitivityMode::all_but ? -1 : 1;
    std::stable_sort(result.layers.begin(), result.layers.end(), [&](const auto& a, const auto& b) {
      const double x = sign * result.figure(a.figures).value,
                   y = sign * result.figure(b.figures).value;
      if (x != y) return x < y;
      return sign * a.figures.sqnr_db.value < sign * b.figures.sqnr_db.value;
    });
    return result;
  }

 private:
  Job make_job(const std::string& key, const Graph& variant, const std::vector<std::string>& wanted,
               const std::vector<std::string>& like) {
    Job job;
    job.key = key;
    const Suffix suffix = suffix_of(base_, like, variant, wanted);
    job.cut = suffix.cut;
    job.changed = suffix.changed;
    if (job.changed.empty()) return job;
    std::vector<std::string> names;
    for (const size_t i : job.changed) names.push_back(wanted[i]);
    job.part = extract(variant, job.cut, names);
    return job;
  }

  void make_jobs() {
    const auto base_nodes = output_of_nodes(base_);
    const auto base_outputs = output_names(base_);
    const auto& layers = variants_.layers();
    for (size_t k = 0; k < layers.size(); ++k) {
      const bool but = options_.mode == SensitivityMode::all_but;
      const Graph variant =
          variants_.quantize(but ? variants_.all_but(layers[k]) : variants_.only(layers[k]));
      const std::string key = std::to_string(k);
      if (options_.mode == SensitivityMode::sqnr) {
        const std::vector<std::string> like{base_nodes.at(layers[k].name)};
        const std::string own = own_output(variant, layers[k].name, *base_.find_value(like[0]));
        jobs_.push_back(make_job(key, variant, {own}, like));
        if (Job& job = jobs_.back(); job.part) job.truth = extract(base_, job.cut, like);
      } else {
        jobs_.push_back(make_job(key, variant, output_names(variant), base_outputs));
      }
      if (progress_) progress_("preparing layers", k + 1, layers.size());
    }
    if (options_.mode != SensitivityMode::all_but) {
      const Graph all = variants_.quantize(variants_.everything());
      jobs_.push_back(make_job("all", all, output_names(all), base_outputs));
    }
    std::set<std::string> held;
    for (const Job& job : jobs_) held.insert(job.cut.begin(), job.cut.end());
    held_.assign(held.begin(), held.end());
  }

  std::string identity() const {
    std::string text = print_graph(variants_.graph());
    const PtqOptions& q = variants_.options();
    text += fmt::format("{}|{}|{}|{}|{}|{}|{}|{}|{}|{}|{}|{}\n", mode_name(options_.mode),
                        options_.metric, options_.custom ? "custom" : "", mode_name(q.mode),
                        q.weight_bits, q.group_size, q.activation, q.target, options_.calibrator,
                        q.weights, isa_name(best_isa()), count_);
    for (const QuantizedLayer& layer : variants_.layers()) text += layer.name + "\n";
    return text + print_rules(q.rules) + variants_.statistics().serialize();
  }

  double metric(std::span<const Tensor> outputs, size_t sample) const {
    if (!options_.custom) return 0;
    const double value = options_.custom(outputs, sample);
    if (std::isnan(value))
      throw UserError(ErrorKind::value, fmt::format("metric '{}'", options_.metric),
                      fmt::format("gave NaN for sample {}", sample));
    return value;
  }

  void report() {
    if (progress_) progress_("measuring layers", done_, jobs_.size() * count_);
  }

  // A program of one thread on many samples at once: visit(outputs of each, first index), in order.
  template <class Inputs, class Visit>
  void in_parallel(Program& program, size_t from, size_t to, Inputs inputs, Visit visit) {
    const auto width = static_cast<size_t>(pool_.size());
    for (size_t first = from; first < to; first += width) {
      const size_t count = std::min(width, to - first);
      std::vector<std::vector<Tensor>> outputs(count);
      auto task = [&](int64_t i, int) {
        outputs[static_cast<size_t>(i)] = program.run(inputs(first + static_cast<size_t>(i)));
      };
      pool_.run(static_cast<int64_t>(count), task);
      visit(outputs, first);
    }
  }

  void measure() {
    size_t complete = count_;  // samples that every job has seen
    for (const Job& job : jobs_) {
      const size_t seen = checkpoint_->scores(job.key).size();
      if (seen > count_)
        throw UserError(ErrorKind::file, options_.checkpoint, "has more samples than the data",
                        "remove it to begin anew");
      complete = std::min(complete, seen);
      done_ += std::min(seen, count_);
    }
    if (options_.mode == SensitivityMode::all_but)
      complete = std::min(complete, checkpoint_->scores("all").size());
    if (options_.custom) complete = std::min(complete, checkpoint_->scores("float").size());
    for (size_t i = 0; i < complete; ++i) checkpoint_->check_input(i, hash_of(judge_.sample(i)));
    report();
    if (complete == count_) return;

    Program truth = compile(variants_.graph().clone(), {.threads = 1});
    Graph observed = base_.clone();
    for (const std::string& name : held_) observed.add_output(observed.find_value(name));
    Program base = compile(std::move(observed), {.threads = 1});
    for (size_t first = complete; first < count_;) {
      const auto chunk = hold(truth, base, first);
      for (Job& job : jobs_) measure(job, chunk, first);
      first += chunk.size();
      checkpoint_->save(first == count_);
    }
  }

  // Runs the float network and the base on samples from `first` on, as many as fit.
  std::vector<Sample> hold(Program& truth, Program& base, size_t first) {
    std::vector<Sample> chunk;
    size_t bytes = 0;
    const auto width = static_cast<size_t>(pool_.size());
    const size_t outputs = base_.outputs().size();
    while (first + chunk.size() < count_ && (chunk.empty() || bytes < options_.most_bytes)) {
      const size_t from = first + chunk.size(), to = std::min(from + width, count_);
      std::vector<std::vector<Tensor>> inputs;
      for (size_t i = from; i < to; ++i) {
        inputs.push_back(judge_.sample(i));
        checkpoint_->check_input(i, hash_of(inputs.back()));
      }
      const auto input = [&](size_t i) -> const std::vector<Tensor>& { return inputs[i - from]; };
      chunk.resize(to - first);
      in_parallel(truth, from, to, input, [&](auto& results, size_t at) {
        for (size_t i = 0; i < results.size(); ++i)
          chunk[at + i - first].truth = std::move(results[i]);
      });
      in_parallel(base, from, to, input, [&](auto& results, size_t at) {
        for (size_t i = 0; i < results.size(); ++i) {
          Sample& sample = chunk[at + i - first];
          for (size_t k = 0; k < results[i].size(); ++k) {
            bytes += results[i][k].bytes();
            if (k < outputs)
              sample.base.push_back(std::move(results[i][k]));
            else
              sample.at_cuts[held_[k - outputs]] = std::move(results[i][k]);
          }
        }
      });
      for (size_t i = from; i < to; ++i) judge_base(chunk[i - first], i);
      report();
    }
    return chunk;
  }

  void judge_base(const Sample& sample, size_t i) {
    if (options_.metric == "agreement" && score_of(sample.truth, sample.truth).rows == 0)
      throw UserError(ErrorKind::value, "metric 'agreement'",
                      "does not apply: the first output is no f32 with classes on its last axis",
                      "use sqnr, or a function of your own");
    if (options_.custom) {
      auto& scores = checkpoint_->scores("float");
      if (scores.size() <= i) {
        OCTAVO_CHECK(scores.size() == i);
        scores.push_back({.metric = metric(sample.truth, i)});
      }
    }
    if (options_.mode != SensitivityMode::all_but) return;
    auto& scores = checkpoint_->scores("all");
    if (scores.size() > i) return;
    OCTAVO_CHECK(scores.size() == i);
    Score score = score_of(sample.truth, sample.base);
    score.metric = metric(sample.base, i);
    scores.push_back(score);
  }

  void measure(Job& job, const std::vector<Sample>& chunk, size_t first) {
    std::vector<Score>& scores = checkpoint_->scores(job.key);
    const size_t from = std::max(first, scores.size()), to = first + chunk.size();
    if (from >= to) return;
    const auto judge = [&](std::span<const Tensor> truth, std::span<const Tensor> outputs,
                           size_t i) {
      Score score = score_of(truth, outputs);
      if (options_.mode == SensitivityMode::sqnr && job.key != "all") score.rows = score.same = 0;
      score.metric = metric(outputs, i);
      scores.push_back(score);
      ++done_;
    };
    if (!job.part) {
      for (size_t i = from; i < to; ++i) judge(chunk[i - first].truth, chunk[i - first].base, i);
      return report();
    }
    if (!job.program) {
      job.program.emplace(compile(job.part->clone(), {.threads = 1}));
      if (job.truth) job.truth_program.emplace(compile(job.truth->clone(), {.threads = 1}));
    }
    const auto inputs_of = [&](const Program& program) {
      return [&, names = program.signature().input_names](size_t i) {
        std::vector<Tensor> x;
        x.reserve(names.size());
        for (const std::string& name : names) x.push_back(chunk[i - first].at_cuts.at(name));
        return x;
      };
    };
    std::vector<std::vector<Tensor>> truths(job.truth ? to - from : 0);
    if (job.truth)
      in_parallel(*job.truth_program, from, to, inputs_of(*job.truth_program),
                  [&](auto& results, size_t at) {
                    for (size_t i = 0; i < results.size(); ++i)
                      truths[at + i - from] = std::move(results[i]);
                  });
    in_parallel(*job.program, from, to, inputs_of(*job.program), [&](auto& results, size_t at) {
      for (size_t i = 0; i < results.size(); ++i) {
        if (job.truth) {
          judge(truths[at + i - from], results[i], at + i);
          continue;
        }
        const Sample& sample = chunk[at + i - first];
        std::vector<Tensor> outputs = sample.base;
        for (size_t k = 0; k < job.changed.size(); ++k)
          outputs[job.changed[k]] = std::move(results[i][k]);
        judge(sample.truth, outputs, at + i);
      }
      report();
    });
    keep(job, inputs_of(*job.program)(from), to < count_);
    checkpoint_->save();
  }

  // Compiled parts stay for the next chunk while there is room for them.
  void keep(Job& job, const std::vector<Tensor>& inputs, bool more) {
    if (more && !job.bytes) {
      std::vector<Dims> dims;
      dims.reserve(inputs.size());
      for (const Tensor& input : inputs) dims.push_back(input.dims());
      const auto plan = job.program->plan(dims);
      const size_t bytes = constant_bytes(*job.part) + (plan->arena_bytes + plan->scratch_bytes) *
                                                           static_cast<size_t>(pool_.size());
      if (kept_ + bytes <= options_.most_bytes / 2) kept_ += job.bytes = bytes;
    }
    if (more && job.bytes) return;
    job.program.reset();
    job.truth_program.reset();
  }

  Variants& variants_;
  const Dataset& judge_;
  const SensitivityOptions& options_;
  const Progress& progress_;
  ThreadPool pool_;
  Graph base_;
  size_t count_ = 0, done_ = 0, kept_ = 0;
  std::vector<Job> jobs_;
  std::vector<std::string> held_;
  std::optional<Checkpoint> checkpoint_;
};

}  // namespace

const char* mode_name(SensitivityMode mode) { return mode_names[static_cast<size_t>(mode)]; }

SensitivityMode parse_sensitivity_mode(const std::string& name) {
  for (size_t i = 0; i < std::size(mode_names); ++i)
    if (name == mode_names[i]) return static_cast<SensitivityMode>(i);
  throw UserError(ErrorKind::value, "mode", fmt::format("'{}' is not known", name),
                  fmt::format("the modes are {}", fmt::join(mode_names, ", ")));
}

const Figure& SensitivityResult::figure(const Figures& figures) const {
  return metric == "sqnr"        ? figures.sqnr_db
         : metric == "agreement" ? figures.agreement
                                 : figures.metric;
}

SensitivityResult sensitivity(Variants& variants, const Dataset& data,
                              const SensitivityOptions& options, const Progress& progress) {
  const bool known = options.metric == "sqnr" || options.metric == "agreement";
  if (known == static_cast<bool>(options.custom))
    throw UserError(ErrorKind::value, "metric", fmt::format("'{}' is not known", options.metric),
                    "the metrics are sqnr, agreement, and functions of other names");
  if (options.mode == SensitivityMode::sqnr && options.metric != "sqnr")
    throw UserError(ErrorKind::value, "metric",
                    "mode sqnr looks at the layers' own outputs, not at the network's",
                    "leave the metric out, or use mode only");
  variants.calibrate(data, options.calibrator, progress);
  return Run(variants, data, options, progress).run();
}

}  // namespace octavo
