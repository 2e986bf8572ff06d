#include <nanobind/stl/function.h>
#include <nanobind/stl/map.h>
#include <nanobind/stl/optional.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include <cstring>

#include "api/octavo.h"
#include "bindings.h"
#include "quantize/half_products.h"
#include "quantize/placement/retarget.h"
#include "support/error.h"

namespace octavo::python {
namespace {

// One sample of an iterable: an array, a tuple or list of arrays, or {name: array}.
std::vector<Tensor> to_sample(nb::handle item, const Program::Signature& signature,
                              const std::string& where) {
  if (nb::isinstance<nb::dict>(item))
    return order_by_name(to_named_tensors(nb::cast<nb::dict>(item), where), signature.input_names,
                         ErrorKind::value, where);
  std::vector<Tensor> inputs;
  if (nb::isinstance<nb::tuple>(item) || nb::isinstance<nb::list>(item)) {
    for (nb::handle array : item) inputs.push_back(to_tensor(array, where.c_str()));
  } else {
    inputs.push_back(to_tensor(item, where.c_str()));
  }
  return inputs;
}

Tensor copied(const Tensor& tensor) {
  Tensor copy(tensor.dtype(), tensor.dims());
  std::memcpy(copy.mutable_data(), tensor.data(), tensor.bytes());
  return copy;
}

}  // namespace

// What a generator yields is copied, since it may yield the same array again with other contents.
std::unique_ptr<Dataset> to_dataset(nb::handle data, const Program::Signature& signature,
                                    const std::string& preprocessing, const std::string& what) {
  const nb::object fspath = nb::module_::import_("os").attr("PathLike");
  if (nb::isinstance<nb::str>(data) || nb::isinstance(data, fspath))
    return open_dataset(nb::cast<std::string>(nb::str(data)), signature, preprocessing);
  if (!nb::hasattr(data, "__iter__") || nb::isinstance<nb::dict>(data) ||
      nb::hasattr(data, "__dlpack__"))
    throw nb::type_error(
        fmt::format("{}: expected a path or an iterable of samples (arrays, tuples or "
                    "{{name: array}}), got {}",
                    what, nb::cast<std::string>(nb::str(data.type().attr("__name__"))))
            .c_str());
  const bool kept = nb::isinstance<nb::list>(data) || nb::isinstance<nb::tuple>(data);
  std::vector<std::vector<Tensor>> samples;
  for (nb::handle item : nb::iter(data)) {
    samples.push_back(
        to_sample(item, signature, fmt::format("{}: sample {}", what, samples.size())));
    if (!kept)
      for (Tensor& tensor : samples.back()) tensor = copied(tensor);
    if (PyErr_CheckSignals() != 0) throw nb::python_error();
  }
  if (samples.empty())
    throw UserError(ErrorKind::value, what, "there is no sample",
                    "a generator can be read only once; give a list to use it again");
  return memory_dataset(std::move(samples), signature, what);
}

Progress to_progress(const nb::object& callback) {
  if (callback.is_none())
    return [](const char*, size_t, size_t) {
      const nb::gil_scoped_acquire acquire;
      if (PyErr_CheckSignals() != 0) throw nb::python_error();
    };
  return [callback](const char* phase, size_t done, size_t total) {
    const nb::gil_scoped_acquire acquire;
    if (PyErr_CheckSignals() != 0) throw nb::python_error();
    callback(phase, done, total);
  };
}

Rules to_rules(const std::string& text) {
  if (text.empty()) return {};
  return text[0] == '{' ? parse_rules(text, "rules") : load_rules(text);
}

void bind_quantize(nb::module_& m) {
  m.def("calibrator_names", [] {
    std::vector<std::string> names;
    for (const Calibrator& c : calibrators()) names.emplace_back(c.name);
    return names;
  });
  m.def(
      "quantize_graph",
      [](const Graph& graph, const nb::object& data, const std::string& mode,
         const nb::object& evaluation, const std::string& preprocessing, const std::string& target,
         const std::string& calibrator, const std::vector<std::string>& compare,
         const std::string& weights, int bits, int64_t group_size, const std::string& activation,
         std::optional<bool> bias_correction, const std::string& smooth,
         const std::string& equalize, const std::string& weight_scales, const std::string& rules,
         size_t samples, int threads, const nb::object& progress) {
        const auto signature = signature_of(graph);
        std::unique_ptr<Dataset> calibration, judge;
        if (!data.is_none()) calibration = to_dataset(data, signature, preprocessing, "data");
        if (!evaluation.is_none())
          judge = to_dataset(evaluation, signature, preprocessing, "evaluation");
        QuantizeRequest request;
        request.calibrator = calibrator;
        request.compare = compare;
        request.evaluation = judge.get();
        request.bias_correction = bias_correction;
        request.smooth = smooth;
        request.equalize = equalize;
        request.options.weight_scales = weight_scales;
        request.options.mode = parse_mode(mode);
        request.options.target = target;
        request.options.weights = weights;
        request.options.weight_bits = bits;
        request.options.group_size = group_size;
        request.options.activation = activation;
        request.options.most_samples = samples;
        request.options.threads = threads;
        if (!rules.empty()) request.options.rules = to_rules(rules);
        const Progress report = to_progress(progress);
        std::optional<QuantizeResult> result;
        {
          const nb::gil_scoped_release release;
          result = quantize(graph, calibration.get(), request, "octavo.quantize", report);
        }
        const std::string record =
            result->record.dump(-1, ' ', false, nlohmann::json::error_handler_t::replace);
        return nb::make_tuple(nb::cast(std::move(result->graph)), record);
      },
      nb::arg("graph"), nb::arg("data") = nb::none(), nb::arg("mode") = "static",
      nb::arg("evaluation") = nb::none(), nb::arg("preprocessing") = "",
      nb::arg("target") = "octavo", nb::arg("calibrator") = "",
      nb::arg("compare") = std::vector<std::string>{}, nb::arg("weights") = "", nb::arg("bits") = 8,
      nb::arg("group_size") = 0, nb::arg("activation") = "tensor",
      nb::arg("bias_correction") = nb::none(), nb::arg("smooth") = "", nb::arg("equalize") = "",
      nb::arg("weight_scales") = "channel", nb::arg("rules") = "", nb::arg("samples") = 0,
      nb::arg("threads") = 0, nb::arg("progress") = nb::none());
  m.def(
      "equalize_graph",
      [](const Graph& graph, const std::string& where) {
        return equalized(graph, {.where = parse_factor_places("where", where), .rules = {}});
      },
      nb::arg("graph"), nb::arg("where"), nb::call_guard<nb::gil_scoped_release>());
  m.def("load_model", &load_model, nb::arg("path"), nb::call_guard<nb::gil_scoped_release>());
  m.def("save_model", &save_model, nb::arg("graph"), nb::arg("path"),
        nb::call_guard<nb::gil_scoped_release>());
  m.def(
      "inspect_json", [](const Graph& graph) { return inspect(graph).dump(); }, nb::arg("graph"));
  m.def(
      "lint_json",
      [](const Graph& graph, const std::string& target) {
        return lint_graph(graph, target).dump();
      },
      nb::arg("graph"), nb::arg("target"));
  m.def("retarget", &retarget, nb::arg("graph"), nb::arg("target"));
  m.def("use_float_products", &use_float_products, nb::arg("graph"), nb::arg("type"));
  m.def(
      "plan_json",
      [](Program& program, std::optional<int64_t> batch, const Symbols& dims) {
        return inspect(program, batch, dims).dump();
      },
      nb::arg("program"), nb::arg("batch") = nb::none(), nb::arg("dims") = Symbols{});
  m.def("check_writable", &check_writable, nb::arg("path"));
  m.def(
      "write_text",
      [](const std::string& text, const std::string& path) {
        write_file_atomically(path, [&](std::ostream& out) { out << text << '\n'; });
      },
      nb::arg("text"), nb::arg("path"));
  m.def(
      "bench_program",
      [](Program& program, const nb::args& args, double seconds, int64_t symbol_value) {
        if (!(seconds > 0))
          throw UserError(ErrorKind::value, "seconds", "must be positive",
                          "a second is enough for most");
        const std::vector<Tensor> inputs =
            !args.empty() ? gather_inputs(program, args)
                          : random_inputs(program.signature(), 1, symbol_value);
        const Progress report = to_progress(nb::none());
        BenchResult result;
        {
          const nb::gil_scoped_release release;
          result = bench(program, inputs, seconds, report);
        }
        return result.milliseconds;
      },
      nb::arg("program"), nb::arg("inputs"), nb::arg("seconds"), nb::arg("symbol_value"));
  m.def(
      "target_json", [](const std::string& target) { return describe_target(target).dump(); },
      nb::arg("target"));
  m.def("ops_json", [] { return describe_ops().dump(); });
  m.def("doctor_json", [] { return doctor().dump(); });
}

}  // namespace octavo::python
