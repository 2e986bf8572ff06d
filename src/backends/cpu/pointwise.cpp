#include "backends/cpu/pointwise.h"

#include <algorithm>
#include <cmath>
#include <cstring>

#include "backends/cpu/parallel.h"

namespace octavo::cpu {
namespace {

// Elements that a thread takes at a time.
int64_t grain_of(int64_t count) {
  return std::clamp<int64_t>(count / (64 * pointwise_tile), 8, 64) * pointwise_tile;
}

struct Register {
  const float* data;
  int64_t step;  // 0: one number
};

// Loops that the compiler vectorises.
template <class F>
void map2(const Register& a, const Register& b, float* y, int64_t n, F f) {
  if (a.step && b.step)
    for (int64_t i = 0; i < n; ++i) y[i] = f(a.data[i], b.data[i]);
  else if (a.step)
    for (int64_t i = 0; i < n; ++i) y[i] = f(a.data[i], b.data[0]);
  else if (b.step)
    for (int64_t i = 0; i < n; ++i) y[i] = f(a.data[0], b.data[i]);
  else
    std::fill_n(y, n, f(a.data[0], b.data[0]));
}

template <class F>
void map1(const Register& a, float* y, int64_t n, F f) {
  for (int64_t i = 0; i < n; ++i) y[i] = f(a.data[i * a.step]);
}

void where(const Register& condition, const Register& yes, const Register& no, float* y,
           int64_t n) {
  if (condition.step && yes.step && no.step)
    for (int64_t i = 0; i < n; ++i) y[i] = condition.data[i] != 0 ? yes.data[i] : no.data[i];
  else
    for (int64_t i = 0; i < n; ++i)
      y[i] =
          condition.data[i * condition.step] != 0 ? yes.data[i * yes.step] : no.data[i * no.step];
}

// An input of other strides, from element `first` of the output on.
void gather_strided(const PointwiseInput& input, const std::vector<int64_t>& dims, const void* from,
                    int64_t first, int64_t n, float* y) {
  const auto rank = static_cast<int64_t>(dims.size());
  int64_t index[BinaryStrided::max_rank] = {}, at = 0;
  for (int64_t d = rank - 1, rest = first; d >= 0; --d) {
    const auto k = static_cast<size_t>(d);
    index[d] = rest % dims[k];
    rest /= dims[k];
    at += index[d] * input.steps[k];
  }
  const int64_t last = rank - 1, length = dims[static_cast<size_t>(last)];
  const int64_t step = input.steps[static_cast<size_t>(last)];
  for (int64_t i = 0; i < n;) {
    const int64_t run = std::min(n - i, length - index[last]);
    if (input.boolean) {
      const auto* x = static_cast<const uint8_t*>(from) + at;
      for (int64_t k = 0; k < run; ++k) y[i + k] = x[k * step] != 0 ? 1.0f : 0.0f;
    } else {
      const auto* x = static_cast<const float*>(from) + at;
      if (step == 0)
        std::fill_n(y + i, run, *x);
      else if (step == 1)
        std::memcpy(y + i, x, static_cast<size_t>(run) * sizeof(float));
      else
        for (int64_t k = 0; k < run; ++k) y[i + k] = x[k * step];
    }
    i += run;
    at += run * step;
    index[last] += run;
    for (int64_t d = last; d > 0 && index[d] == dims[static_cast<size_t>(d)]; --d) {
      const auto k = static_cast<size_t>(d);
      at += input.steps[k - 1] - dims[k] * input.steps[k];
      index[d] = 0;
      ++index[d - 1];
    }
  }
}

// Looked up once, not for every tile.
struct Functions {
  void (*unary)(const Unary&, ThreadPool&) = best_kernel(unary_kernels()).run;
  void (*binary)(const Binary&, ThreadPool&) = best_kernel(binary_kernels()).run;
};

void run_instruction(const PointwiseInstruction& i, const Register* r, float* y, int64_t n,
                     const Functions& functions, ThreadPool& pool) {
  const Register& a = r[i.a];
  switch (i.kind) {
    case PointwiseKind::unary: {
      if (a.step == 0) {  // once, and spread
        float one = 0;
        functions.unary(
            {.op = i.unary, .alpha = i.alpha, .beta = i.beta, .count = 1, .x = a.data, .y = &one},
            pool);
        std::fill_n(y, n, one);
        return;
      }
      return functions.unary(
          {.op = i.unary, .alpha = i.alpha, .beta = i.beta, .count = n, .x = a.data, .y = y}, pool);
    }
    case PointwiseKind::binary: {
      Binary args{.op = i.binary, .inner = n};
      args.a_inner = a.step, args.b_inner = r[i.b].step;
      args.a = a.data, args.b = r[i.b].data, args.y = y;
      return functions.binary(args, pool);
    }
    case PointwiseKind::less:
      return map2(a, r[i.b], y, n, [](float p, float q) { return p < q ? 1.0f : 0.0f; });
    case PointwiseKind::less_equal:
      return map2(a, r[i.b], y, n, [](float p, float q) { return p <= q ? 1.0f : 0.0f; });
    case PointwiseKind::equal:
      return map2(a, r[i.b], y, n, [](float p, float q) { return p == q ? 1.0f : 0.0f; });
    case PointwiseKind::is_nan:
      return map1(a, y, n, [](float p) { return std::isnan(p) ? 1.0f : 0.0f; });
    case PointwiseKind::logical_and:
      return map2(a, r[i.b], y, n, [](float p, float q) { return p * q; });
    case PointwiseKind::logical_or:
      return map2(a, r[i.b], y, n, [](float p, float q) { return p > q ? p : q; });
    case PointwiseKind::logical_xor:
      return map2(a, r[i.b], y, n, [](float p, float q) { return p == q ? 0.0f : 1.0f; });
    case PointwiseKind::logical_not:
      return map1(a, y, n, [](float p) { return 1.0f - p; });
    case PointwiseKind::where:
      return where(a, r[i.b], r[i.c], y, n);
    case PointwiseKind::sign:
      return map1(a, y, n, [](float p) { return p > 0 ? 1.0f : p < 0 ? -1.0f : p; });
    case PointwiseKind::copy:
      return map1(a, y, n, [](float p) { return p; });
  }
}

// Of one thread: the tiles of inputs that are not read where they lie, those of the temporaries,
// and the registers.
size_t thread_bytes(const Pointwise& p) {
  const size_t registers =
      p.inputs.size() + p.constants.size() + static_cast<size_t>(p.temporaries);
  const size_t tiles = p.inputs.size() + static_cast<size_t>(p.temporaries);
  const size_t bytes = tiles * pointwise_tile * sizeof(float) + registers * sizeof(Register);
  return (bytes + 63) / 64 * 64;
}

// What is the same for all tiles of a call.
struct Call {
  const Pointwise& p;
  std::span<const void* const> in;
  std::span<void* const> out;
  ThreadPool& pool;
  Functions functions = {};

