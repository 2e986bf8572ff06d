// Several functions of one element each, one after another over a tile that stays in the cache.
#pragma once
#include <cstddef>
#include <span>
#include <vector>

#include "backends/cpu/elementwise.h"

namespace octavo::cpu {

// less to is_nan give 1 or 0; logic takes these. where: a is the condition, b, c the values.
enum class PointwiseKind : uint8_t {
  unary,
  binary,
  less,
  less_equal,
  equal,
  is_nan,
  logical_and,
  logical_or,
  logical_xor,
  logical_not,
  where,
  sign,
  copy
};

// Registers: the inputs, then the constants, then the temporaries.
struct PointwiseInstruction {
  PointwiseKind kind = PointwiseKind::copy;
  UnaryOp unary = UnaryOp::relu;
  BinaryOp binary = BinaryOp::add;
  float alpha = 0, beta = 0;  // of the unary function
  int a = 0, b = -1, c = -1;
  int y = 0;
  int output = -1;  // the one of Pointwise::outputs that this makes
};

struct PointwiseInput {
  bool boolean = false;
  enum class Form : uint8_t { dense, scalar, strided } form = Form::dense;
  std::vector<int64_t> steps;  // strided: elements, over Pointwise::dims; 0 where it repeats
  int last_reader = -1;        // index into Pointwise::code
};

struct Pointwise {
  int64_t count = 0;          // elements of every output
  std::vector<int64_t> dims;  // of the strided inputs, their product is count
  std::vector<PointwiseInput> inputs;
  std::vector<float> constants;
  std::vector<PointwiseInstruction> code;
  struct Output {
    int from;
    bool boolean;
    int maker = -1;  // index into code
  };
  std::vector<Output> outputs;
  int temporaries = 0;
};

constexpr int64_t pointwise_tile = 1024;  // elements

// Fills in last_reader, maker and output; once, before it runs.
void finish_pointwise(Pointwise& p);
size_t pointwise_scratch_bytes(const Pointwise& p, int threads);
// Each element of the outputs is written when all that is computed from the inputs' elements of its
// tile is: an output may be the memory of a dense input of its type.
void run_pointwise(const Pointwise& p, std::span<const void* const> in, std::span<void* const> out,
                   std::byte* scratch, ThreadPool& pool);

}  // namespace octavo::cpu
