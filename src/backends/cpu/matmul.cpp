// Over the matrix kernels of conv_f32: each task packs one panel of b and multiplies a part of the
// rows of a by it.
#include "backends/cpu/matmul.h"

#include <algorithm>
#include <cstring>
#include <limits>

#include "backends/cpu/conv_f32_data.h"

namespace octavo::cpu {
namespace {

constexpr float infinity = std::numeric_limits<float>::infinity();
constexpr int64_t least_rows = 48;  // of a task: fewer do not pay for packing

int64_t divide_up(int64_t a, int64_t b) { return (a + b - 1) / b; }

class MatmulF32 final : public MatmulKernel {
 public:
  MatmulF32(const MatmulProblem& p, const char* name, Isa isa, const ConvF32Kernels& gemm)
      : p_(p), name_(name), isa_(isa), gemm_(gemm) {
    panel_ = gemm.width * gemm.max_vectors;
    panels_ = divide_up(p.n, panel_);
    floats_ = divide_up(std::max<int64_t>(p.k, 1) * panel_, 16) * 16 + panel_;
    if (p.trans_a) floats_ += p.k * ConvF32Kernels::max_rows;
  }

  const char* name() const override { return name_; }
  Isa isa() const override { return isa_; }
  size_t scratch_bytes(int threads) const override {
    return static_cast<size_t>(threads * floats_) * sizeof(float);
  }

  void run(const MatmulArgs& args, ThreadPool& pool) const override {
    const auto batches = static_cast<int64_t>(p_.a_at.size());
    if (batches * p_.m * p_.n == 0) return;
    const int64_t wanted = pool.size() == 1 ? 1 : divide_up(4 * pool.size(), batches * panels_);
    const int64_t parts = std::clamp<int64_t>(wanted, 1, divide_up(p_.m, least_rows));
    auto task = [&](int64_t i, int thread) {
      const int64_t part = i % parts, panel = i / parts % panels_;
      run_part(args, i / parts / panels_, panel, p_.m * part / parts, p_.m * (part + 1) / parts,
               static_cast<float*>(args.scratch) + thread * floats_);
    };
    pool.run(batches * panels_ * parts, task);
  }

 private:
  void run_part(const MatmulArgs& args, int64_t batch, int64_t panel, int64_t begin, int64_t end,
                float* packed) const {
    const int64_t first = panel * panel_, count = std::min(panel_, p_.n - first);
    const int64_t vectors = divide_up(count, gemm_.width), width = vectors * gemm_.width;
    float* zeros = packed + floats_ - panel_;
    float* rows_of_a = zeros - (p_.trans_a ? p_.k * ConvF32Kernels::max_rows : 0);
    std::memset(zeros, 0, static_cast<size_t>(panel_) * sizeof(float));
    pack(args.b + p_.b_at[static_cast<size_t>(batch)], first, count, width, packed);
    const float* a = args.a + p_.a_at[static_cast<size_t>(batch)];
    float* y = args.y + batch * p_.m * p_.n + first;
    const float* pointers[ConvF32Kernels::max_rows];
    GemmF32Tile tile{};
    tile.segments = 1;
    tile.length = p_.k;
    tile.weights = packed;
    tile.start = zeros;
    tile.y_step = p_.n;
    tile.lo = -infinity, tile.hi = infinity;
    tile.last = true;
    tile.a = pointers;
    tile.channels = static_cast<int>(count);
    const int64_t rows = end - begin, tiles = divide_up(rows, gemm_.rows[vectors]);
    for (int64_t i = 0; i < tiles; ++i) {
      const int64_t r = begin + rows * i / tiles, stop = begin + rows * (i + 1) / tiles;
      if (p_.trans_a) {
        for (int64_t k = 0; k < p_.k; ++k)
          for (int64_t row = r; row < stop; ++row)
            rows_of_a[(row - r) * p_.k + k] = a[k * p_.m + row];
        for (int64_t row = r; row < stop; ++row) pointers[row - r] = rows_of_a + (row - r) * p_.k;
      } else {
        for (int64_t row = r; row < stop; ++row) pointers[row - r] = a + row * p_.k;
      }
      tile.y = y + r * p_.n;
      gemm_.gemm[vectors][stop - r](tile);
    }
  }

  // `count` columns of b from `first` on, with zeros up to `width`.
  void pack(const float* b, int64_t first, int64_t count, int64_t width, float* packed) const {
    for (int64_t k = 0; k < p_.k; ++k) {
      if (!p_.trans_b)
        std::memcpy(packed + k * width, b + k * p_.n + first,
                    static_cast<size_t>(count) * sizeof(float));
      std::memset(packed + k * width + count, 0,
                  static_cast<size_t>(width - count) * sizeof(float));
    }
    if (!p_.trans_b) return;
    constexpr int64_t block = 16;  // of both: a line of each operand stays in the cache
    for (int64_t k = 0; k < p_.k; k += block)
      for (int64_t j = 0; j < count; ++j) {
        const float* from = b + (first + j) * p_.k;
        for (int64_t i = k; i < std::min(k + block, p_.k); ++i) packed[i * width + j] = from[i];
      }
  }

  MatmulProblem p_;
  const char* name_;
  Isa isa_;
  const ConvF32Kernels& gemm_;
  int64_t panel_, panels_, floats_;
};

constexpr char avx512[] = "matmul_f32_avx512", avx2[] = "matmul_f32_avx2",
               portable[] = "matmul_f32_portable";

template <const char* name, Isa isa, const ConvF32Kernels& (*gemm)()>
std::unique_ptr<MatmulKernel> create(const MatmulProblem& p) {
  return std::make_unique<MatmulF32>(p, name, isa, gemm());
}

constexpr MatmulImplementation implementations[] = {
    {avx512, Isa::avx512, create<avx512, Isa::avx512, conv_f32_avx512>},
    {avx2, Isa::avx2, create<avx2, Isa::avx2, conv_f32_avx2>},
    {portable, Isa::portable, create<portable, Isa::portable, conv_f32_portable>},
};

}  // namespace

std::span<const MatmulImplementation> matmul_list() { return implementations; }

std::unique_ptr<MatmulKernel> make_matmul(const MatmulProblem& problem) {
  for (const MatmulImplementation& implementation : implementations)
    if (implementation.isa <= best_isa()) return implementation.create(problem);
  return nullptr;
}

}  // namespace octavo::cpu
