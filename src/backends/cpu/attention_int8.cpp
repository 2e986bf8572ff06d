// INT8 attention over the matrix kernels of gemm_int8: keys, then values, are packed as weights
// for each head, in scratch.
#include <emmintrin.h>

#include <cmath>
#include <cstring>

#include "backends/cpu/attention_rows.h"
#include "backends/cpu/attention_tasks.h"
#include "backends/cpu/conv_int8.h"

namespace octavo::cpu {
namespace {

typedef uint8_t Bytes16 __attribute__((vector_size(16)));

int64_t round_up(int64_t a, int64_t b) { return ceil_div(a, b) * b; }

uint8_t flip_of(Element e, Element wanted) { return e == wanted ? 0 : 0x80; }

// Where the parts of one thread's scratch begin, in bytes.
struct Layout {
  int64_t q_steps, keys, q_tile, k, k_bias, v, scores, p, sums, bytes;
};

class AttentionInt8 final : public AttentionKernel {
 public:
  AttentionInt8(const AttentionProblem& p, const char* name, Isa isa, GemmInt8Function gemm,
                const AttentionRows& rows)
      : p_(p), name_(name), isa_(isa), gemm_(gemm), rows_(rows) {
    const int64_t tile_k =
        isa == Isa::amx ? 64 : 4;  // whole tiles of the depth that is ours to pad
    l_.q_steps = round_up(p.depth, 4);
    l_.keys = round_up(p.keys, tile_k);
    key_blocks_ = ceil_div(p.keys, 16);
    v_blocks_ = ceil_div(p.v_depth, 16);
    int64_t at = 0;
    const auto place = [&](int64_t& part, int64_t bytes) {
      part = at;
      at += round_up(bytes, 64);
    };
    place(l_.q_tile, attention_tile * l_.q_steps + 64);
    place(l_.k, l_.q_steps * key_blocks_ * 16);
    place(l_.k_bias, key_blocks_ * 16 * 4);
    place(l_.v, l_.keys * v_blocks_ * 16);
    place(l_.scores, attention_tile * key_blocks_ * 16 * 4);
    place(l_.p, attention_tile * l_.keys + 64);
    place(l_.sums, attention_tile * v_blocks_ * 16 * 4);
    l_.bytes = at;
    copy_q_ = flip_of(p.q, Element::u8) != 0 || p.depth % 4 != 0;
    for (int i = 0; i < 64; ++i) score_multiplier_[i] = p.score_multiplier, ones_[i] = 1;

    constexpr float inf = std::numeric_limits<float>::infinity();
    scores_.lo = -inf, scores_.hi = inf;
    scores_.y_float = true;
    sums_ = scores_;
    if (p.mask) {
      scores_.residual = Int8Residual::f32;
      scores_.residual_multiplier = 1.44269504088896341f;
    }
    ConvProblem finish;
    finish.y = p.y;
    finish.y_zero_point = p.y_zero_point;
    finish.clamp_lo = p.clamp_lo, finish.clamp_hi = p.clamp_hi;
    finish_ = make_output_epilogue(finish);
  }

  const char* name() const override { return name_; }
  Isa isa() const override { return isa_; }
  size_t scratch_bytes(int threads) const override {
    return static_cast<size_t>(threads * l_.bytes);
  }

  void run(const AttentionArgs& args, ThreadPool& pool) const override {
    const AttentionTasks tasks(p_, pool.size());
    auto task = [&](int64_t i, int thread) {
      run_task(args, tasks.at(i), static_cast<uint8_t*>(args.scratch) + thread * l_.bytes);
    };
    pool.run(tasks.count, task);
  }

 private:
  void run_task(const AttentionArgs& args, const AttentionTask& t, uint8_t* scratch) const {
    pack_keys(head(args.k, t, p_.keys, p_.k_row, p_.depth), scratch);
    pack_values(head(args.v, t, p_.keys, p_.v_row, p_.v_depth), scratch + l_.v);
    for (int64_t first = t.first; first < t.end; first += attention_tile)
      run_tile(args, t, first, std::min(attention_tile, t.end - first), scratch);
  }

