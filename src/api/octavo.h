// Octavo's public C++ interface: what the CLI and the Python package are made of.
#pragma once
#include <functional>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <vector>

#include "codegen/compile.h"
#include "evaluate/dataset.h"
#include "evaluate/npy.h"
#include "evaluate/record.h"
#include "export/onnx.h"
#include "graph/graph.h"
#include "graph/text.h"
#include "passes/pipeline.h"
#include "quantize/algorithms/equalize.h"
#include "quantize/algorithms/smooth.h"
#include "quantize/calibrators/calibrators.h"
#include "quantize/placement/lint.h"
#include "quantize/ptq.h"
#include "quantize/weights.h"
#include "runtime/program.h"
#include "support/file.h"

namespace octavo {

// .onnx or .octavo, by content. UserError (file) if it is neither.
Graph load_model(const std::string& path);
// By the name's ending: .onnx or .octavo.
void save_model(const Graph& graph, const std::string& path);
// What save_model would refuse before anything is written: UserError.
void check_output(const std::string& path);
Program::Signature signature_of(const Graph& graph);

constexpr const char *default_calibrator = "mse", *default_smoothing = "folded",
                     *default_equalization = "none";

struct QuantizeRequest {
  // Of mode static; the others refuse them.
  std::string calibrator;               // of the graph that is returned; empty: the default
  std::vector<std::string> compare;     // further calibrators, judged from the same pass
  std::optional<bool> bias_correction;  // none: on
  std::string smooth;                   // of factor_places_names; empty: the default
  std::string equalize;                 // the same; empty: none
  PtqOptions options;                   // but for correct_bias
  const Dataset* evaluation = nullptr;  // judged on; none: on the calibration data, and said so
};
struct QuantizeResult {
  Graph graph;
  nlohmann::json record;  // a run record
};
// UserError on an unknown name, an option that the mode does not know, or data that it lacks.
void check_request(const QuantizeRequest& request, bool data);
// The whole flow: canonicalize, place, calibrate, quantize, compare with float. `data` may be null
// if no product is static; then the result is judged on the evaluation data alone, if any.
QuantizeResult quantize(const Graph& graph, const Dataset* data, const QuantizeRequest& request,
                        const std::string& command, const Progress& progress = {});

// A canonical copy of a float graph, its channels equalized. UserError if it is quantized already.
Graph equalized(const Graph& graph, const EqualizeOptions& options);

// What a graph consists of: JSON for `inspect`.
nlohmann::json inspect(const Graph& graph);
// The tables of ops, for docs/ops.md: {"ops": [{"name", "kind", "stage", "quantization", "doc",
// "kernels" (or the reference kernel only), "imports": [{"op_type", "domain", "since", "until"}],
// "exports", "targets": {target: integer form}}], "composed": ONNX ops that are made of several}.
nlohmann::json describe_ops();
// What a target wants, for those who place quantizers themselves (facts.h): {"activation": dtype,
// "products_take_additions", "shared_concat", "clamp_vanishes", "clamp_must_saturate",
// "fuses_functions", "function_tables", "ops": {op: {"form", "quantized_output"}}}; or UserError.
nlohmann::json describe_target(const std::string& target);

// Numbers for the symbolic dimensions of inputs; unknown ones ("?") are called "INPUT.AXIS".
using Symbols = std::map<std::string, int64_t>;
// A number for each symbol: those of `given`, then `all` if it is given, else 1 if a plan can be
// made for that, else the least power of two up to 1024 that all but leading axes can be.
// UserError: `given` names no symbol; no such plan; says what was tried.
Symbols choose_symbols(Program& program, std::optional<int64_t> all = {},
                       const Symbols& given = {});
// The compiled form: types, steps with kernels, memory, and under "bound" the numbers that
// `symbols` gives the symbolic dimensions.
nlohmann::json inspect_plan(Program& program, const Symbols& symbols);
// The same for choose_symbols(program, all, given). If it finds none and neither `all` nor `given`
// asks for any: the types alone, "bound" null and "reason" why.
nlohmann::json inspect(Program& program, std::optional<int64_t> all = {},
                       const Symbols& given = {});

// A lint report: JSON {"target", "findings": [{"kind": "float" | "rule", "node", "op", "reason"}],
// "integer": [node]}. `path`: a model file, read without any pass.
nlohmann::json lint_model(const std::string& path, const std::string& target);
nlohmann::json lint_graph(const Graph& graph, const std::string& target);

// Inputs of the right types filled with seeded noise; symbolic dimensions count as `symbol_value`,
// or as `symbols` says.
std::vector<Tensor> random_inputs(const Program::Signature& signature, uint64_t seed,
                                  int64_t symbol_value = 1);
std::vector<Tensor> random_inputs(const Program::Signature& signature, uint64_t seed,
                                  const Symbols& symbols);

struct BenchResult {
  std::vector<double> milliseconds;  // each call, in order
  double median = 0, least = 0;
};
// Calls until `seconds` are over, at least 5 times, after 3 calls that do not count.
// `progress` is called after each call and may throw to interrupt.
BenchResult bench(Program& program, const std::vector<Tensor>& inputs, double seconds,
                  const Progress& progress = {});

// The environment: CPU, ISA, threads, flags, limits: JSON for `doctor`.
nlohmann::json doctor();

}  // namespace octavo