  // Whether the instruction that makes output `i` may write it where it goes: what lies there, if
  // it is an input, is not read any more.
  bool goes_straight(size_t i) const {
    if (p.outputs[i].boolean) return false;
    for (size_t k = 0; k < in.size(); ++k)
      if (in[k] == out[i] && p.inputs[k].last_reader > p.outputs[i].maker) return false;
    return true;
  }
};

// The part of the next tile that is asked for behind instruction `k`: memory works while we do. A
// page's first number is read, not asked for: requests for pages whose place is not known are lost.
void prefetch(const Call& call, int64_t next, int64_t n, size_t k) {
  constexpr int64_t line = 16, page = 1024;  // numbers
  const auto lines = (n + line - 1) / line;
  const auto code = static_cast<int64_t>(call.p.code.size());
  const int64_t begin = lines * static_cast<int64_t>(k) / code * line,
                end = lines * (static_cast<int64_t>(k) + 1) / code * line;
  for (size_t i = 0; i < call.in.size(); ++i) {
    const PointwiseInput& input = call.p.inputs[i];
    if (input.form != PointwiseInput::Form::dense || input.boolean) continue;
    const float* x = static_cast<const float*>(call.in[i]) + next;
    if (k == 0) asm volatile("" ::"x"(*x));
    for (int64_t at = begin; at < end; at += line) __builtin_prefetch(x + at, 0, 2);
  }
  static_assert(pointwise_tile <= page);
}

// `ahead`: elements of the next tile, which begins behind this one.
void run_tile(const Call& call, std::byte* scratch, int64_t first, int64_t n, int64_t ahead) {
  const Pointwise& p = call.p;
  auto* memory = reinterpret_cast<float*>(scratch);
  const size_t tiles = p.inputs.size() + static_cast<size_t>(p.temporaries);
  auto* registers = reinterpret_cast<Register*>(memory + tiles * pointwise_tile);
  size_t at = 0;
  for (size_t i = 0; i < p.inputs.size(); ++i, ++at) {
    const PointwiseInput& input = p.inputs[i];
    float* tile = memory + i * pointwise_tile;
    registers[at] = {tile, 1};
    switch (input.form) {
      case PointwiseInput::Form::scalar:
        tile[0] = input.boolean ? static_cast<float>(*static_cast<const uint8_t*>(call.in[i]) != 0)
                                : *static_cast<const float*>(call.in[i]);
        registers[at].step = 0;
        break;
      case PointwiseInput::Form::dense:
        if (input.boolean) {
          const auto* x = static_cast<const uint8_t*>(call.in[i]) + first;
          for (int64_t k = 0; k < n; ++k) tile[k] = x[k] != 0 ? 1.0f : 0.0f;
        } else {
          registers[at].data = static_cast<const float*>(call.in[i]) + first;
        }
        break;
      case PointwiseInput::Form::strided:
        gather_strided(input, p.dims, call.in[i], first, n, tile);
        break;
    }
  }
  for (const float& constant : p.constants) registers[at++] = {&constant, 0};
  for (size_t i = p.inputs.size(); i < tiles; ++i)
    registers[at++] = {memory + i * pointwise_tile, 1};
  for (size_t k = 0; k < p.code.size(); ++k) {
    const PointwiseInstruction& instruction = p.code[k];
    auto* y = const_cast<float*>(registers[instruction.y].data);
    if (instruction.output >= 0) {
      const auto output = static_cast<size_t>(instruction.output);
      if (call.goes_straight(output)) y = static_cast<float*>(call.out[output]) + first;
    }
    run_instruction(instruction, registers, y, n, call.functions, call.pool);
    registers[instruction.y].data = y;
    if (ahead > 0) prefetch(call, first + n, ahead, k);
  }
  for (size_t i = 0; i < p.outputs.size(); ++i) {
    const float* from = registers[p.outputs[i].from].data;
    if (p.outputs[i].boolean) {
      auto* y = static_cast<uint8_t*>(call.out[i]) + first;
      for (int64_t k = 0; k < n; ++k) y[k] = from[k] != 0;
    } else if (auto* y = static_cast<float*>(call.out[i]) + first; y != from) {
      std::memcpy(y, from, static_cast<size_t>(n) * sizeof(float));
    }
  }
}

}  // namespace

void finish_pointwise(Pointwise& p) {
  for (size_t k = 0; k < p.code.size(); ++k) {
    PointwiseInstruction& instruction = p.code[k];
    for (const int from : {instruction.a, instruction.b, instruction.c})
      if (from >= 0 && static_cast<size_t>(from) < p.inputs.size())
        p.inputs[static_cast<size_t>(from)].last_reader = static_cast<int>(k);
    instruction.output = -1;
    for (size_t i = 0; i < p.outputs.size(); ++i)
      if (p.outputs[i].from == instruction.y) p.outputs[i].maker = static_cast<int>(k);
  }
  for (size_t i = 0; i < p.outputs.size(); ++i)
    p.code[static_cast<size_t>(p.outputs[i].maker)].output = static_cast<int>(i);
}

size_t pointwise_scratch_bytes(const Pointwise& p, int threads) {
  return static_cast<size_t>(threads) * thread_bytes(p);
}

void run_pointwise(const Pointwise& p, std::span<const void* const> in, std::span<void* const> out,
                   std::byte* scratch, ThreadPool& pool) {
  const size_t bytes = thread_bytes(p);
  const int64_t grain = grain_of(p.count);
  const Call call{p, in, out, pool};
  auto task = [&](int64_t chunk, int thread) {
    const int64_t end = std::min(p.count, (chunk + 1) * grain);
    // Behind its last tile comes another thread's, or ours.
    const int64_t last = pool.size() == 1 ? p.count : end;
    for (int64_t first = chunk * grain; first < end; first += pointwise_tile) {
      const int64_t next = first + pointwise_tile;
      run_tile(call, scratch + static_cast<size_t>(thread) * bytes, first,
               std::min(pointwise_tile, end - first), std::min(pointwise_tile, last - next));
    }
  };
  pool.run((p.count + grain - 1) / grain, task);
}

}  // namespace octavo::cpu
