#include <cstdio>

#include "cli/command.h"

namespace octavo::cli {
namespace {

void print_plan(const nlohmann::json& plan) {
  std::vector<std::vector<std::string>> rows{{"node", "op", "kernel", "ISA", "MMAC", "packed"}};
  for (const auto& step : plan["steps"])
    rows.push_back({step["node"], step["op"], step["kernel"], step["isa"],
                    fmt::format("{:.2f}", step["macs"].get<double>() / 1e6),
                    bytes_text(step["packed_bytes"].get<double>())});
  std::fputs(table(rows).c_str(), stdout);
  const Symbols symbols = plan["bound"];
  if (!symbols.empty()) std::printf("bound%s\n", bound_text(symbols).c_str() + 1);
  std::printf("activations %s (at least %s), scratch %s\n",
              bytes_text(plan["arena_bytes"].get<double>()).c_str(),
              bytes_text(plan["least_arena_bytes"].get<double>()).c_str(),
              bytes_text(plan["scratch_bytes"].get<double>()).c_str());
  for (const auto& step : plan["steps"])
    for (const auto& line : step["declined"])
      std::printf("  %s: declined by %s\n", step["node"].get<std::string>().c_str(),
                  line.get<std::string>().c_str());
}

void print_model(const nlohmann::json& info) {
  std::printf("%s, %s: %zu nodes, weights %s\n", info["name"].get<std::string>().c_str(),
              info["stage"].get<std::string>().c_str(), info["nodes"].get<size_t>(),
              bytes_text(info["weights_bytes"].get<double>()).c_str());
  for (const char* side : {"inputs", "outputs"})
    for (const auto& value : info[side])
      std::printf("  %-7s %s: %s\n", side, value["name"].get<std::string>().c_str(),
                  value["type"].get<std::string>().c_str());
  for (const auto& [op, count] : info["ops"].items())
    std::printf("  %5d %s\n", count.get<int>(), op.c_str());
}

void print_lint(const nlohmann::json& report) {
  std::vector<std::vector<std::string>> rows{{"node", "op", "finding", "why"}};
  size_t rules = 0, weights = 0;
  for (const auto& f : report["findings"]) {
    rows.push_back({f["node"], f["op"], f["kind"], f["reason"]});
    rules += f["kind"] == "rule";
    weights += f["kind"] == "weights";
  }
  if (rows.size() > 1) std::fputs(table(rows).c_str(), stdout);
  std::printf(
      "%s: %zu nodes on integers, %zu with integer weights alone, %zu in float; rules broken: "
      "%zu\n",
      report["target"].get<std::string>().c_str(), report["integer"].size(), weights,
      rows.size() - 1 - rules - weights, rules);
}

}  // namespace

void add_inspect(CLI::App& app, Context& context) {
  struct Options {
    std::string model, lint;
    bool text = false, plan = false;
    SymbolOptions symbols;
  };
  auto o = std::make_shared<Options>();
  CLI::App* sub = app.add_subcommand("inspect", "What a model consists of, and how it is compiled");
  sub->footer(footer("",
                     "  octavo inspect model.onnx\n"
                     "  octavo inspect int8.octavo --plan --batch 8\n"
                     "  octavo inspect model.onnx --text\n"));
  sub->add_option("model", o->model, "a model, .onnx or .octavo")->required();
  auto* as_text = sub->add_flag("--text", o->text, "the graph as text");
  sub->add_flag("--plan", o->plan,
                "the compiled steps: kernel, instruction set, memory, who declined and why")
      ->excludes(as_text);
  add_symbol_options(sub, o->symbols);
  sub->add_option("--lint", o->lint,
                  "the nodes of a Q/DQ file that this target would run in float, and why, and the "
                  "rules it breaks; exit code 1 if there is any");
  sub->callback([o, &context] {
    if (!o->lint.empty()) {
      const nlohmann::json report = lint_model(o->model, o->lint);
      context.json ? print_json(report) : print_lint(report);
      if (!report["findings"].empty()) context.exit_code = findings;
      return;
    }
    const Graph graph = load_model(o->model);
    if (o->text) {
      const std::string text = print_graph(graph);
      if (context.json) return print_json({{"text", text}});
      std::fputs(text.c_str(), stdout);
      return;
    }
    if (o->plan) {
      Program program = compile(graph.clone());
      const nlohmann::json plan = inspect_plan(program, o->symbols.choose(program));
      context.json ? print_json(plan) : print_plan(plan);
      return;
    }
    const nlohmann::json info = inspect(graph);
    context.json ? print_json(info) : print_model(info);
  });
}

}  // namespace octavo::cli
