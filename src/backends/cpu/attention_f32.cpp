// FP32 attention over the matrix kernels of conv_f32: for each head, transposed keys and values are
// packed as weights, in scratch.
#include <cstring>

#include "backends/cpu/attention_rows.h"
#include "backends/cpu/attention_tasks.h"
#include "backends/cpu/conv_f32_data.h"

namespace octavo::cpu {
namespace {

constexpr float infinity = std::numeric_limits<float>::infinity();

class AttentionF32 final : public AttentionKernel {
 public:
  AttentionF32(const AttentionProblem& p, const char* name, Isa isa, const ConvF32Kernels& gemm,
               const AttentionRows& rows)
      : p_(p), name_(name), isa_(isa), gemm_(gemm), rows_(rows) {
    panel_ = gemm.width * gemm.max_vectors;
    key_width_ = (p.keys + gemm.width - 1) / gemm.width * gemm.width;
    v_width_ = (p.v_depth + gemm.width - 1) / gemm.width * gemm.width;
    int64_t at = 0;
    const auto place = [&](int64_t floats) {
      const int64_t part = at;
      at += (floats + 15) / 16 * 16;
      return part;
    };
    k_ = place(p.depth * key_width_);
    v_ = place(p.keys * v_width_);
    scores_ = place(attention_tile * key_width_);
    sums_ = place(attention_tile * v_width_);
    zeros_ = place(panel_);
    floats_ = at;
  }

  const char* name() const override { return name_; }
  Isa isa() const override { return isa_; }
  size_t scratch_bytes(int threads) const override {
    return static_cast<size_t>(threads * floats_) * sizeof(float);
  }

  void run(const AttentionArgs& args, ThreadPool& pool) const override {
    const AttentionTasks tasks(p_, pool.size());
    auto task = [&](int64_t i, int thread) {
      run_task(args, tasks.at(i), static_cast<float*>(args.scratch) + thread * floats_);
    };
    pool.run(tasks.count, task);
  }

 private:
  void run_task(const AttentionArgs& args, const AttentionTask& t, float* scratch) const {
    std::memset(scratch + zeros_, 0, static_cast<size_t>(panel_) * sizeof(float));
    const float* k = head(args.k, t, p_.keys, p_.k_row, p_.depth);
    const float* v = head(args.v, t, p_.keys, p_.v_row, p_.v_depth);
    float* to = scratch + k_;
    for (int64_t first = 0; first < p_.keys; first += panel_) {
      const int64_t width = std::min(panel_, key_width_ - first);
      for (int64_t j = 0; j < width; ++j) {
        const float* row = k + (first + j) * p_.k_row;
        for (int64_t d = 0; d < p_.depth; ++d) to[d * width + j] = first + j < p_.keys ? row[d] : 0;
      }
      to += p_.depth * width;
    }
    to = scratch + v_;
    for (int64_t first = 0; first < p_.v_depth; first += panel_) {
      const int64_t width = std::min(panel_, v_width_ - first);
      const int64_t count = std::min(width, p_.v_depth - first);
      for (int64_t j = 0; j < p_.keys; ++j, to += width) {
        std::memcpy(to, v + j * p_.v_row + first, static_cast<size_t>(count) * sizeof(float));
        std::memset(to + count, 0, static_cast<size_t>(width - count) * sizeof(float));
      }
    }
    for (int64_t first = t.first; first < t.end; first += attention_tile)
      run_tile(args, t, first, std::min(attention_tile, t.end - first), scratch);
  }

  const float* head(const void* base, const AttentionTask& t, int64_t length, int64_t row,
                    int64_t depth) const {
    return static_cast<const float*>(base) + t.batch * length * row + t.head * depth;
  }

