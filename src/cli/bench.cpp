#include <cstdio>

#include "cli/command.h"

namespace octavo::cli {

void add_bench(CLI::App& app, Context& context) {
  struct Options {
    std::string model;
    double seconds = 2;
    int threads = 0;
    SymbolOptions symbols;
  };
  auto o = std::make_shared<Options>();
  CLI::App* sub = app.add_subcommand("bench", "Latency of a model on seeded noise");
  sub->footer(footer("Three calls warm up and do not count. Compare medians of interleaved runs.",
                     "  octavo bench int8.octavo\n"
                     "  octavo bench model.onnx --seconds 10 --threads 1 --batch 8 --json\n"));
  sub->add_option("model", o->model, "a model, .onnx or .octavo")->required();
  sub->add_option("--seconds", o->seconds, "how long to measure")
      ->capture_default_str()
      ->check(CLI::Range(0.01, 3600.0));
  sub->add_option("--threads", o->threads, "threads (0: what affinity and cgroup allow)")
      ->capture_default_str()
      ->check(CLI::Range(0, 1024));
  add_symbol_options(sub, o->symbols);
  sub->callback([o, &context] {
    Program program = compile(load_model(o->model), {.threads = o->threads});
    const Symbols symbols = o->symbols.choose(program);
    const BenchResult result =
        bench(program, random_inputs(program.signature(), 1, symbols), o->seconds,
              [](const char*, size_t, size_t) { check_interrupted(); });
    if (context.json)
      return print_json({{"model", o->model},
                         {"calls", result.milliseconds.size()},
                         {"median_ms", result.median},
                         {"least_ms", result.least},
                         {"threads", program.threads()},
                         {"bound", symbols}});
    std::printf("%s: median %.3f ms, least %.3f ms, %zu calls, %d threads%s\n", o->model.c_str(),
                result.median, result.least, result.milliseconds.size(), program.threads(),
                bound_text(symbols).c_str());
  });
}

}  // namespace octavo::cli