  const uint8_t* head(const void* base, const AttentionTask& t, int64_t length, int64_t row,
                      int64_t depth) const {
    return static_cast<const uint8_t*>(base) + t.batch * length * row + t.head * depth;
  }

  // [panel][depth / 4][key of the panel][4], and -q_zero_point * sum of each key.
  void pack_keys(const uint8_t* k, uint8_t* scratch) const {
    uint8_t* to = scratch + l_.k;
    auto* bias = reinterpret_cast<int32_t*>(scratch + l_.k_bias);
    const uint8_t flip = flip_of(p_.k, Element::s8);
    const uint32_t flip4 = flip * 0x01010101u;
    const int32_t zero = p_.q_zero_point + flip_of(p_.q, Element::u8);
    const int64_t whole = p_.depth / 4 * 4;
    for (int64_t first = 0; first < p_.keys; first += 64) {
      const int64_t width = std::min<int64_t>(64, key_blocks_ * 16 - first);
      const int64_t count = std::min<int64_t>(width, p_.keys - first);
      for (int64_t j = 0; j < count; ++j) {
        const uint8_t* row = k + (first + j) * p_.k_row;
        uint8_t* out = to + 4 * j;
        for (int64_t d = 0; d < whole; d += 4, out += 4 * width) {
          uint32_t four;
          std::memcpy(&four, row + d, 4);
          four ^= flip4;
          std::memcpy(out, &four, 4);
        }
        if (whole < p_.depth) {
          std::memset(out, 0, 4);
          for (int64_t d = whole; d < p_.depth; ++d) out[d - whole] = row[d] ^ flip;
        }
        bias[first + j] = -zero * sum_of(row, p_.depth, p_.k);
      }
      to += width * l_.q_steps;
    }
  }

  // Of signed bytes, or unsigned ones less 128 each.
  static int32_t sum_of(const uint8_t* row, int64_t count, Element e) {
    const uint8_t flip = flip_of(e, Element::u8);
    const __m128i flips = _mm_set1_epi8(static_cast<char>(flip)), zero = _mm_setzero_si128();
    __m128i sums = zero;
    int64_t i = 0;
    for (; i + 16 <= count; i += 16) {
      const __m128i v = _mm_loadu_si128(reinterpret_cast<const __m128i*>(row + i));
      sums = _mm_add_epi64(sums, _mm_sad_epu8(_mm_xor_si128(v, flips), zero));
    }
    int32_t sum = _mm_cvtsi128_si32(sums) + _mm_cvtsi128_si32(_mm_unpackhi_epi64(sums, sums));
    for (; i < count; ++i) sum += row[i] ^ flip;
    return sum - 128 * static_cast<int32_t>(count);
  }

  // [panel of depth][key / 4][depth of the panel][4 keys].
  void pack_values(const uint8_t* v, uint8_t* to) const {
    const uint8_t flip = flip_of(p_.v, Element::s8);
    const Bytes16 flips = Bytes16{} + flip;
    for (int64_t first = 0; first < v_blocks_; first += 4) {
      const int64_t blocks = std::min<int64_t>(4, v_blocks_ - first);
      for (int64_t j = 0; j < l_.keys; j += 4)
        for (int64_t b = 0; b < blocks; ++b, to += 64) {
          const int64_t d = (first + b) * 16, count = std::min<int64_t>(16, p_.v_depth - d);
          Bytes16 rows[4] = {};
          for (int64_t i = 0; i < 4 && j + i < p_.keys; ++i) {
            const uint8_t* row = v + (j + i) * p_.v_row + d;
            if (count == 16)  // no call
              std::memcpy(&rows[i], row, 16);
            else
              std::memcpy(&rows[i], row, static_cast<size_t>(count));
            rows[i] ^= flips;
          }
          interleave(rows, to);
        }
    }
  }

