#include "backends/cpu/copy.h"

#include <algorithm>
#include <cmath>
#include <cstring>

#include "backends/cpu/parallel.h"
#include "support/error.h"

namespace octavo::cpu {
namespace {

constexpr int64_t bytes_grain = 65536;

// ---- transpose of matrices: square blocks through registers

template <class T>
struct Block;  // side x side elements, rows of 16 bytes

template <>
struct Block<uint32_t> {
  static constexpr int side = 4;
  typedef uint32_t V __attribute__((vector_size(16)));
  static void transpose(V* r) {
    const V a = __builtin_shufflevector(r[0], r[1], 0, 4, 1, 5);
    const V b = __builtin_shufflevector(r[0], r[1], 2, 6, 3, 7);
    const V c = __builtin_shufflevector(r[2], r[3], 0, 4, 1, 5);
    const V d = __builtin_shufflevector(r[2], r[3], 2, 6, 3, 7);
    r[0] = __builtin_shufflevector(a, c, 0, 1, 4, 5);
    r[1] = __builtin_shufflevector(a, c, 2, 3, 6, 7);
    r[2] = __builtin_shufflevector(b, d, 0, 1, 4, 5);
    r[3] = __builtin_shufflevector(b, d, 2, 3, 6, 7);
  }
};

template <>
struct Block<uint8_t> {
  static constexpr int side = 16;
  typedef uint8_t V __attribute__((vector_size(16)));
  // Interleaving row i with row i + 8, four times over, moves every element to its place.
  static void transpose(V* r) {
    V t[16];
    V *from = r, *to = t;
    for (int stage = 0; stage < 4; ++stage) {
      for (int i = 0; i < 8; ++i) {
        to[2 * i] = __builtin_shufflevector(from[i], from[i + 8], 0, 16, 1, 17, 2, 18, 3, 19, 4, 20,
                                            5, 21, 6, 22, 7, 23);
        to[2 * i + 1] = __builtin_shufflevector(from[i], from[i + 8], 8, 24, 9, 25, 10, 26, 11, 27,
                                                12, 28, 13, 29, 14, 30, 15, 31);
      }
      std::swap(from, to);
    }
  }
};

// y[column * rows + row] = x[row * columns + column] for columns [begin, end).
template <class T>
void transpose_columns(const T* x, T* y, int64_t rows, int64_t columns, int64_t begin,
                       int64_t end) {
  using B = Block<T>;
  typename B::V block[static_cast<size_t>(B::side)];
  int64_t c = begin;
  for (; c + B::side <= end; c += B::side) {
    int64_t r = 0;
    for (; r + B::side <= rows; r += B::side) {
      for (int i = 0; i < B::side; ++i) std::memcpy(&block[i], x + (r + i) * columns + c, 16);
      B::transpose(block);
      for (int i = 0; i < B::side; ++i) std::memcpy(y + (c + i) * rows + r, &block[i], 16);
    }
    for (; r < rows; ++r)
      for (int64_t i = c; i < c + B::side; ++i) y[i * rows + r] = x[r * columns + i];
  }
  for (; c < end; ++c)
    for (int64_t r = 0; r < rows; ++r) y[c * rows + r] = x[r * columns + c];
}

template <class T>
void transpose_of(const Transpose2d& args, ThreadPool& pool) {
  const auto* x = static_cast<const T*>(args.x);
  auto* y = static_cast<T*>(args.y);
  const int64_t plane = args.rows * args.columns;
  // Whole output rows; their number a multiple of a block's side and of a cache line's elements.
  const int64_t grain = std::max<int64_t>(1, 8192 / std::max<int64_t>(1, args.rows) / 64) * 64;
  parallel_rows(pool, args.n, args.columns, grain, [&](int64_t n, int64_t begin, int64_t end) {
    transpose_columns(x + n * plane, y + n * plane, args.rows, args.columns, begin, end);
  });
}

void transpose_2d(const Transpose2d& args, ThreadPool& pool) {
  OCTAVO_CHECK(args.element_bytes == 1 || args.element_bytes == 4);
  if (args.element_bytes == 4) return transpose_of<uint32_t>(args, pool);
  transpose_of<uint8_t>(args, pool);
}

// ---- strided boxes

// Elements of sizeof(T) bytes, wherever they lie.
template <class T>
void copy_line(const std::byte* x, int64_t x_step, std::byte* y, int64_t y_step, int64_t count) {
  constexpr int64_t size = sizeof(T);
  if (x_step == 1 && y_step == 1) {
    if (count > 0) std::memcpy(y, x, static_cast<size_t>(count) * sizeof(T));
    return;
  }
  for (int64_t i = 0; i < count; ++i)
    std::memcpy(y + i * y_step * size, x + i * x_step * size, sizeof(T));
}

template <class T>
void copy_strided_of(const CopyStrided& args, ThreadPool& pool) {
  // Dimensions that are one stretch in both boxes become one.
  int rank = 0;
  int64_t dims[CopyStrided::max_rank], xs[CopyStrided::max_rank], ys[CopyStrided::max_rank];
  for (int d = 0; d < args.rank; ++d) {
    if (args.dims[d] == 0) return;
    if (args.dims[d] == 1) continue;
    if (rank > 0 && xs[rank - 1] == args.x_steps[d] * args.dims[d] &&
        ys[rank - 1] == args.y_steps[d] * args.dims[d]) {
      dims[rank - 1] *= args.dims[d];
      xs[rank - 1] = args.x_steps[d];
      ys[rank - 1] = args.y_steps[d];
      continue;
    }
    dims[rank] = args.dims[d];
    xs[rank] = args.x_steps[d];
    ys[rank] = args.y_steps[d];
    ++rank;
  }
  if (rank == 0) dims[0] = 1, xs[0] = ys[0] = 1, rank = 1;
  int64_t rows = 1;
  for (int d = 0; d + 1 < rank; ++d) rows *= dims[d];
  const int64_t length = dims[rank - 1], x_step = xs[rank - 1], y_step = ys[rank - 1];
  parallel_rows(pool, rows, length, 8192, [&](int64_t row, int64_t begin, int64_t end) {
    int64_t from = begin * x_step, to = begin * y_step;
    for (int64_t d = rank - 2, rest = row; d >= 0; --d) {
      from += rest % dims[d] * xs[d];
      to += rest % dims[d] * ys[d];
      rest /= dims[d];
    }
    constexpr int64_t size = sizeof(T);
    copy_line<T>(static_cast<const std::byte*>(args.x) + from * size, x_step,
                 static_cast<std::byte*>(args.y) + to * size, y_step, end - begin);
  });
}

// Pairs of elements that lie side by side in both boxes as one element, while there are such.
CopyStrided in_pairs(CopyStrided args) {
  while (args.rank > 0 && args.element_bytes < 8) {
    const int last = args.rank - 1;
    if (args.x_steps[last] != 1 || args.y_steps[last] != 1 || args.dims[last] % 2 != 0) break;
    bool even = true;
    for (int d = 0; d < last; ++d)
      even = even && args.x_steps[d] % 2 == 0 && args.y_steps[d] % 2 == 0;
    if (!even) break;
    args.element_bytes *= 2;
    args.dims[last] /= 2;
    for (int d = 0; d < last; ++d) args.x_steps[d] /= 2, args.y_steps[d] /= 2;
    if (args.dims[last] == 1) --args.rank;
  }
  return args;
}

void copy_strided(const CopyStrided& given, ThreadPool& pool) {
  const CopyStrided args = in_pairs(given);
  switch (args.element_bytes) {
    case 1:
      return copy_strided_of<uint8_t>(args, pool);
    case 2:
      return copy_strided_of<uint16_t>(args, pool);
    case 4:
      return copy_strided_of<uint32_t>(args, pool);
    case 8:
      return copy_strided_of<uint64_t>(args, pool);
    default:
      OCTAVO_CHECK(!"elements of 1, 2, 4 or 8 bytes");
  }
}

void copy_rows(const CopyRows& args, ThreadPool& pool) {
  if (args.row_bytes == 0) return;
  const bool dense = args.x_pitch == args.row_bytes && args.y_pitch == args.row_bytes;
  const int64_t rows = dense ? 1 : args.rows;
  const int64_t row_bytes = dense ? args.rows * args.row_bytes : args.row_bytes;
  const auto* x = static_cast<const std::byte*>(args.x);
  auto* y = static_cast<std::byte*>(args.y);
  parallel_rows(pool, rows, row_bytes, bytes_grain, [&](int64_t row, int64_t begin, int64_t end) {
    std::memcpy(y + row * args.y_pitch + begin, x + row * args.x_pitch + begin,
                static_cast<size_t>(end - begin));
  });
}

template <class T>
void fill_of(const Fill& args, ThreadPool& pool) {
  T value;
  std::memcpy(&value, args.value, sizeof value);
  parallel_chunks(pool, args.count, bytes_grain, [&](int64_t begin, int64_t end) {
    std::fill(static_cast<T*>(args.y) + begin, static_cast<T*>(args.y) + end, value);
  });
}

void fill(const Fill& args, ThreadPool& pool) {
  switch (args.element_bytes) {
    case 1:
      return fill_of<uint8_t>(args, pool);
    case 2:
      return fill_of<uint16_t>(args, pool);
    case 4:
      return fill_of<uint32_t>(args, pool);
    case 8:
      return fill_of<uint64_t>(args, pool);
    default:
      OCTAVO_CHECK(!"elements of 1, 2, 4 or 8 bytes");
  }
}

template <class Index>
void gather_rows_of(const GatherRows& args, ThreadPool& pool) {
  const auto* indices = static_cast<const Index*>(args.indices);
  for (int64_t i = 0; i < args.count; ++i)
    if (indices[i] < -args.rows || indices[i] >= args.rows)
      throw UserError(ErrorKind::value, "",
                      fmt::format("index {} is outside an axis of {}", indices[i], args.rows));
  if (args.row_bytes == 0) return;
  const auto* x = static_cast<const std::byte*>(args.x);
  auto* y = static_cast<std::byte*>(args.y);
  parallel_rows(pool, args.outer * args.count, args.row_bytes, bytes_grain,
                [&](int64_t i, int64_t begin, int64_t end) {
                  const int64_t outer = args.outer == 1 ? 0 : i / args.count;
                  const int64_t index = indices[i - outer * args.count];
                  const int64_t row = outer * args.rows + (index < 0 ? index + args.rows : index);
                  std::memcpy(y + i * args.row_bytes + begin, x + row * args.row_bytes + begin,
                              static_cast<size_t>(end - begin));
                });
}

void gather_rows(const GatherRows& args, ThreadPool& pool) {
  OCTAVO_CHECK(args.index_bytes == 4 || args.index_bytes == 8);
  if (args.index_bytes == 4) return gather_rows_of<int32_t>(args, pool);
  gather_rows_of<int64_t>(args, pool);
}

template <class T>
void choose_of(const Choose& args, ThreadPool& pool) {
  const int last = args.rank - 1;
  const int64_t length = args.rank > 0 ? args.dims[last] : 1;
  const auto step = [&](const int64_t* steps) { return args.rank > 0 ? steps[last] : 0; };
  const int64_t c_step = step(args.condition_steps), a_step = step(args.a_steps),
                b_step = step(args.b_steps);
  int64_t rows = 1;
  for (int d = 0; d < last; ++d) rows *= args.dims[d];
  parallel_rows(pool, rows, length, 8192, [&](int64_t row, int64_t begin, int64_t end) {
    const uint8_t* condition = args.condition;
    const auto *a = static_cast<const T*>(args.a), *b = static_cast<const T*>(args.b);
    for (int64_t d = last - 1, rest = row; d >= 0; --d) {
      const int64_t i = rest % args.dims[d];
      rest /= args.dims[d];
      condition += i * args.condition_steps[d];
      a += i * args.a_steps[d];
      b += i * args.b_steps[d];
    }
    T* y = static_cast<T*>(args.y) + row * length;
    for (int64_t i = begin; i < end; ++i)
      y[i] = condition[i * c_step] ? a[i * a_step] : b[i * b_step];
  });
}

void choose(const Choose& args, ThreadPool& pool) {
  switch (args.element_bytes) {
    case 1:
      return choose_of<uint8_t>(args, pool);
    case 2:
      return choose_of<uint16_t>(args, pool);
    case 4:
      return choose_of<uint32_t>(args, pool);
    case 8:
      return choose_of<uint64_t>(args, pool);
    default:
      OCTAVO_CHECK(!"elements of 1, 2, 4 or 8 bytes");
  }
}

// ---- resize

template <int fixed>
void nearest_line(const ResizeNearest& args, const std::byte* x, std::byte* y) {
  const int64_t bytes = fixed ? fixed : args.pixel_bytes;
  for (int64_t ox = 0; ox < args.ow; ++ox)
    std::memcpy(y + ox * bytes, x + args.columns[ox] * bytes, static_cast<size_t>(bytes));
}

void resize_nearest(const ResizeNearest& args, ThreadPool& pool) {
  auto task = [&](int64_t i, int) {
    const int64_t n = i / args.oh, row = args.rows[i % args.oh];
    const auto* x =
        static_cast<const std::byte*>(args.x) + (n * args.h + row) * args.w * args.pixel_bytes;
    auto* y = static_cast<std::byte*>(args.y) + i * args.ow * args.pixel_bytes;
    switch (args.pixel_bytes) {
      case 1:
        return nearest_line<1>(args, x, y);
      case 3:
        return nearest_line<3>(args, x, y);
      case 4:
        return nearest_line<4>(args, x, y);
      default:
        return nearest_line<0>(args, x, y);
    }
  };
  pool.run(args.n * args.oh, task);
}

template <class T>
void resize_bilinear_of(const ResizeBilinear& args, ThreadPool& pool) {
  auto task = [&](int64_t i, int) {
    const ResizeTap& row = args.rows[i % args.oh];
    const T* image = static_cast<const T*>(args.x) + i / args.oh * args.h * args.w * args.c;
    const T* top = image + row.low * args.w * args.c;
    const T* bottom = image + row.high * args.w * args.c;
    T* y = static_cast<T*>(args.y) + i * args.ow * args.c;
    const float v = row.weight, not_v = 1 - v;
    for (int64_t ox = 0; ox < args.ow; ++ox, y += args.c) {
      const ResizeTap& column = args.columns[ox];
      const int64_t left = column.low * args.c, right = column.high * args.c;
      const float u = column.weight, not_u = 1 - u;
      for (int64_t c = 0; c < args.c; ++c) {
        const float l = not_v * top[left + c] + v * bottom[left + c];
        const float r = not_v * top[right + c] + v * bottom[right + c];
        const float sum = not_u * l + u * r;
        if constexpr (std::is_same_v<T, float>)
          y[c] = sum;
        else  // between the extremes of T: the magic number rounds it half to even
          y[c] = static_cast<T>(static_cast<int32_t>((sum + 12582912.0f) - 12582912.0f));
      }
    }
  };
  pool.run(args.n * args.oh, task);
}

void resize_bilinear(const ResizeBilinear& args, ThreadPool& pool) {
  switch (args.element) {
    case Element::u8:
      return resize_bilinear_of<uint8_t>(args, pool);
    case Element::s8:
      return resize_bilinear_of<int8_t>(args, pool);
    default:
      return resize_bilinear_of<float>(args, pool);
  }
}

// Where output i lies, in ONNX's float32 formulas.
float coordinate_of(int64_t i, int64_t in, int64_t out, float scale, ResizeCoordinate coordinate) {
  const auto at = static_cast<float>(i);
  switch (coordinate) {
    case ResizeCoordinate::half_pixel:
      return (at + 0.5f) / scale - 0.5f;
    case ResizeCoordinate::pytorch_half_pixel:
      return out > 1 ? (at + 0.5f) / scale - 0.5f : 0.0f;
    case ResizeCoordinate::align_corners:
      return out > 1 ? at * static_cast<float>(in - 1) / static_cast<float>(out - 1) : 0.0f;
    case ResizeCoordinate::asymmetric:
      return at / scale;
  }
  return 0;
}

}  // namespace

void make_nearest_table(int64_t in, int64_t out, float scale, ResizeCoordinate coordinate,
                        ResizeRound round, int32_t* table) {
  for (int64_t i = 0; i < out; ++i) {
    const float at = coordinate_of(i, in, out, scale, coordinate);
    float nearest = 0;
    switch (round) {
      case ResizeRound::prefer_floor:
        nearest = std::ceil(at - 0.5f);
        break;
      case ResizeRound::prefer_ceil:
        nearest = std::floor(at + 0.5f);
        break;
      case ResizeRound::floor:
        nearest = std::floor(at);
        break;
      case ResizeRound::ceil:
        nearest = std::ceil(at);
        break;
    }
    table[i] = static_cast<int32_t>(std::clamp(nearest, 0.0f, static_cast<float>(in - 1)));
  }
}

void make_bilinear_table(int64_t in, int64_t out, float scale, ResizeCoordinate coordinate,
                         ResizeTap* table) {
  for (int64_t i = 0; i < out; ++i) {
    const float at =
        std::clamp(coordinate_of(i, in, out, scale, coordinate), 0.0f, static_cast<float>(in - 1));
    const auto low = static_cast<int32_t>(at);
    const int32_t high = std::min(low + 1, static_cast<int32_t>(in - 1));
    table[i] = {low, high, at - static_cast<float>(low)};
  }
}

KernelList<Transpose2d> transpose_2d_kernels() {
  static const Kernel<Transpose2d> list[] = {
      {"transpose_2d_portable", Isa::portable, transpose_2d}};
  return list;
}
KernelList<CopyStrided> copy_strided_kernels() {
  static const Kernel<CopyStrided> list[] = {
      {"copy_strided_portable", Isa::portable, copy_strided}};
  return list;
}
KernelList<CopyRows> copy_rows_kernels() {
  static const Kernel<CopyRows> list[] = {{"copy_rows_portable", Isa::portable, copy_rows}};
  return list;
}
KernelList<Fill> fill_kernels() {
  static const Kernel<Fill> list[] = {{"fill_portable", Isa::portable, fill}};
  return list;
}
KernelList<GatherRows> gather_rows_kernels() {
  static const Kernel<GatherRows> list[] = {{"gather_rows_portable", Isa::portable, gather_rows}};
  return list;
}
KernelList<Choose> choose_kernels() {
  static const Kernel<Choose> list[] = {{"choose_portable", Isa::portable, choose}};
  return list;
}
KernelList<ResizeNearest> resize_nearest_kernels() {
  static const Kernel<ResizeNearest> list[] = {
      {"resize_nearest_portable", Isa::portable, resize_nearest}};
  return list;
}
KernelList<ResizeBilinear> resize_bilinear_kernels() {
  static const Kernel<ResizeBilinear> list[] = {
      {"resize_bilinear_portable", Isa::portable, resize_bilinear}};
  return list;
}

}  // namespace octavo::cpu
