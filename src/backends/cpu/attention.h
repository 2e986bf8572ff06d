// Scaled dot-product attention over heads, one row of scores after another: the matrix of scores
// exists only for a tile of queries. Tensors are [batch, length, heads, depth]; of each, a head's
// depth is dense and rows lie `row` elements apart.
//
// f32:   y_i = sum_j softmax_j(q_i k_j * score_multiplier + mask_ij) v_j
//
// INT8 (one float32 rounding per operation but where it says int32; all implementations and the
// reference kernel are equal bit for bit):
//   a_ij = sum_d (q - q_zero_point) * k'   int32; k' = k of s8, k - 128 of u8. What k's own zero
//          point would add is the same for a whole row, which softmax does not see.
//   f_ij = (float)a_ij * score_multiplier; with a mask: f_ij = f_ij + mask_ij * (float)log2(e)
//   p_ij = round_half_even(255 * 2^(f_ij - max_j f_ij))    2^x as in exp2_steps (attention_rows.h)
//   s_i  = max(sum_j p_ij, 1), r_i = y_multiplier / (float)s_i
//   f    = ((float)(sum_j p_ij * v') - (float)(v_zero_point' * s_i)) * r_i   sums int32; ' as for k
//   y    = conv.h's clamp, round, saturate of f
// score_multiplier is in units of log2, y_multiplier in steps of y (1 step for f32).
#pragma once
#include <limits>
#include <optional>

#include "backends/cpu/kernel.h"

namespace octavo::cpu {

struct AttentionProblem {
  int64_t batch = 1, heads = 1;
  int64_t queries = 1, keys = 1;
  int64_t depth = 1, v_depth = 1;                      // of a head
  int64_t q_row = 0, k_row = 0, v_row = 0, y_row = 0;  // elements between positions
  Element q = Element::f32, k = Element::f32, v = Element::f32, y = Element::f32;
  float score_multiplier = 1;
  // The mask is f32, dense along keys; steps are 0 where it repeats.
  bool mask = false;
  int64_t mask_batch = 0, mask_head = 0, mask_query = 0;
  // INT8 only
  int32_t q_zero_point = 0, v_zero_point = 0, y_zero_point = 0;
  float y_multiplier = 1;
  float clamp_lo = -std::numeric_limits<float>::infinity();
  float clamp_hi = std::numeric_limits<float>::infinity();
};

struct AttentionArgs {
  const void* q = nullptr;
  const void* k = nullptr;
  const void* v = nullptr;
  const float* mask = nullptr;
  void* y = nullptr;
  void* scratch = nullptr;  // scratch_bytes() bytes, 64-byte aligned
};

class AttentionKernel {
 public:
  virtual ~AttentionKernel() = default;
  virtual const char* name() const = 0;
  virtual Isa isa() const = 0;
  virtual size_t scratch_bytes(int threads) const = 0;
  // Allocates nothing; the answer does not depend on pool.size().
  virtual void run(const AttentionArgs& args, ThreadPool& pool) const = 0;
};

struct AttentionImplementation {
  const char* name;
  Isa isa;
  std::unique_ptr<AttentionKernel> (*create)(const AttentionProblem& problem, std::string& why);
};

// Best first; the last one is portable.
std::span<const AttentionImplementation> attention_int8_list();
std::span<const AttentionImplementation> attention_f32_list();

// The AMX kernel with its tiles in plain code, for tests; needs VNNI.
std::unique_ptr<AttentionKernel> make_emulated_amx_attention(const AttentionProblem& problem);

std::unique_ptr<AttentionKernel> make_attention(const AttentionProblem& problem,
                                                std::vector<Declined>* declined = nullptr);

}  // namespace octavo::cpu
