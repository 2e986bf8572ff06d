// Environment variables that Octavo reads; `octavo doctor` lists them from `env_flags()`.
#pragma once
#include <span>
#include <string>

namespace octavo {

struct EnvFlag {
  const char* name;
  const char* meaning;
};
std::span<const EnvFlag> env_flags();

// The variable's value, or `fallback` if unset. InternalError if `name` is not in env_flags().
std::string env_string(const char* name, const std::string& fallback);

}  // namespace octavo