  // The 4 x 16 bytes transposed.
  static void interleave(const Bytes16* rows, uint8_t* to) {
    const auto low = [](auto a, auto b) {
      return __builtin_shufflevector(a, b, 0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23);
    };
    const auto high = [](auto a, auto b) {
      return __builtin_shufflevector(a, b, 8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15,
                                     31);
    };
    const auto low2 = [](auto a, auto b) {
      return __builtin_shufflevector(a, b, 0, 1, 16, 17, 2, 3, 18, 19, 4, 5, 20, 21, 6, 7, 22, 23);
    };
    const auto high2 = [](auto a, auto b) {
      return __builtin_shufflevector(a, b, 8, 9, 24, 25, 10, 11, 26, 27, 12, 13, 28, 29, 14, 15, 30,
                                     31);
    };
    const Bytes16 a = low(rows[0], rows[1]), b = low(rows[2], rows[3]);
    const Bytes16 c = high(rows[0], rows[1]), d = high(rows[2], rows[3]);
    const Bytes16 out[4] = {low2(a, b), high2(a, b), low2(c, d), high2(c, d)};
    std::memcpy(to, out, 64);
  }

  void run_tile(const AttentionArgs& args, const AttentionTask& t, int64_t first, int64_t rows,
                uint8_t* scratch) const {
    const uint8_t* q = head(args.q, t, p_.queries, p_.q_row, p_.depth) + first * p_.q_row;
    const int64_t key_width = key_blocks_ * 16, v_width = v_blocks_ * 16;
    auto* scores = reinterpret_cast<float*>(scratch + l_.scores);
    auto* sums = reinterpret_cast<float*>(scratch + l_.sums);
    uint8_t* p = scratch + l_.p;
    constexpr int64_t at_start = 0;

    GemmInt8Tile tile{};
    tile.a = q;
    tile.pixel_step = p_.q_row;
    if (copy_q_) {
      copy_queries(q, rows, scratch + l_.q_tile);
      tile.a = scratch + l_.q_tile;
      tile.pixel_step = l_.q_steps;
    }
    tile.segment_at = &at_start;
    tile.segments = 1;
    tile.k4 = l_.q_steps / 4;
    tile.multiplier = score_multiplier_;
    tile.pixels = rows;
    tile.epilogue = &scores_;
    tile.y_step = key_width * 4;
    const float* mask = args.mask;
    if (mask) {
      mask += t.batch * p_.mask_batch + t.head * p_.mask_head + first * p_.mask_query;
      tile.residual_step = p_.mask_query * 4;
    }
    tile.weights = reinterpret_cast<const int8_t*>(scratch + l_.k);
    for (int64_t block = 0; block < key_blocks_; block += 4) {
      tile.blocks = static_cast<int>(std::min<int64_t>(4, key_blocks_ - block));
      tile.channels = static_cast<int>(std::min<int64_t>(64, p_.keys - block * 16));
      tile.bias = reinterpret_cast<const int32_t*>(scratch + l_.k_bias) + block * 16;
      tile.y = scores + block * 16;
      tile.residual = mask ? mask + block * 16 : nullptr;
      gemm_(tile);
      tile.weights += tile.blocks * 16 * l_.q_steps;
    }

    int32_t steps[attention_tile];
    for (int64_t i = 0; i < rows; ++i)
      steps[i] =
          std::max(rows_.exp2_steps(scores + i * key_width, p_.keys, l_.keys, p + i * l_.keys), 1);

    GemmInt8Tile values{};
    values.a = p;
    values.pixel_step = l_.keys;
    values.segment_at = &at_start;
    values.segments = 1;
    values.k4 = l_.keys / 4;
    values.multiplier = ones_;
    values.bias = zeros_;
    values.pixels = rows;
    values.epilogue = &sums_;
    values.y_step = v_width * 4;
    values.weights = reinterpret_cast<const int8_t*>(scratch + l_.v);
    for (int64_t block = 0; block < v_blocks_; block += 4) {
      values.blocks = static_cast<int>(std::min<int64_t>(4, v_blocks_ - block));
      values.channels = static_cast<int>(std::min<int64_t>(64, p_.v_depth - block * 16));
      values.y = sums + block * 16;
      gemm_(values);
      values.weights += values.blocks * 16 * l_.keys;
    }

    const int64_t y_size = element_size(p_.y);
    auto* y = static_cast<uint8_t*>(args.y) +
              ((t.batch * p_.queries + first) * p_.y_row + t.head * p_.v_depth) * y_size;
    const int32_t zero = p_.v_zero_point - (p_.v == Element::u8 ? 128 : 0);
    for (int64_t i = 0; i < rows; ++i, y += p_.y_row * y_size)
      rows_.finish_steps(sums + i * v_width, p_.v_depth, static_cast<float>(zero * steps[i]),
                         p_.y_multiplier / static_cast<float>(steps[i]), finish_, y);
  }

