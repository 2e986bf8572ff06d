// What the subcommands share. Each stands in a file of its own and is listed in main.cpp.
#pragma once
#include <CLI/CLI.hpp>
#include <functional>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>

#include "api/octavo.h"

namespace octavo::cli {

// Exit codes, as exit_codes_text and docs/cli.md list them.
enum ExitCode {
  ok = 0,
  findings = 1,  // inspect --lint
  usage = 2,
  bad_value = 3,
  bad_file = 4,
  unsupported = 5,
  out_of_memory = 6,
  internal = 70,
  interrupted = 130,  // 128 + the signal: SIGINT; SIGTERM gives 143
};
extern const char* const exit_codes_text;
// What stands below the options of `octavo SUBCOMMAND --help`: text, examples, exit codes.
std::string footer(const std::string& text, const std::string& examples);

struct Context {
  std::string command;      // the command line, for run records
  bool json = false;        // --json: one JSON object on standard output, nothing else
  ExitCode exit_code = ok;  // of a subcommand that throws nothing
};

// Adds the subcommand; its work runs in a callback after parsing.
void add_inspect(CLI::App& app, Context& context);
void add_quantize(CLI::App& app, Context& context);
void add_sensitivity(CLI::App& app, Context& context);
void add_search(CLI::App& app, Context& context);
void add_compile(CLI::App& app, Context& context);
void add_run(CLI::App& app, Context& context);
void add_bench(CLI::App& app, Context& context);
void add_doctor(CLI::App& app, Context& context);

// --batch and --dim: numbers for symbolic dimensions of inputs.
struct SymbolOptions {
  std::optional<int64_t> batch;
  std::vector<std::string> dims;  // NAME=NUMBER
  // See octavo::choose_symbols. UserError on what is no NAME=NUMBER.
  Symbols choose(Program& program) const;
};
void add_symbol_options(CLI::App* sub, SymbolOptions& options);
// ", N 1, W 320"; empty if there are none.
std::string bound_text(const Symbols& symbols);

// SIGINT, SIGTERM and SIGHUP no longer kill at once: the work ends at the next check_interrupted
// with nothing half written. The second of a kind kills.
struct Interrupted {
  int signal;
};
void catch_signals();
void check_interrupted();  // throws Interrupted

// Checks for interrupts; a bar with elapsed and remaining time on standard error unless that is no
// terminal or --json is given.
Progress progress_bar(const Context& context);
// Columns aligned to their widest cell, the first left, the others right.
std::string table(const std::vector<std::vector<std::string>>& rows);
void print_json(const nlohmann::json& value);
// 1.5 kB, 12.3 MB
std::string bytes_text(double bytes);

}  // namespace octavo::cli
