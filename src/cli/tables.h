// Cells of tables that several subcommands print.
#pragma once
#include <fmt/format.h>

#include <nlohmann/json.hpp>
#include <string>

namespace octavo::cli {

// null counts as infinite.
inline std::string number_text(const nlohmann::json& value, const char* format) {
  return value.is_null() ? std::string("inf")
                         : fmt::format(fmt::runtime(format), value.get<double>());
}
inline std::string interval_text(const nlohmann::json& interval, const char* format) {
  return "[" + number_text(interval[0], format) + ", " + number_text(interval[1], format) + "]";
}
// The end of a long name.
inline std::string short_name(const std::string& name) {
  return name.size() > 40 ? "…" + name.substr(name.size() - 39) : name;
}

}  // namespace octavo::cli
