#include <cstdio>

#include "cli/command.h"

namespace octavo::cli {
namespace {

struct Options {
  std::string model, output, mode = "static", data, evaluation, preprocessing, record, rules;
  QuantizeRequest request;
};

void print_summary(const nlohmann::json& record, const Options& o) {
  std::vector<std::vector<std::string>> rows{
      {"calibrator", "SQNR dB", "agreement", "confident", "weights"}};
  const auto number = [](const nlohmann::json& v, const char* format) {
    return v.is_null() ? std::string("inf") : fmt::format(fmt::runtime(format), v.get<double>());
  };
  for (const auto& c : record["calibrators"])
    rows.push_back({c["name"].get<std::string>(), number(c["output_sqnr_db"], "{:.2f}"),
                    number(c["agreement"], "{:.3f}"), number(c["confident_agreement"], "{:.3f}"),
                    bytes_text(c["weights_bytes"].get<double>())});
  if (rows.size() > 1) std::fputs(table(rows).c_str(), stdout);
  std::printf("%s: %d integer layers, %zu in float; float weights %s\n", o.output.c_str(),
              record["quantization"]["integer_layers"].get<int>(),
              record["quantization"]["skipped"].size(),
              bytes_text(record["model"]["weights_bytes"].get<double>()).c_str());
  if (record["data"]["evaluated_on_calibration_data"].get<bool>())
    std::puts("judged on the calibration data; give --evaluate-data for an honest figure");
}

}  // namespace

void add_quantize(CLI::App& app, Context& context) {
  auto o = std::make_shared<Options>();
  CLI::App* sub = app.add_subcommand(
      "quantize", "Post-training quantization: a float model becomes a quantized one");
  sub->footer(footer(
      "The mode is the precision of every product (convolution, matrix product) that no rule of\n"
      "--rules names: static calibrates on --data; dynamic finds the scales of activations at "
      "each\n"
      "call; weight_only leaves activations in float. The last two need no data, but for weights\n"
      "that are fitted to it (--weights gptq, in mode weight_only).\n"
      "Data is one of\n"
      "  FILE.npz  one array for each input, named as the input; the first axis counts samples\n"
      "  FILE.npy  the same for a network of one input\n"
      "  FOLDER    of .npz or .npy files, one sample each, batch axis included\n"
      "  FOLDER    of .png and .jpg pictures, with a preprocessing file (JSON,\n"
      "            schemas/preprocessing.schema.json)\n"
      "The run record (schemas/run_record.schema.json) holds ranges and SQNR of every tensor.\n"
      "All files are written whole or not at all.",
      "  octavo quantize model.onnx -o int8.onnx --data photos/ --record run.json\n"
      "  octavo quantize model.onnx -o int8.octavo --data samples.npz --compare max,mse\n"
      "  octavo quantize model.onnx -o int8.onnx --mode dynamic --target onnxruntime\n"
      "  octavo quantize model.onnx -o int4.octavo --mode weight_only --bits 4\n"
      "  octavo quantize model.onnx -o int4.octavo --mode weight_only --bits 4 --weights gptq "
      "--data DIR\n"
      "  octavo quantize model.onnx -o int8.onnx --data DIR --rules rules.json --json\n"));
  sub->add_option("model", o->model, "the float model, .onnx or .octavo")->required();
  sub->add_option("-o,--output", o->output, "the quantized model, .onnx or .octavo")->required();
  sub->add_option("--mode", o->mode, "static, dynamic or weight_only")->capture_default_str();
  sub->add_option("--data", o->data,
                  "calibration data; of mode static, and of weights that are fitted");
  sub->add_option("--evaluate-data", o->evaluation, "data to judge by; default: --data");
  sub->add_option("--preprocessing", o->preprocessing,
                  "how pictures become inputs; default: preprocessing.json beside them");
  sub->add_option("--target", o->request.options.target, "who will run it (octavo)")
      ->capture_default_str();
  sub->add_option("--calibrator", o->request.calibrator,
                  "how ranges are chosen, in mode static: " + calibrator_names())
      ->default_str(default_calibrator);
  sub->add_option(
         "--compare", o->request.compare,
         "further calibrators, comma-separated, or all: judged from the same pass over the data")
      ->delimiter(',');
  sub->add_option("--weights", o->request.options.weights,
                  "how weights are rounded: " + weight_method_names())
      ->default_str("gptq in mode static, else mse");
  sub->add_option("--weight-scales", o->request.options.weight_scales,
                  "scales of a product's weights, in mode static: one for each output channel, or "
                  "one for the tensor")
      ->capture_default_str();
  sub->add_option("--bits", o->request.options.weight_bits,
                  "of weights, in mode weight_only: 8 or 4")
      ->capture_default_str();
  sub->add_option(
         "--group-size", o->request.options.group_size,
         "weights that share a scale, in mode weight_only (0: all of an output channel for "
         "8 bits, 32 for 4, 128 for target tensorrt)")
      ->capture_default_str();
  sub->add_option(
         "--activation", o->request.options.activation,
         "scales of a matrix product's activation, in mode dynamic: one for the tensor, or "
         "one for each row")
      ->capture_default_str();
  sub->add_flag(
      "--bias-correction,!--no-bias-correction",
      [o](int64_t value) { o->request.bias_correction = value > 0; },
      "correct the mean error of each channel, layer by layer, in mode static");
  sub->add_option(
         "--smooth", o->request.smooth,
         "SmoothQuant, in mode static: " + factor_places_names() +
             " (where a norm or a product takes the factors; also behind GELUs, then in float)")
      ->default_str(default_smoothing);
  sub->add_option("--equalize", o->request.equalize,
                  "cross-layer equalisation, in mode static: " + factor_places_names() +
                      " (across ReLU and the like; also across Clip, which then runs in float)")
      ->default_str(default_equalization);
  sub->add_option("--samples", o->request.options.most_samples,
                  "use at most this many samples (0: all)")
      ->capture_default_str()
      ->check(CLI::NonNegativeNumber);
  sub->add_option("--threads", o->request.options.threads,
                  "threads (0: what affinity and cgroup allow)")
      ->capture_default_str()
      ->check(CLI::Range(0, 1024));
  sub->add_option("--rules", o->rules,
                  "rules file: which nodes have another precision than the mode's");
  sub->add_option("--record", o->record, "write the run record (JSON) here");
  sub->callback([o, &context] {
    o->request.options.mode = parse_mode(o->mode);
    check_output(o->output);
    if (!o->record.empty()) check_writable(o->record);
    if (!o->rules.empty()) o->request.options.rules = load_rules(o->rules);
    auto& compare = o->request.compare;
    if (compare == std::vector<std::string>{"all"}) {
      compare.clear();
      for (const Calibrator& c : calibrators()) compare.emplace_back(c.name);
    }
    check_request(o->request, !o->data.empty());
    const Graph graph = load_model(o->model);
    const auto signature = signature_of(graph);
    std::unique_ptr<Dataset> data, evaluation;
    if (!o->data.empty()) data = open_dataset(o->data, signature, o->preprocessing);
    if (!o->evaluation.empty()) {
      evaluation = open_dataset(o->evaluation, signature, o->preprocessing);
      o->request.evaluation = evaluation.get();
    }
    QuantizeResult result =
        quantize(graph, data.get(), o->request, context.command, progress_bar(context));
    result.record["model"]["path"] = o->model;
    if (data) result.record["data"]["path"] = o->data;
    result.record["quantized_model"]["path"] = o->output;
    check_interrupted();
    save_model(result.graph, o->output);
    if (!o->record.empty()) save_record(result.record, o->record);
    if (context.json)
      print_json(result.record);
    else
      print_summary(result.record, *o);
  });
}

}  // namespace octavo::cli
