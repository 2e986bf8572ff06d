#include <algorithm>
#include <cstdio>

#include "cli/command.h"

namespace octavo::cli {
namespace {

using nlohmann::json;

struct Options {
  std::string model, data, preprocessing, output;
  std::vector<std::string> inputs;
  bool profile = false;
  int threads = 0;
  size_t samples = 0;
};

// --input FILE or NAME=FILE: the arrays of one call, whole.
std::unique_ptr<Dataset> one_call(const std::vector<std::string>& files,
                                  const Program::Signature& signature) {
  const auto& names = signature.input_names;
  std::map<std::string, Tensor> arrays;
  const auto add = [&](const std::string& name, Tensor tensor) {
    if (!arrays.emplace(name, std::move(tensor)).second)
      throw UserError(ErrorKind::value, "--input", fmt::format("'{}' is given twice", name));
  };
  for (const std::string& text : files) {
    const size_t equals = text.find('=');
    const std::string path = equals == std::string::npos ? text : text.substr(equals + 1);
    if (path.ends_with(".npz")) {
      if (equals != std::string::npos)
        throw UserError(ErrorKind::value, "--input " + text, "an .npz brings its own names",
                        "give it without NAME=");
      for (auto& [name, tensor] : load_npz(path)) add(name, std::move(tensor));
    } else if (equals != std::string::npos) {
      add(text.substr(0, equals), load_npy(path));
    } else if (names.size() == 1) {
      add(names[0], load_npy(path));
    } else {
      throw UserError(
          ErrorKind::value, "--input " + text,
          fmt::format("the network has {} inputs: {}", names.size(), fmt::join(names, ", ")),
          "say which: --input NAME=FILE.npy");
    }
  }
  return memory_dataset({order_by_name(arrays, names, ErrorKind::value, "--input")}, signature,
                        "--input");
}

std::unique_ptr<Dataset> open_inputs(const Options& o, Program& program) {
  const Program::Signature& signature = program.signature();
  if (!o.inputs.empty()) return one_call(o.inputs, signature);
  if (!o.data.empty()) return open_dataset(o.data, signature, o.preprocessing);
  return memory_dataset({random_inputs(signature, 1, choose_symbols(program))}, signature);
}

// Of all steps with one kernel, the slowest first.
json kernel_totals(const json& steps) {
  std::vector<json> totals;
  for (const json& s : steps) {
    auto at = std::find_if(totals.begin(), totals.end(), [&](const json& t) {
      return t["kernel"] == s["kernel"] && t["isa"] == s["isa"];
    });
    if (at == totals.end())
      at = totals.insert(
          at,
          json{{"kernel", s["kernel"]}, {"isa", s["isa"]}, {"steps", 0}, {"microseconds", 0.0}});
    (*at)["steps"] = (*at)["steps"].get<int>() + 1;
    (*at)["microseconds"] = (*at)["microseconds"].get<double>() + s["microseconds"].get<double>();
  }
  std::stable_sort(totals.begin(), totals.end(), [](const json& a, const json& b) {
    return a["microseconds"].get<double>() > b["microseconds"].get<double>();
  });
  return totals;
}

// Medians over the calls, step by step.
json profile_of(const std::vector<std::vector<StepProfile>>& profiles) {
  json rows = json::array();
  double total = 0;
  for (size_t i = 0; i < profiles[0].size(); ++i) {
    std::vector<double> times;
    times.reserve(profiles.size());
    for (const auto& profile : profiles) times.push_back(profile[i].microseconds);
    std::nth_element(times.begin(), times.begin() + static_cast<std::ptrdiff_t>(times.size() / 2),
                     times.end());
    const double median = times[times.size() / 2];
    total += median;
    const StepProfile& s = profiles[0][i];
    rows.push_back({{"node", s.node},
                    {"op", s.op},
                    {"kernel", s.kernel},
                    {"isa", s.isa},
                    {"microseconds", median},
                    {"macs", s.macs},
                    {"bytes", s.bytes}});
  }
  return {{"profile", rows}, {"kernels", kernel_totals(rows)}, {"microseconds", total}};
}

void print_profile(const json& profile) {
  const double total = profile["microseconds"].get<double>();
  const auto share = [&](double microseconds) {
    return fmt::format("{:.1f}", total > 0 ? 100 * microseconds / total : 0.0);
  };
  std::vector<std::vector<std::string>> rows{{"node", "kernel", "ISA", "us", "%", "GMAC/s"}};
  for (const json& s : profile["profile"]) {
    const auto node = s["node"].get<std::string>();
    const double us = s["microseconds"].get<double>(), macs = s["macs"].get<double>();
    rows.push_back({node.size() > 40 ? "…" + node.substr(node.size() - 39) : node,
                    s["kernel"].get<std::string>(), s["isa"].get<std::string>(),
                    fmt::format("{:.1f}", us), share(us),
                    macs > 0 ? fmt::format("{:.1f}", macs / us / 1e3) : "-"});
  }
  std::fputs(table(rows).c_str(), stdout);
  rows = {{"kernel", "ISA", "steps", "us", "%"}};
  for (const json& t : profile["kernels"]) {
    const double us = t["microseconds"].get<double>();
    rows.push_back({t["kernel"].get<std::string>(), t["isa"].get<std::string>(),
                    std::to_string(t["steps"].get<int>()), fmt::format("{:.1f}", us), share(us)});
  }
  std::printf("\n%s%.1f us in all\n", table(rows).c_str(), total);
}

void save_outputs(const std::vector<std::vector<Tensor>>& outputs,
                  const std::vector<std::string>& names, const std::string& path) {
  std::map<std::string, Tensor> stacked;
  for (size_t k = 0; k < names.size(); ++k) {
    std::vector<Tensor> parts;
    parts.reserve(outputs.size());
    for (const auto& sample : outputs) parts.push_back(sample[k]);
    stacked[names[k]] = stack_rows(parts);
  }
  path.ends_with(".npy") ? save_npy(stacked.begin()->second, path) : save_npz(stacked, path);
}

void check_run_output(const std::string& path, size_t outputs) {
  if (path.empty()) return;
  if (path.ends_with(".npy") && outputs != 1)
    throw UserError(ErrorKind::value, path,
                    fmt::format("the network has {} outputs, an .npy holds one", outputs),
                    "use .npz");
  if (!path.ends_with(".npy") && !path.ends_with(".npz"))
    throw UserError(ErrorKind::value, path, "the ending names no known format",
                    "use .npz, or .npy for one output");
  check_writable(path);
}

void work(const Options& o, const Context& context) {
  Program program = compile(load_model(o.model), {.threads = o.threads});
  const auto& names = program.signature().output_names;
  check_run_output(o.output, names.size());
  const auto data = open_inputs(o, program);
  const size_t count = o.samples ? std::min(o.samples, data->size()) : data->size();
  std::vector<std::vector<Tensor>> outputs;
  std::vector<std::vector<StepProfile>> profiles;
  const Progress progress = progress_bar(context);
  for (size_t i = 0; i < count; ++i) {
    const auto inputs = data->sample(i);
    if (o.profile) {
      for (int k = 0; k < (count == 1 ? 10 : 1); ++k) program.run(inputs);  // warm
      for (int k = 0; k < (count == 1 ? 20 : 1); ++k) {
        profiles.emplace_back();
        outputs.resize(i);
        outputs.push_back(program.run_profiled(inputs, profiles.back()));
      }
    } else {
      outputs.push_back(program.run(inputs));
    }
    progress("running", i + 1, count);
  }
  if (!o.output.empty()) save_outputs(outputs, names, o.output);

  json summary{{"model", o.model}, {"samples", count}, {"outputs", json::array()}};
  for (size_t k = 0; k < names.size(); ++k)
    summary["outputs"].push_back({{"name", names[k]}, {"type", outputs[0][k].type().str()}});
  if (o.profile) summary.update(profile_of(profiles));
  if (context.json) return print_json(summary);
  if (o.profile) print_profile(summary);
  std::printf("%zu samples\n", count);
  for (const auto& output : summary["outputs"])
    std::printf("  %s: %s\n", output["name"].get<std::string>().c_str(),
                output["type"].get<std::string>().c_str());
}

}  // namespace

void add_run(CLI::App& app, Context& context) {
  auto o = std::make_shared<Options>();
  CLI::App* sub = app.add_subcommand("run", "Runs a model on data");
  sub->footer(footer(
      "Without --input and --data the inputs are seeded noise. Outputs of all samples are stacked\n"
      "along the first axis. --profile times each step: medians over the samples, or over 20 calls "
      "if\nthere is one.",
      "  octavo run model.octavo --input x.npy --output y.npz\n"
      "  octavo run model.octavo --input a=a.npy --input b=b.npy --output y.npz\n"
      "  octavo run int8.onnx --data photos/ --output y.npz --profile\n"));
  sub->add_option("model", o->model, "a model, .onnx or .octavo")->required();
  auto* input = sub->add_option("-i,--input", o->inputs,
                                "the arrays of one call: FILE.npy, NAME=FILE.npy (repeated), or an "
                                ".npz with an array for each input")
                    ->allow_extra_args(false);
  sub->add_option("--data", o->data, "samples, in the forms that `octavo quantize --help` lists")
      ->excludes(input);
  sub->add_option("--preprocessing", o->preprocessing, "how pictures become inputs");
  sub->add_option("-o,--output", o->output,
                  "write the outputs here: .npz, or .npy if the network has one output");
  sub->add_flag("--profile", o->profile, "time each step: node, kernel, instruction set");
  sub->add_option("--threads", o->threads, "threads (0: what affinity and cgroup allow)")
      ->capture_default_str()
      ->check(CLI::Range(0, 1024));
  sub->add_option("--samples", o->samples, "use at most this many samples (0: all)")
      ->capture_default_str()
      ->check(CLI::NonNegativeNumber);
  sub->callback([o, &context] { work(*o, context); });
}

}  // namespace octavo::cli
