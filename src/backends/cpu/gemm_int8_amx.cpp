#include "backends/cpu/gemm_int8_tiles.h"
#include "backends/cpu/int8_zmm.h"

namespace octavo::cpu {
namespace {

// The processor's tiles. Released at the end, so that context switches need not save them. The
// compiler's intrinsics want digits for tile numbers, so these are the instructions themselves.
class Tiles {
 public:
  Tiles() = default;
  Tiles(const Tiles&) = delete;
  Tiles& operator=(const Tiles&) = delete;
  ~Tiles() { asm volatile("tilerelease" ::: "memory"); }

  void configure(const TileConfig& config) { asm volatile("ldtilecfg %0" ::"m"(config)); }
  template <int tile>
  void load(const void* p, int64_t stride) {
    asm volatile("tileloadd (%0,%1,1), %%tmm%c2" ::"r"(p), "r"(stride), "i"(tile) : "memory");
  }
  template <int tile>
  void store(void* p, int64_t stride) {
    asm volatile("tilestored %%tmm%c2, (%0,%1,1)" ::"r"(p), "r"(stride), "i"(tile) : "memory");
  }
  // sums += a (u8) x b (s8)
  template <int sums, int a, int b>
  void dot() {
    asm volatile("tdpbusd %%tmm%c2, %%tmm%c1, %%tmm%c0" ::"i"(sums), "i"(a), "i"(b));
  }
};

}  // namespace

void gemm_int8_amx(const GemmInt8Tile& tile) { gemm_tiles<Tiles, Zmm<true>>(tile); }

}  // namespace octavo::cpu