  // y [rows, width] = a [rows, depth] times panels of weights.
  void multiply(const float* a, int64_t a_step, int64_t rows, int64_t depth, const float* weights,
                const float* zeros, float* y, int64_t width) const {
    const float* pointers[ConvF32Kernels::max_rows];
    GemmF32Tile tile{};
    tile.segments = 1;
    tile.length = depth;
    tile.start = zeros;
    tile.y_step = width;
    tile.lo = -infinity, tile.hi = infinity;
    tile.last = true;
    tile.a = pointers;
    for (int64_t first = 0; first < width; first += panel_) {
      const int64_t vectors = std::min(panel_, width - first) / gemm_.width;
      const int64_t most = gemm_.rows[vectors], tiles = (rows + most - 1) / most;
      tile.weights = weights;
      tile.channels = static_cast<int>(vectors * gemm_.width);
      for (int64_t i = 0; i < tiles; ++i) {
        const int64_t r = rows * i / tiles, end = rows * (i + 1) / tiles;
        for (int64_t row = r; row < end; ++row) pointers[row - r] = a + row * a_step;
        tile.y = y + r * width + first;
        gemm_.gemm[vectors][end - r](tile);
      }
      weights += depth * vectors * gemm_.width;
    }
  }

  void run_tile(const AttentionArgs& args, const AttentionTask& t, int64_t first, int64_t rows,
                float* scratch) const {
    const float* q = head(args.q, t, p_.queries, p_.q_row, p_.depth) + first * p_.q_row;
    float *scores = scratch + scores_, *sums = scratch + sums_;
    const float* zeros = scratch + zeros_;
    multiply(q, p_.q_row, rows, p_.depth, scratch + k_, zeros, scores, key_width_);
    const float* mask = args.mask;
    if (mask) mask += t.batch * p_.mask_batch + t.head * p_.mask_head + first * p_.mask_query;
    float totals[attention_tile];
    for (int64_t i = 0; i < rows; ++i)
      totals[i] = rows_.exp_row(scores + i * key_width_, p_.keys, p_.score_multiplier,
                                mask ? mask + i * p_.mask_query : nullptr);
    multiply(scores, key_width_, rows, p_.keys, scratch + v_, zeros, sums, v_width_);
    auto* y = static_cast<float*>(args.y) + (t.batch * p_.queries + first) * p_.y_row +
              t.head * p_.v_depth;
    for (int64_t i = 0; i < rows; ++i, y += p_.y_row)
      rows_.divide(sums + i * v_width_, p_.v_depth, totals[i], y);
  }

  AttentionProblem p_;
  const char* name_;
  Isa isa_;
  const ConvF32Kernels& gemm_;
  const AttentionRows& rows_;
  int64_t panel_, key_width_, v_width_;
  int64_t k_, v_, scores_, sums_, zeros_, floats_;
};

bool accepts(const AttentionProblem& p, std::string& why) {
  if (!attention_has_sizes(p, why)) return false;
  if (p.k == Element::f32 && p.v == Element::f32 && p.y == Element::f32) return true;
  why = "q, k, v and y must all be f32";
  return false;
}

constexpr char avx512[] = "attention_f32_avx512", avx2[] = "attention_f32_avx2",
               portable[] = "attention_f32_portable";

template <const char* name, Isa isa, const ConvF32Kernels& (*gemm)(),
          const AttentionRows& (*rows)()>
std::unique_ptr<AttentionKernel> create(const AttentionProblem& p, std::string& why) {
  if (!accepts(p, why)) return nullptr;
  return std::make_unique<AttentionF32>(p, name, isa, gemm(), rows());
}

constexpr AttentionImplementation implementations[] = {
    {avx512, Isa::avx512, create<avx512, Isa::avx512, conv_f32_avx512, attention_rows_avx512>},
    {avx2, Isa::avx2, create<avx2, Isa::avx2, conv_f32_avx2, attention_rows_avx2>},
    {portable, Isa::portable,
     create<portable, Isa::portable, conv_f32_portable, attention_rows_portable>},
};

}  // namespace

std::span<const AttentionImplementation> attention_f32_list() { return implementations; }

}  // namespace octavo::cpu