  void copy_queries(const uint8_t* q, int64_t rows, uint8_t* to) const {
    const uint8_t flip = flip_of(p_.q, Element::u8);
    for (int64_t i = 0; i < rows; ++i, q += p_.q_row, to += l_.q_steps) {
      for (int64_t d = 0; d < p_.depth; ++d) to[d] = q[d] ^ flip;
      std::memset(to + p_.depth, 0, static_cast<size_t>(l_.q_steps - p_.depth));
    }
  }

  AttentionProblem p_;
  const char* name_;
  Isa isa_;
  GemmInt8Function gemm_;
  const AttentionRows& rows_;
  Layout l_{};
  int64_t key_blocks_, v_blocks_;
  bool copy_q_;
  Int8Epilogue scores_{}, sums_{}, finish_{};
  alignas(64) float score_multiplier_[64], ones_[64];
  alignas(64) int32_t zeros_[64] = {};
};

bool fits_byte(Element e, int32_t value) {
  return e == Element::s8 ? value >= -128 && value <= 127 : value >= 0 && value <= 255;
}

bool accepts(const AttentionProblem& p, std::string& why) {
  if (!attention_has_sizes(p, why)) return false;
  if (p.q == Element::f32 || p.k == Element::f32 || p.v == Element::f32)
    why = "q, k and v must all be integers";
  else if (!fits_byte(p.q, p.q_zero_point) || !fits_byte(p.v, p.v_zero_point) ||
           (p.y != Element::f32 && !fits_byte(p.y, p.y_zero_point)))
    why = "a zero point is outside its type";
  else if (p.keys > 65000 || p.depth > 65000)
    why = "sums may leave int32";
  else
    return true;
  return false;
}

constexpr const char* names[] = {"attention_int8_portable", "attention_int8_avx2",
                                 "attention_int8_avx512", "attention_int8_vnni",
                                 "attention_int8_amx"};

template <Isa isa, GemmInt8Function gemm, const AttentionRows& (*rows)()>
std::unique_ptr<AttentionKernel> create(const AttentionProblem& p, std::string& why) {
  if (!accepts(p, why)) return nullptr;
  if (isa == Isa::amx && (p.depth % 4 != 0 || tile_k_step(p.depth / 4) < 4)) {
    why = "a head's depth fills little of a tile";
    return nullptr;
  }
  if (isa == Isa::amx && !int8_tiles_work()) {
    why = "this machine's tiles fail the self-test";
    return nullptr;
  }
  return std::make_unique<AttentionInt8>(p, names[static_cast<int>(isa)], isa, gemm, rows());
}

template <Isa isa, GemmInt8Function gemm, const AttentionRows& (*rows)()>
constexpr AttentionImplementation row{names[static_cast<int>(isa)], isa, create<isa, gemm, rows>};

constexpr AttentionImplementation implementations[] = {
    row<Isa::amx, gemm_int8_amx, attention_rows_avx512>,
    row<Isa::vnni, gemm_int8_vnni, attention_rows_avx512>,
    row<Isa::avx512, gemm_int8_avx512, attention_rows_avx512>,
    row<Isa::avx2, gemm_int8_avx2, attention_rows_avx2>,
    row<Isa::portable, gemm_int8_portable, attention_rows_portable>,
};

}  // namespace

std::span<const AttentionImplementation> attention_int8_list() { return implementations; }

std::unique_ptr<AttentionKernel> make_emulated_amx_attention(const AttentionProblem& p) {
  // As the tiles would run it: padded to whole tiles.
  return std::make_unique<AttentionInt8>(p, "attention_int8_emulated", Isa::amx, gemm_int8_emulated,
                                         attention_rows_avx512());
}

}  // namespace octavo::cpu
