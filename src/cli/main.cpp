// octavo: the command. Exit codes are part of the interface; scripts may rely on them.
#include <algorithm>
#include <cstdio>
#include <exception>
#include <new>

#include "cli/command.h"
#include "support/cpu.h"
#include "support/error.h"

namespace octavo::cli {
namespace {

struct Failure {
  int code;
  const char* kind;
  std::string where, message, hint;
};

std::string one_line(std::string text) {
  std::replace(text.begin(), text.end(), '\n', ' ');
  while (!text.empty() && text.back() == ' ') text.pop_back();
  return text;
}

int report(const Context& context, const Failure& f) {
  if (context.json)
    print_json({{"error",
                 {{"kind", f.kind},
                  {"where", f.where},
                  {"message", f.message},
                  {"hint", f.hint},
                  {"exit_code", f.code}}}});
  std::string line = "octavo: error: " + (f.where.empty() ? "" : f.where + ": ") + f.message;
  if (!f.hint.empty()) line += " (" + f.hint + ")";
  std::fprintf(stderr, "%s\n", one_line(line).c_str());
  return f.code;
}

Failure describe(const UserError& e) {
  const auto with = [&](int code, const char* kind) {
    return Failure{code, kind, e.where(), e.message(), e.hint()};
  };
  switch (e.kind()) {
    case ErrorKind::value:
      return with(bad_value, "value");
    case ErrorKind::file:
      return with(bad_file, "file");
    case ErrorKind::unsupported:
      return with(unsupported, "unsupported");
  }
  return with(internal, "internal");
}

int run(int argc, char** argv) {
  Context context;
  for (int i = 0; i < argc; ++i)
    context.command += (i ? " " : "") + std::string(i ? argv[i] : "octavo");

  CLI::App app("Octavo makes networks small and fast: ONNX in, INT8 programs out.", "octavo");
  app.require_subcommand(1);
  app.set_version_flag("--version", std::string("octavo ") + octavo_version);
  app.footer(std::string(exit_codes_text) +
             "\n\n`octavo SUBCOMMAND --help` says more; `octavo doctor` lists the environment "
             "variables that count.");
  app.fallthrough();
  app.add_flag("--json", context.json,
               "one JSON object on standard output, nothing else there; of errors too");
  std::string isa;
  app.add_option("--isa", isa, "highest instruction set to use: portable, avx2, avx512, vnni, amx");
  app.parse_complete_callback([&] {
    if (!isa.empty()) set_isa_limit(parse_isa(isa));
  });

  add_inspect(app, context);
  add_quantize(app, context);
  add_sensitivity(app, context);
  add_search(app, context);
  add_compile(app, context);
  add_run(app, context);
  add_bench(app, context);
  add_doctor(app, context);
  catch_signals();
  try {
    app.parse(argc, argv);
    if (std::fflush(stdout) != 0 || std::ferror(stdout))
      throw UserError(ErrorKind::file, "standard output", "cannot write");
  } catch (const CLI::ParseError& error) {
    if (error.get_exit_code() == 0) return app.exit(error);  // --help, --version
    for (int i = 1; i < argc; ++i) context.json = context.json || std::string(argv[i]) == "--json";
    const auto chosen = app.get_subcommands();
    const std::string help = "octavo " + (chosen.empty() ? "" : chosen[0]->get_name() + " ");
    return report(context,
                  {usage, "usage", "command line", error.what(), "see " + help + "--help"});
  } catch (const UserError& error) {
    return report(context, describe(error));
  } catch (const Interrupted& interrupt) {
    return report(context, {128 + interrupt.signal, "interrupted", "", "interrupted", ""});
  } catch (const std::bad_alloc&) {
    return report(context, {out_of_memory, "memory", "", "not enough memory", ""});
  } catch (const std::exception& error) {
    return report(context, {internal, "internal", "", error.what(), ""});
  }
  return context.exit_code;
}

}  // namespace
}  // namespace octavo::cli

int main(int argc, char** argv) { return octavo::cli::run(argc, argv); }
