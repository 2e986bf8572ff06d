#include "support/cpu.h"

#include <cpuid.h>
#include <sched.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <cmath>
#include <fstream>
#include <sstream>

#include "support/env.h"
#include "support/error.h"

namespace octavo {
namespace {

constexpr std::array<const char*, 5> isa_names{"portable", "avx2", "avx512", "vnni", "amx"};

// Linux grants the 8 KiB tile state only on request (arch_prctl ARCH_REQ_XCOMP_PERM, XTILEDATA).
bool request_tiles() {
  constexpr int arch_req_xcomp_perm = 0x1023, xtiledata = 18;
  return syscall(SYS_arch_prctl, arch_req_xcomp_perm, xtiledata) == 0;
}

// F16C, which clang 14's __builtin_cpu_supports has no name for.
bool converts_half() {
  unsigned eax = 0, ebx = 0, ecx = 0, edx = 0;
  return __get_cpuid(1, &eax, &ebx, &ecx, &edx) && (ecx & bit_F16C);
}

Isa detect() {
  // __builtin_cpu_supports also checks that the operating system saves the wide registers.
  __builtin_cpu_init();
  if (!(__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && converts_half()))
    return Isa::portable;
  if (!(__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
        __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq")))
    return Isa::avx2;
  if (!__builtin_cpu_supports("avx512vnni")) return Isa::avx512;
  unsigned a = 0, b = 0, c = 0, d = 0;
  constexpr unsigned amx_tile = 1u << 24, amx_int8 = 1u << 25;
  if (!__get_cpuid_count(7, 0, &a, &b, &c, &d) || (d & amx_tile) == 0 || (d & amx_int8) == 0 ||
      !request_tiles())
    return Isa::vnni;
  return Isa::amx;
}

std::atomic<int>& limit() {
  static std::atomic<int> value = [] {
    const std::string text = env_string("OCTAVO_ISA", "");
    return static_cast<int>(text.empty() ? Isa::amx : parse_isa(text));
  }();
  return value;
}

double quota_from(const std::string& quota, const std::string& period) {
  try {
    const double q = std::stod(quota), p = std::stod(period);
    return q > 0 && p > 0 ? q / p : 0;
  } catch (const std::exception&) {
    return 0;  // "max", -1 or a missing file: no quota
  }
}

std::string first_line(const std::string& path) {
  std::ifstream in(path);
  std::string line;
  std::getline(in, line);
  return line;
}

}  // namespace

double cgroup_quota(const std::string& membership, const std::string& root) {
  double least = 0;
  const auto take = [&](double quota) {
    if (quota > 0 && (least == 0 || quota < least)) least = quota;
  };
  std::ifstream in(membership);
  for (std::string line; std::getline(in, line);) {
    const auto first = line.find(':'), second = line.find(':', first + 1);
    if (first == std::string::npos || second == std::string::npos) continue;
    const std::string controllers = line.substr(first + 1, second - first - 1);
    std::string path = line.substr(second + 1);
    const bool v2 = controllers.empty();
    if (!v2 && controllers.find("cpu") == std::string::npos) continue;
    for (;;) {
      const std::string folder = (v2 ? root : root + "/" + controllers) + path;
      if (v2) {
        std::istringstream text(first_line(folder + "/cpu.max"));
        std::string quota, period;
        text >> quota >> period;
        take(quota_from(quota, period));
      } else {
        take(quota_from(first_line(folder + "/cpu.cfs_quota_us"),
                        first_line(folder + "/cpu.cfs_period_us")));
      }
      if (path.empty() || path == "/") break;
      path.erase(path.rfind('/'));
    }
  }
  return least;
}

const char* isa_name(Isa isa) { return isa_names[static_cast<size_t>(isa)]; }

Isa parse_isa(const std::string& name) {
  for (size_t i = 0; i < isa_names.size(); ++i)
    if (name == isa_names[i]) return static_cast<Isa>(i);
  throw UserError(ErrorKind::value, "instruction set", fmt::format("unknown name '{}'", name),
                  "use portable, avx2, avx512, vnni or amx");
}

Isa hardware_isa() {
  static const Isa isa = detect();
  return isa;
}

Isa best_isa() { return std::min(hardware_isa(), static_cast<Isa>(limit().load())); }

void set_isa_limit(Isa isa) { limit() = static_cast<int>(isa); }

int available_cpus() {
  cpu_set_t set;
  CPU_ZERO(&set);
  int count = 1;
  if (sched_getaffinity(0, sizeof set, &set) == 0) count = std::max(1, CPU_COUNT(&set));
  if (const double quota = cgroup_quota(); quota > 0)
    count = std::min(count, std::max(1, static_cast<int>(std::ceil(quota))));
  return count;
}

std::string cpu_model_name() {
  std::ifstream in("/proc/cpuinfo");
  for (std::string line; std::getline(in, line);)
    if (line.rfind("model name", 0) == 0) return line.substr(line.find(':') + 2);
  return "unknown";
}

}  // namespace octavo
