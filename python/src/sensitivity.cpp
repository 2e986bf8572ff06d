#include "api/sensitivity.h"

#include <nanobind/stl/optional.h>

#include "api/octavo.h"
#include "bindings.h"
#include "support/error.h"

namespace octavo::python {
namespace {

std::string dumped(const nlohmann::json& record) {
  return record.dump(-1, ' ', false, nlohmann::json::error_handler_t::replace);
}

}  // namespace

Metric to_metric(const nb::object& callback, const Dataset& data) {
  return [callback, &data](std::span<const Tensor> outputs, size_t sample) {
    const nb::gil_scoped_acquire acquire;
    nb::list list;
    for (const Tensor& output : outputs) list.append(to_numpy(output));
    const nb::object load = nb::cpp_function([&data, sample] {
      nb::list inputs;
      for (const Tensor& input : data.sample(sample)) inputs.append(to_numpy(input));
      return nb::tuple(inputs);
    });
    const nb::object value = callback(nb::tuple(list), sample, load);
    return nb::cast<double>(nb::module_::import_("builtins").attr("float")(value));
  };
}

void bind_sensitivity(nb::module_& m) {
  m.def(
      "sensitivity_json",
      [](const Graph& graph, const nb::object& data, const std::string& mode,
         const std::string& metric, const nb::object& custom, const nb::object& evaluation,
         const std::string& preprocessing, const std::string& target, const std::string& calibrator,
         const std::string& weights, const std::string& rules, size_t samples, int threads,
         size_t most_bytes, const std::string& checkpoint, const nb::object& progress) {
        const auto signature = signature_of(graph);
        const auto calibration = to_dataset(data, signature, preprocessing, "data");
        std::unique_ptr<Dataset> judge;
        if (!evaluation.is_none())
          judge = to_dataset(evaluation, signature, preprocessing, "evaluation");
        SensitivityRequest request;
        request.options.mode = parse_sensitivity_mode(mode);
        request.options.metric = metric;
        if (!custom.is_none())
          request.options.custom = to_metric(custom, judge ? *judge : *calibration);
        request.options.calibrator = calibrator;
        request.options.evaluation = judge.get();
        request.options.most_bytes = most_bytes;
        request.options.checkpoint = checkpoint;
        request.quantization.target = target;
        request.quantization.weights = weights;
        request.quantization.rules = to_rules(rules);
        request.quantization.most_samples = samples;
        request.quantization.threads = threads;
        const Progress report = to_progress(progress);
        nlohmann::json record;
        {
          const nb::gil_scoped_release release;
          record = sensitivity(graph, *calibration, request, "octavo.sensitivity", report);
        }
        return dumped(record);
      },
      nb::arg("graph"), nb::arg("data"), nb::arg("mode"), nb::arg("metric"),
      nb::arg("custom").none(), nb::arg("evaluation").none(), nb::arg("preprocessing"),
      nb::arg("target"), nb::arg("calibrator"), nb::arg("weights"), nb::arg("rules"),
      nb::arg("samples"), nb::arg("threads"), nb::arg("most_bytes"), nb::arg("checkpoint"),
      nb::arg("progress").none());
  m.def(
      "disable_worst",
      [](const std::string& record, size_t k) {
        return disable_worst(nlohmann::json::parse(record), k);
      },
      nb::arg("record"), nb::arg("k"));
  m.def(
      "check_rules", [](const std::string& text) { parse_rules(text, "rules"); }, nb::arg("text"));
}

}  // namespace octavo::python
