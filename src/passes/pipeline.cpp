#include "passes/pipeline.h"

#include <atomic>
#include <chrono>

#include "graph/op_def.h"
#include "graph/text.h"
#include "graph/verify.h"
#include "passes/passes.h"
#include "support/env.h"
#include "support/error.h"
#include "support/file.h"
#include "support/log.h"

namespace octavo {
namespace {

constexpr Pass canonical[] = {
    // Shapes and weights first, so that the rest sees constants.
    {"fold_constants", fold_constants},
    // Before simplify: a bias that batch_norm leaves is one that simplify need not look for.
    {"fold_batch_norm", fold_batch_norm},
    {"simplify", simplify},
    {"fuse_gelu", fuse_gelu},
    // What simplify merged may be constant now.
    {"fold_constants", fold_constants},
};

constexpr Pass lowering[] = {
    {"quantize_constants", quantize_constants},
    // What follows knows products of f32 and of integers only.
    {"widen_halves", widen_halves},
    // The convs that it makes are products like any other.
    {"lower_conv_transpose", lower_conv_transpose},
    // Before products are looked at one by one.
    {"fuse_attention", fuse_attention},
    {"fuse_layer_norm", fuse_layer_norm},
    // Before a dequantize sinks.
    {"fuse_gather", fuse_gather},
    // Before the products look for integers at their inputs: a flatten may stand between.
    {"sink_dequantize", sink_dequantize},
    // The producers take their epilogues first; what stays between Q and DQ is for fuse_integer.
    {"fuse_compute", fuse_compute},
    {"fuse_integer", fuse_integer},
    {"lower_pooling", lower_pooling},
    // Only now are all channels-last ops in place.
    {"sink_transposes", sink_transposes},
    // Of the transposes that are left: those of the network's input, then those of its outputs.
    {"merge_quantize_transpose", merge_quantize_transpose},
    {"sink_dequantize", sink_dequantize},
};

// The graph as text in the folder that OCTAVO_DUMP names: <graph>.<number>.<pass>.txt.
void dump(const Graph& graph, const char* pass) {
  static const std::string folder = env_string("OCTAVO_DUMP", "");
  if (folder.empty()) return;
  static std::atomic<int> number{0};
  std::string name = graph.name;
  for (char& c : name)
    if (c == '/' || c == '\0') c = '_';
  const std::string path = fmt::format("{}/{}.{:04}.{}.txt", folder, name, ++number, pass);
  try {
    write_file_atomically(path, [&](std::ostream& out) { out << print_graph(graph); });
  } catch (const UserError& error) {
    log(LogLevel::warning, error.what());
  }
}

void run(Graph& graph, std::span<const Pass> passes, Stage stage, std::vector<PassTime>* times) {
  dump(graph, "before");
  bool verified = false;
  for (const Pass& pass : passes) {
    const auto start = std::chrono::steady_clock::now();
    const uint64_t before = graph_changes();
    pass.run(graph);
    graph.remove_dead();
    const std::chrono::duration<double, std::milli> took = std::chrono::steady_clock::now() - start;
    if (!verified || graph_changes() != before) verify(graph, stage, pass.name);
    verified = true;
    dump(graph, pass.name);
    if (times) times->push_back({pass.name, took.count()});
    log(LogLevel::debug,
        fmt::format("pass {}: {} nodes, {:.3f} ms", pass.name, graph.node_count(), took.count()));
  }
}

Stage canonical_stage(const Graph& graph) {
  bool quantized = false;
  graph.for_each(
      [&](Node& node) { quantized = quantized || node.op().kind == OpKind::quantization; });
  return quantized ? Stage::quantized : Stage::canonical;
}

}  // namespace

std::span<const Pass> canonical_passes() { return canonical; }
std::span<const Pass> lowering_passes() { return lowering; }

void canonicalize(Graph& graph, std::vector<PassTime>* times) {
  run(graph, canonical, Stage::captured, times);
  graph.stage = canonical_stage(graph);
  verify(graph);
}

void lower(Graph& graph, std::vector<PassTime>* times) {
  run(graph, lowering, Stage::lowered, times);
  graph.stage = Stage::lowered;
}

}  // namespace octavo
