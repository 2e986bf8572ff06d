#include <chrono>
#include <cstdio>

#include "cli/command.h"

namespace octavo::cli {

void add_compile(CLI::App& app, Context& context) {
  struct Options {
    std::string model, output;
    SymbolOptions symbols;
  };
  auto o = std::make_shared<Options>();
  CLI::App* sub =
      app.add_subcommand("compile", "Checks that a model compiles and writes it as .octavo");
  sub->footer(footer(
      "The .octavo file holds the canonical or quantized graph; weights are mapped when it is\n"
      "loaded.",
      "  octavo compile int8.onnx -o int8.octavo\n"
      "  octavo compile model.onnx -o model.octavo --json\n"));
  sub->add_option("model", o->model, "a model, .onnx or .octavo")->required();
  sub->add_option("-o,--output", o->output, "the .octavo file (or .onnx)")->required();
  add_symbol_options(sub, o->symbols);
  sub->callback([o, &context] {
    const auto start = std::chrono::steady_clock::now();
    const auto elapsed = [&] {
      return std::chrono::duration<double, std::milli>(std::chrono::steady_clock::now() - start)
          .count();
    };
    check_output(o->output);
    Graph graph = load_model(o->model);
    const double loaded = elapsed();
    canonicalize(graph);
    Program program = compile(graph.clone());
    // A dynamic one for some shapes: what is no network at all does not get a file.
    const nlohmann::json plan = inspect_plan(program, o->symbols.choose(program));
    const double compiled = elapsed();
    check_interrupted();
    save_model(graph, o->output);
    size_t reference = 0;
    for (const auto& step : plan["steps"]) reference += step["kernel"] == "reference";
    const nlohmann::json summary{{"output", o->output},
                                 {"load_ms", loaded},
                                 {"compile_ms", compiled - loaded},
                                 {"steps", plan["steps"].size()},
                                 {"reference_steps", reference},
                                 {"bound", plan["bound"]},
                                 {"arena_bytes", plan["arena_bytes"]}};
    if (context.json) return print_json(summary);
    std::printf("%s: loaded in %.1f ms, compiled in %.1f ms, %zu steps, activations %s\n",
                o->output.c_str(), loaded, compiled - loaded, plan["steps"].size(),
                bytes_text(plan["arena_bytes"].get<double>()).c_str());
    if (reference)
      std::printf(
          "%zu steps run on the slow reference kernel; `octavo inspect --plan` names them\n",
          reference);
  });
}

}  // namespace octavo::cli
