#include "api/search.h"

#include <nanobind/stl/optional.h>
#include <nanobind/stl/string.h>

#include "api/octavo.h"
#include "bindings.h"

namespace octavo::python {
namespace {

// latency(graph) -> microseconds.
Latency to_latency(const nb::object& callback) {
  return [callback](std::span<const Graph* const> graphs) {
    const nb::gil_scoped_acquire acquire;
    std::vector<double> times;
    for (const Graph* graph : graphs)
      times.push_back(nb::cast<double>(
          nb::module_::import_("builtins").attr("float")(callback(nb::cast(graph->clone())))));
    return times;
  };
}

}  // namespace

void bind_search(nb::module_& m) {
  m.def(
      "search_json",
      [](const Graph& graph, const nb::object& data, const std::string& metric,
         const nb::object& custom, std::optional<double> max_drop, std::optional<double> least,
         const nb::object& latency, const nb::object& evaluation, const std::string& preprocessing,
         const std::string& target, const std::string& calibrator, const std::string& weights,
         bool bias_correction, const std::string& rules, size_t samples, int threads,
         size_t most_bytes, const std::string& checkpoint, const nb::object& progress) {
        const auto signature = signature_of(graph);
        const auto calibration = to_dataset(data, signature, preprocessing, "data");
        std::unique_ptr<Dataset> judge;
        if (!evaluation.is_none())
          judge = to_dataset(evaluation, signature, preprocessing, "evaluation");
        SearchRequest request;
        SensitivityOptions& options = request.options.sensitivity;
        options.metric = metric;
        if (!custom.is_none()) options.custom = to_metric(custom, judge ? *judge : *calibration);
        options.calibrator = calibrator;
        options.evaluation = judge.get();
        options.most_bytes = most_bytes;
        options.checkpoint = checkpoint;
        request.options.max_drop = max_drop;
        request.options.least = least;
        request.options.weights = weights;
        request.options.correct_bias = bias_correction;
        if (!latency.is_none()) request.options.latency = to_latency(latency);
        request.quantization.target = target;
        request.quantization.rules = to_rules(rules);
        request.quantization.most_samples = samples;
        request.quantization.threads = threads;
        const Progress report = to_progress(progress);
        SearchOutcome outcome;
        {
          const nb::gil_scoped_release release;
          outcome = search(graph, *calibration, request, "octavo.search", report);
        }
        nb::list graphs;
        for (Graph& one : outcome.graphs) graphs.append(nb::cast(std::move(one)));
        return nb::make_tuple(
            outcome.record.dump(-1, ' ', false, nlohmann::json::error_handler_t::replace), graphs);
      },
      nb::arg("graph"), nb::arg("data"), nb::arg("metric"), nb::arg("custom").none(),
      nb::arg("max_drop").none(), nb::arg("least").none(), nb::arg("latency").none(),
      nb::arg("evaluation").none(), nb::arg("preprocessing"), nb::arg("target"),
      nb::arg("calibrator"), nb::arg("weights"), nb::arg("bias_correction"), nb::arg("rules"),
      nb::arg("samples"), nb::arg("threads"), nb::arg("most_bytes"), nb::arg("checkpoint"),
      nb::arg("progress").none());
}

}  // namespace octavo::python
