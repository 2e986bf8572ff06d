// octavo: the command. Exit codes are part of the interface; scripts may rely on them.
#include <cstdio>
#include <exception>

#include "cli/command.h"
#include "support/cpu.h"
#include "support/error.h"

namespace octavo::cli {
namespace {

int report(const Context& context, int code, const char* kind, const std::string& message) {
  if (context.json)
    print_json({{"error", {{"kind", kind}, {"message", message}, {"exit_code", code}}}});
  std::fprintf(stderr, "octavo: error: %s\n", message.c_str());
  return code;
}

int run(int argc, char** argv) {
  Context context;
  for (int i = 0; i < argc; ++i)
    context.command += (i ? " " : "") + std::string(i ? argv[i] : "octavo");

  CLI::App app("Octavo makes networks small and fast: ONNX in, INT8 programs out.", "octavo");
  app.require_subcommand(1);
  app.set_version_flag("--version", std::string("octavo ") + octavo_version);
  app.footer(
      "Exit codes: 0 done, 2 wrong command line, 3 a value or shape that does not fit,\n"
      "4 a file that cannot be read or written, 5 not supported, 70 a bug of Octavo's.\n"
      "`octavo SUBCOMMAND --help` says more; `octavo doctor` lists the environment variables.");
  app.fallthrough();
  app.add_flag("--json", context.json, "one JSON object on standard output");
  std::string isa;
  app.add_option("--isa", isa, "highest instruction set to use: portable, avx2, avx512, vnni, amx");
  app.parse_complete_callback([&] {
    if (!isa.empty()) set_isa_limit(parse_isa(isa));
  });

  add_inspect(app, context);
  add_quantize(app, context);
  add_compile(app, context);
  add_run(app, context);
  add_bench(app, context);
  add_doctor(app, context);
  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& error) {
    const int code = app.exit(error);
    return code == 0 ? ok : usage;
  } catch (const UserError& error) {
    switch (error.kind()) {
      case ErrorKind::value:
        return report(context, bad_value, "value", error.what());
      case ErrorKind::file:
        return report(context, bad_file, "file", error.what());
      case ErrorKind::unsupported:
        return report(context, unsupported, "unsupported", error.what());
    }
  } catch (const std::exception& error) {
    return report(context, internal, "internal", error.what());
  }
  return ok;
}

}  // namespace
}  // namespace octavo::cli

int main(int argc, char** argv) { return octavo::cli::run(argc, argv); }
