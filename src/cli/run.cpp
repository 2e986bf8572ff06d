#include <algorithm>
#include <cstdio>

#include "cli/command.h"

namespace octavo::cli {
namespace {

struct KernelTotal {
  std::string kernel, isa;
  int steps = 0;
  double microseconds = 0;
};

// Of all steps with one kernel, the slowest first.
std::vector<KernelTotal> kernel_totals(const std::vector<StepProfile>& steps,
                                       const std::vector<double>& microseconds) {
  std::vector<KernelTotal> totals;
  for (size_t i = 0; i < steps.size(); ++i) {
    auto at = std::find_if(totals.begin(), totals.end(), [&](const KernelTotal& t) {
      return t.kernel == steps[i].kernel && t.isa == steps[i].isa;
    });
    if (at == totals.end()) at = totals.insert(at, {steps[i].kernel, steps[i].isa});
    ++at->steps;
    at->microseconds += microseconds[i];
  }
  std::stable_sort(totals.begin(), totals.end(), [](const KernelTotal& a, const KernelTotal& b) {
    return a.microseconds > b.microseconds;
  });
  return totals;
}

// Medians over the samples, step by step.
void print_profile(const std::vector<std::vector<StepProfile>>& profiles, Context& context) {
  std::vector<double> medians;
  double total = 0;
  for (size_t i = 0; i < profiles[0].size(); ++i) {
    std::vector<double> times;
    times.reserve(profiles.size());
    for (const auto& profile : profiles) times.push_back(profile[i].microseconds);
    std::nth_element(times.begin(), times.begin() + static_cast<std::ptrdiff_t>(times.size() / 2),
                     times.end());
    medians.push_back(times[times.size() / 2]);
    total += medians.back();
  }
  const std::vector<KernelTotal> totals = kernel_totals(profiles[0], medians);
  const auto share = [&](double microseconds) {
    return fmt::format("{:.1f}", total > 0 ? 100 * microseconds / total : 0.0);
  };
  if (context.json) {
    nlohmann::json rows = nlohmann::json::array(), kernels = nlohmann::json::array();
    for (const KernelTotal& t : totals)
      kernels.push_back({{"kernel", t.kernel},
                         {"isa", t.isa},
                         {"steps", t.steps},
                         {"microseconds", t.microseconds}});
    for (size_t i = 0; i < medians.size(); ++i) {
      const StepProfile& s = profiles[0][i];
      rows.push_back({{"node", s.node},
                      {"op", s.op},
                      {"kernel", s.kernel},
                      {"isa", s.isa},
                      {"microseconds", medians[i]},
                      {"macs", s.macs},
                      {"bytes", s.bytes}});
    }
    return print_json({{"profile", rows}, {"kernels", kernels}, {"microseconds", total}});
  }
  std::vector<std::vector<std::string>> rows{{"node", "kernel", "ISA", "us", "%", "GMAC/s"}};
  for (size_t i = 0; i < medians.size(); ++i) {
    const StepProfile& s = profiles[0][i];
    rows.push_back(
        {s.node.size() > 40 ? "…" + s.node.substr(s.node.size() - 39) : s.node, s.kernel, s.isa,
         fmt::format("{:.1f}", medians[i]), share(medians[i]),
         s.macs ? fmt::format("{:.1f}", static_cast<double>(s.macs) / medians[i] / 1e3) : "-"});
  }
  std::fputs(table(rows).c_str(), stdout);
  rows = {{"kernel", "ISA", "steps", "us", "%"}};
  for (const KernelTotal& t : totals)
    rows.push_back({t.kernel, t.isa, std::to_string(t.steps), fmt::format("{:.1f}", t.microseconds),
                    share(t.microseconds)});
  std::printf("\n%s%.1f us in all\n", table(rows).c_str(), total);
}

}  // namespace

void add_run(CLI::App& app, Context& context) {
  struct Options {
    std::string model, data, preprocessing, output;
    bool profile = false;
    int threads = 0;
    size_t samples = 0;
  };
  auto o = std::make_shared<Options>();
  CLI::App* sub = app.add_subcommand("run", "Runs a model on data");
  sub->footer(
      "Without --data the inputs are seeded noise. Outputs of all samples are stacked along the "
      "first axis.");
  sub->add_option("model", o->model, "a model, .onnx or .octavo")->required();
  sub->add_option("--data", o->data, "inputs, in the forms that `octavo quantize --help` lists");
  sub->add_option("--preprocessing", o->preprocessing, "how pictures become inputs");
  sub->add_option("-o,--output", o->output, "write the outputs to this .npz");
  sub->add_flag("--profile", o->profile, "time each step: node, kernel, instruction set");
  sub->add_option("--threads", o->threads, "threads (0: what affinity and cgroup allow)");
  sub->add_option("--samples", o->samples, "use at most this many samples (0: all)");
  sub->callback([o, &context] {
    Program program = compile(load_model(o->model), {.threads = o->threads});
    std::unique_ptr<Dataset> data;
    if (o->data.empty())
      data = memory_dataset({random_inputs(program.signature(), 1)}, program.signature());
    else
      data = open_dataset(o->data, program.signature(), o->preprocessing);
    const size_t count = o->samples ? std::min(o->samples, data->size()) : data->size();
    std::vector<std::vector<Tensor>> outputs;
    std::vector<std::vector<StepProfile>> profiles;
    const Progress progress = context.json ? Progress{} : progress_bar();
    for (size_t i = 0; i < count; ++i) {
      const auto inputs = data->sample(i);
      if (o->profile) {
        for (int k = 0; k < (count == 1 ? 10 : 1); ++k) program.run(inputs);  // warm
        for (int k = 0; k < (count == 1 ? 20 : 1); ++k) {
          profiles.emplace_back();
          outputs.resize(i);
          outputs.push_back(program.run_profiled(inputs, profiles.back()));
        }
      } else {
        outputs.push_back(program.run(inputs));
      }
      if (progress) progress("running", i + 1, count);
    }
    if (!o->output.empty()) {
      std::map<std::string, Tensor> stacked;
      for (size_t k = 0; k < program.signature().output_names.size(); ++k) {
        std::vector<Tensor> parts;
        parts.reserve(outputs.size());
        for (const auto& sample : outputs) parts.push_back(sample[k]);
        stacked[program.signature().output_names[k]] = stack_rows(parts);
      }
      save_npz(stacked, o->output);
    }
    if (o->profile) return print_profile(profiles, context);
    nlohmann::json summary{{"samples", count}, {"outputs", nlohmann::json::array()}};
    for (size_t k = 0; k < program.signature().output_names.size(); ++k)
      summary["outputs"].push_back(
          {{"name", program.signature().output_names[k]}, {"type", outputs[0][k].type().str()}});
    if (context.json) return print_json(summary);
    std::printf("%zu samples\n", count);
    for (const auto& output : summary["outputs"])
      std::printf("  %s: %s\n", output["name"].get<std::string>().c_str(),
                  output["type"].get<std::string>().c_str());
  });
}

}  // namespace octavo::cli
