#include <cstdio>

#include "cli/command.h"

namespace octavo::cli {

void add_doctor(CLI::App& app, Context& context) {
  CLI::App* sub = app.add_subcommand(
      "doctor", "What this machine offers and which environment variables count");
  sub->footer(footer("", "  octavo doctor\n  octavo doctor --json\n"));
  sub->callback([&context] {
    const nlohmann::json info = doctor();
    if (context.json) return print_json(info);
    for (const auto& [key, value] : info.items())
      if (!value.is_array())
        std::printf("%-15s %s\n", key.c_str(),
                    value.is_string() ? value.get<std::string>().c_str() : value.dump().c_str());
    std::puts("environment variables:");
    for (const auto& flag : info["environment"])
      std::printf("  %-20s %-10s %s\n", flag["name"].get<std::string>().c_str(),
                  flag["value"].get<std::string>().empty()
                      ? "(unset)"
                      : flag["value"].get<std::string>().c_str(),
                  flag["meaning"].get<std::string>().c_str());
  });
}

}  // namespace octavo::cli
