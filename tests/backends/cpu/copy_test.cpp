#include "backends/cpu/copy.h"

#include "backends/cpu/kernel_test.h"
#include "support/error.h"

namespace octavo::cpu {
namespace {

class Copy : public KernelTest {};

size_t at(int64_t i) { return static_cast<size_t>(i); }

TEST_F(Copy, Transpose2d) {
  for (int i = 0; i < 80; ++i) {
    Transpose2d args{
        .n = pick(1, 3), .rows = pick(1, 70), .columns = pick(0, 5) ? pick(1, 70) : 900};
    args.element_bytes = i % 2 ? 1 : 4;
    if (pick(0, 1)) std::swap(args.rows, args.columns);
    const auto bytes_each = static_cast<int64_t>(args.element_bytes);
    const auto x = bytes(args.n * args.rows * args.columns * bytes_each);
    std::vector<uint8_t> y(x.size());
    args.x = x.data(), args.y = y.data();
    check_kernels(transpose_2d_kernels(), args, y, [&] {
      for (int64_t n = 0; n < args.n; ++n)
        for (int64_t r = 0; r < args.rows; ++r)
          for (int64_t c = 0; c < args.columns; ++c)
            for (int64_t b = 0; b < bytes_each; ++b)
              ASSERT_EQ(x[at(((n * args.rows + r) * args.columns + c) * bytes_each + b)],
                        y[at(((n * args.columns + c) * args.rows + r) * bytes_each + b)]);
    });
    if (HasFatalFailure()) return;
  }
}

TEST_F(Copy, StridedTransposeOfAnyOrder) {
  for (int i = 0; i < 60; ++i) {
    CopyStrided args{.rank = static_cast<int>(pick(0, 5))};
    args.element_bytes = 1 << pick(0, 3);
    int64_t dims[8], order[8], steps[8], size = 1;
    for (int d = 0; d < args.rank; ++d) dims[d] = pick(1, 6), order[d] = d;
    std::shuffle(order, order + args.rank, random_);
    for (int d = args.rank - 1; d >= 0; --d) steps[d] = size, size *= dims[d];
    int64_t y_step = 1;
    for (int d = args.rank - 1; d >= 0; --d) {
      args.dims[d] = dims[order[d]];
      args.x_steps[d] = steps[order[d]];
      args.y_steps[d] = y_step;
      y_step *= args.dims[d];
    }
    const auto x = bytes(size * args.element_bytes);
    std::vector<uint8_t> y(x.size());
    args.x = x.data(), args.y = y.data();
    check_kernels(copy_strided_kernels(), args, y, [&] {
      for (int64_t k = 0; k < size; ++k) {
        int64_t rest = k, from = 0;
        for (int d = args.rank - 1; d >= 0; --d) {
          from += rest % args.dims[d] * args.x_steps[d];
          rest /= args.dims[d];
        }
        for (int b = 0; b < args.element_bytes; ++b)
          ASSERT_EQ(y[at(k * args.element_bytes + b)], x[at(from * args.element_bytes + b)]);
      }
    });
    if (HasFatalFailure()) return;
  }
}

// x[7:1:-2, 1:3] of [9, 4], into the inside of a padded [5, 4].
TEST_F(Copy, SliceBackwardsIntoAPaddedTensor) {
  const auto x = values(36);
  const float padding = -1;
  std::vector<float> y(20);
  ThreadPool pool(2);
  fill_kernels()[0].run({20, 4, &padding, y.data()}, pool);
  copy_strided_kernels()[0].run({.rank = 2,
                                 .dims = {3, 2},
                                 .x_steps = {-8, 1},
                                 .y_steps = {4, 1},
                                 .element_bytes = 4,
                                 .x = x.data() + 7 * 4 + 1,
                                 .y = y.data() + 4 + 1},
                                pool);
  for (int64_t r = 0; r < 5; ++r)
    for (int64_t c = 0; c < 4; ++c) {
      const bool inside = r >= 1 && r < 4 && c >= 1 && c < 3;
      EXPECT_EQ(y[at(r * 4 + c)], inside ? x[at((7 - 2 * (r - 1)) * 4 + c)] : padding);
    }
}

TEST_F(Copy, RowsLeaveTheGapsAlone) {
  for (int i = 0; i < 40; ++i) {
    CopyRows args{.rows = pick(1, 50), .row_bytes = pick(1, 200)};
    args.x_pitch = args.row_bytes + pick(0, 1) * pick(0, 50);
    args.y_pitch = args.row_bytes + pick(0, 1) * pick(0, 50);
    const auto x = bytes(args.rows * args.x_pitch);
    std::vector<uint8_t> y(at(args.rows * args.y_pitch));
    args.x = x.data(), args.y = y.data();
    check_kernels(copy_rows_kernels(), args, y, [&] {
      for (int64_t r = 0; r < args.rows; ++r)
        for (int64_t k = 0; k < args.y_pitch; ++k)
          ASSERT_EQ(y[at(r * args.y_pitch + k)],
                    k < args.row_bytes ? x[at(r * args.x_pitch + k)] : 0xa5);
    });
    if (HasFatalFailure()) return;
  }
}

TEST_F(Copy, GatherCountsFromEitherEndAndRefusesTheRest) {
  const auto x = bytes(10 * 7);
  std::vector<int64_t> indices = {0, 9, -1, -10, 4, 4};
  std::vector<uint8_t> y(indices.size() * 7);
  GatherRows args{10, 7, static_cast<int64_t>(indices.size()), indices.data(), x.data(), y.data()};
  check_kernels(gather_rows_kernels(), args, y, [&] {
    for (size_t i = 0; i < indices.size(); ++i)
      for (size_t k = 0; k < 7; ++k) ASSERT_EQ(y[i * 7 + k], x[at((indices[i] + 10) % 10) * 7 + k]);
  });
  ThreadPool pool(1);
  for (int64_t bad : {int64_t{10}, int64_t{-11}, INT64_MAX, INT64_MIN}) {
    indices[2] = bad;
    EXPECT_THROW(gather_rows_kernels()[0].run(args, pool), UserError);
  }
}

TEST_F(Copy, ResizeNearest) {
  // ONNX's example: half pixels, prefer floor, [1, 2, 3, 4] to 7 and back to 2.
  int32_t table[7];
  make_nearest_table(4, 7, 7.0f / 4, ResizeCoordinate::half_pixel, ResizeRound::prefer_floor,
                     table);
  EXPECT_EQ(std::vector<int32_t>(table, table + 7), (std::vector<int32_t>{0, 0, 1, 1, 2, 3, 3}));
  make_nearest_table(4, 7, 7.0f / 4, ResizeCoordinate::align_corners, ResizeRound::ceil, table);
  EXPECT_EQ(std::vector<int32_t>(table, table + 7), (std::vector<int32_t>{0, 1, 1, 2, 2, 3, 3}));
  for (int64_t pixel_bytes : {1, 3, 4, 20}) {
    const int32_t rows[] = {0, 0, 1, 2, 2}, columns[] = {3, 1, 0};
    const auto x = bytes(2 * 3 * 4 * pixel_bytes);
    std::vector<uint8_t> y(at(2 * 5 * 3 * pixel_bytes));
    ResizeNearest args{2, 3, 4, 5, 3, pixel_bytes, rows, columns, x.data(), y.data()};
    check_kernels(resize_nearest_kernels(), args, y, [&] {
      for (int64_t i = 0; i < 30; ++i)
        for (int64_t b = 0; b < pixel_bytes; ++b) {
          const int64_t from = (i / 15 * 3 + rows[i / 3 % 5]) * 4 + columns[i % 3];
          ASSERT_EQ(y[at(i * pixel_bytes + b)], x[at(from * pixel_bytes + b)]);
        }
    });
  }
}

TEST_F(Copy, ResizeBilinear) {
  ResizeTap rows[5], columns[9];
  make_bilinear_table(3, 5, 5.0f / 3, ResizeCoordinate::half_pixel, rows);
  make_bilinear_table(4, 9, 9.0f / 4, ResizeCoordinate::align_corners, columns);
  const auto x = values(2 * 3 * 4 * 19);
  std::vector<float> y(2 * 5 * 9 * 19);
  ResizeBilinear args{2, 3, 4, 5, 9, 19, rows, columns, x.data(), y.data()};
  check_kernels(resize_bilinear_kernels(), args, y, [&] {
    for (int64_t i = 0; i < static_cast<int64_t>(y.size()); ++i) {
      const int64_t c = i % 19, ox = i / 19 % 9, oy = i / 19 / 9 % 5, n = i / 19 / 9 / 5;
      const double v = std::clamp((static_cast<double>(oy) + 0.5) * 3 / 5 - 0.5, 0.0, 2.0);
      const double u = static_cast<double>(ox) * 3 / 8;
      const auto pixel = [&](int64_t h, int64_t w) {
        return static_cast<double>(
            x[at(((n * 3 + std::min<int64_t>(h, 2)) * 4 + std::min<int64_t>(w, 3)) * 19 + c)]);
      };
      const auto h = static_cast<int64_t>(v), w = static_cast<int64_t>(u);
      const double p = v - static_cast<double>(h), q = u - static_cast<double>(w);
      const double parts[] = {(1 - p) * (1 - q) * pixel(h, w), (1 - p) * q * pixel(h, w + 1),
                              p * (1 - q) * pixel(h + 1, w), p * q * pixel(h + 1, w + 1)};
      double want = 0, largest = 0;
      for (double part : parts) want += part;
      for (int64_t k : {0, 1})
        for (int64_t j : {0, 1}) largest = std::max(largest, std::abs(pixel(h + k, w + j)));
      // Coordinates up to 3 carry 4 roundings of up to 2 epsilon; then 6 roundings of weights and
      // sums.
      ASSERT_LE(std::abs(y[at(i)] - want), (2 * 2 * 8 + 6) * FLT_EPSILON * largest) << i;
    }
  });
}

}  // namespace
}  // namespace octavo::cpu
