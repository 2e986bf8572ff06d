// What the subcommands share. Each stands in a file of its own and is listed in main.cpp.
#pragma once
#include <CLI/CLI.hpp>
#include <functional>
#include <nlohmann/json.hpp>
#include <string>

#include "api/octavo.h"

namespace octavo::cli {

// Exit codes, as `octavo --help` lists them.
enum ExitCode { ok = 0, usage = 2, bad_value = 3, bad_file = 4, unsupported = 5, internal = 70 };

struct Context {
  std::string command;  // the command line, for run records
  bool json = false;    // --json: one JSON object on standard output, nothing else
};

// Adds the subcommand; its work runs in a callback after parsing.
void add_inspect(CLI::App& app, Context& context);
void add_quantize(CLI::App& app, Context& context);
void add_compile(CLI::App& app, Context& context);
void add_run(CLI::App& app, Context& context);
void add_bench(CLI::App& app, Context& context);
void add_doctor(CLI::App& app, Context& context);

// A bar with rate and remaining time on standard error; silent where that is no terminal.
Progress progress_bar();
// Columns aligned to their widest cell, the first left, the others right.
std::string table(const std::vector<std::vector<std::string>>& rows);
void print_json(const nlohmann::json& value);
// 1.5 kB, 12.3 MB
std::string bytes_text(double bytes);

}  // namespace octavo::cli
