// What the processor and the operating system let us use.
#pragma once
#include <string>

namespace octavo {

// In order of preference; each contains those before it.
//   avx2: AVX2, FMA, F16C; avx512: F, BW, VL, DQ; vnni: AVX512_VNNI; amx: AMX_TILE, AMX_INT8
// (with the operating system's leave to use the tile registers).
enum class Isa { portable, avx2, avx512, vnni, amx };

const char* isa_name(Isa isa);
// Throws UserError on an unknown name.
Isa parse_isa(const std::string& name);

// What the hardware and kernel offer, and that capped by OCTAVO_ISA or set_isa_limit.
Isa hardware_isa();
Isa best_isa();
// Caps best_isa() for the process from now on (tests and `--isa`); never above hardware_isa().
void set_isa_limit(Isa isa);

// CPUs this process may run on: affinity mask and cgroup quota (v1, v2), at least 1.
int available_cpus();
// In CPUs: the smallest quota on the way from the cgroup that `membership` names to the root, 0 if
// none. The arguments are for tests.
double cgroup_quota(const std::string& membership = "/proc/self/cgroup",
                    const std::string& root = "/sys/fs/cgroup");
std::string cpu_model_name();

}  // namespace octavo
