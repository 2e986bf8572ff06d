#include "support/env.h"

#include <cstdlib>
#include <cstring>

#include "support/error.h"

namespace octavo {
namespace {
constexpr EnvFlag flags[] = {
    {"OCTAVO_LOG", "log level of the default sink: error, warning (default), info, debug"},
    {"OCTAVO_NUM_THREADS", "threads to use instead of what affinity and cgroup quota allow"},
    {"OCTAVO_ISA", "highest instruction set to use: portable, avx2, avx512, vnni, amx"},
    {"OCTAVO_DUMP", "folder that receives the graph before and after each pass"},
};
}

std::span<const EnvFlag> env_flags() { return flags; }

std::string env_string(const char* name, const std::string& fallback) {
  bool known = false;
  for (const EnvFlag& flag : flags) known = known || std::strcmp(flag.name, name) == 0;
  OCTAVO_CHECK(known);
  const char* value = std::getenv(name);
  return value ? value : fallback;
}

}  // namespace octavo
