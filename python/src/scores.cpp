#include "quantize/scores.h"

#include <nanobind/stl/string.h>
#include <nanobind/stl/tuple.h>
#include <nanobind/stl/vector.h>

#include <nlohmann/json.hpp>

#include "bindings.h"
#include "support/error.h"

namespace octavo::python {

namespace {

// signal, noise, rows, same, metric
using Row = std::tuple<double, double, int64_t, int64_t, double>;

std::vector<Tensor> tensors_of(const nb::list& arrays) {
  std::vector<Tensor> tensors;
  for (const nb::handle array : arrays) tensors.push_back(to_tensor(array, "output"));
  return tensors;
}

Row score(const nb::list& truth, const nb::list& outputs) {
  const std::vector<Tensor> a = tensors_of(truth), b = tensors_of(outputs);
  bool same = a.size() == b.size();
  for (size_t i = 0; same && i < a.size(); ++i)
    same = a[i].dims() == b[i].dims() && a[i].dtype() == b[i].dtype();
  if (!same)
    throw UserError(ErrorKind::value, "outputs", "they have other shapes or types than in float",
                    "let the model's outputs depend on its inputs' shapes alone");
  const nb::gil_scoped_release release;
  const Score s = score_of(a, b);
  return {s.signal, s.noise, s.rows, s.same, 0.0};
}

std::string figures(const std::vector<Row>& rows, bool with_metric) {
  if (rows.empty()) throw UserError(ErrorKind::value, "figures", "there is no sample", "give data");
  std::vector<Score> scores;
  scores.reserve(rows.size());
  for (const auto& [signal, noise, count, same, metric] : rows)
    scores.push_back({signal, noise, count, same, metric});
  const nb::gil_scoped_release release;
  const Figures f = figures_of(scores);
  nlohmann::json out = {{"sqnr_db", to_json(f.sqnr_db)}};
  if (f.has_agreement) out["agreement"] = to_json(f.agreement);
  if (with_metric) out["metric"] = to_json(f.metric);
  return out.dump();
}

}  // namespace

void bind_scores(nb::module_& m) {
  m.def("score", &score, nb::arg("truth"), nb::arg("outputs"),
        "One sample's row for figures_json: signal, noise, rows, agreeing rows, 0 as the metric.");
  m.def("figures_json", &figures, nb::arg("rows"), nb::arg("with_metric"),
        "Figures with their 95% intervals, as in schemas/sensitivity.schema.json.");
}

}  // namespace octavo::python
