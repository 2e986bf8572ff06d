#include "backends/cpu/quantized.h"

#include "backends/cpu/kernel_test.h"

namespace octavo::cpu {
namespace {

class Quantized : public KernelTest {
 protected:
  QuantizedBinary random_binary(std::vector<uint8_t>& a, std::vector<uint8_t>& b,
                                std::vector<uint8_t>& y) {
    QuantizedBinary args;
    args.count = pick(0, 5) ? pick(1, 200) : 50000;
    args.a_element = byte_element(), args.b_element = byte_element();
    args.y_element = pick(0, 3) ? byte_element() : Element::f32;
    args.a_zero_point = zero_point(args.a_element), args.b_zero_point = zero_point(args.b_element);
    if (args.y_element != Element::f32) args.y_zero_point = zero_point(args.y_element);
    args.a_multiplier = real(0, 1.5f), args.b_multiplier = real(0, 1.5f);
    if (pick(0, 9) == 0) args.a_multiplier = 1e38f;
    if (pick(0, 1)) args.clamp_lo = real(-60, 0);
    if (pick(0, 1)) args.clamp_hi = real(0, 60);
    a = bytes(args.count), b = bytes(args.count);
    y.resize(static_cast<size_t>(args.count * (args.y_element == Element::f32 ? 4 : 1)));
    args.a = a.data(), args.b = b.data(), args.y = y.data();
    return args;
  }
};

TEST_F(Quantized, AddIsExact) {
  std::vector<uint8_t> a, b, y;
  for (int i = 0; i < 100; ++i) {
    const QuantizedBinary args = random_binary(a, b, y);
    check_kernels(quantized_add_kernels(), args, y, [&] {
      for (size_t k = 0; k < a.size(); ++k) {
        const float fa = static_cast<float>(byte_value(args.a_element, a[k]) - args.a_zero_point) *
                         args.a_multiplier;
        const float fb = static_cast<float>(byte_value(args.b_element, b[k]) - args.b_zero_point) *
                         args.b_multiplier;
        ASSERT_EQ(element_at(args.y_element, y, k),
                  finish(fa + fb, args.clamp_lo, args.clamp_hi, args.y_element, args.y_zero_point));
      }
    });
    if (HasFatalFailure()) return;
  }
}

TEST_F(Quantized, MulIsExact) {
  std::vector<uint8_t> a, b, y;
  for (int i = 0; i < 100; ++i) {
    const QuantizedBinary args = random_binary(a, b, y);
    check_kernels(quantized_mul_kernels(), args, y, [&] {
      for (size_t k = 0; k < a.size(); ++k) {
        const int32_t product = (byte_value(args.a_element, a[k]) - args.a_zero_point) *
                                (byte_value(args.b_element, b[k]) - args.b_zero_point);
        const float f = static_cast<float>(product) * args.a_multiplier;
        ASSERT_EQ(element_at(args.y_element, y, k),
                  finish(f, args.clamp_lo, args.clamp_hi, args.y_element, args.y_zero_point));
      }
    });
    if (HasFatalFailure()) return;
  }
}

TEST_F(Quantized, LookupTouchesItsRowsOnly) {
  for (int i = 0; i < 60; ++i) {
    Lookup args{.rows = pick(1, 20), .row = pick(0, 5) ? pick(1, 150) : 70000};
    args.x_pitch = args.row + pick(0, 1) * pick(0, 9);
    args.y_pitch = args.row + pick(0, 1) * pick(0, 9);
    const auto table = bytes(256), x = bytes(args.rows * args.x_pitch);
    std::vector<uint8_t> y(static_cast<size_t>(args.rows * args.y_pitch));
    args.table = table.data(), args.x = x.data(), args.y = y.data();
    check_kernels(lookup_kernels(), args, y, [&] {
      for (int64_t r = 0; r < args.rows; ++r)
        for (int64_t k = 0; k < args.y_pitch; ++k)
          ASSERT_EQ(y[static_cast<size_t>(r * args.y_pitch + k)],
                    k < args.row ? table[x[static_cast<size_t>(r * args.x_pitch + k)]] : 0xa5);
    });
    if (HasFatalFailure()) return;
  }
}

TEST_F(Quantized, RequantizeTable) {
  for (int i = 0; i < 50; ++i) {
    const Element from = byte_element(), to = byte_element();
    const int32_t x_zero = zero_point(from), y_zero = zero_point(to);
    const float multiplier = real(0, 3);
    uint8_t table[256];
    make_requantize_table(from, x_zero, multiplier, to, y_zero, table);
    for (int byte = 0; byte < 256; ++byte) {
      const int32_t value = byte_value(from, static_cast<uint8_t>(byte));
      const float f = static_cast<float>(value - x_zero) * multiplier;
      ASSERT_EQ(byte_value(to, table[byte]), finish(f, -INFINITY, INFINITY, to, y_zero));
    }
  }
}

int32_t quantized(float x, float step, int32_t zero, Element e) {
  const double r = std::nearbyint(static_cast<double>(x / step));
  const double least = e == Element::u8 ? 0 : -128;
  return static_cast<int32_t>(std::clamp((std::isnan(r) ? 0 : r) + zero, least, least + 255));
}

TEST_F(Quantized, QuantizeAndBack) {
  for (int i = 0; i < 100; ++i) {
    Quantize args{.rows = pick(1, 30), .channels = pick(0, 9) ? pick(1, 100) : 20000};
    args.per_channel = pick(0, 1) > 0;
    args.element = byte_element();
    const auto count = static_cast<size_t>(args.per_channel ? args.channels : 1);
    std::vector<float> step(count);
    std::vector<int32_t> zero(count);
    for (float& s : step) s = real(0.01f, 0.1f);
    for (int32_t& z : zero) z = zero_point(args.element);
    std::vector<float> x = values(args.rows * args.channels, 4);
    for (float special : {NAN, INFINITY, -INFINITY, 3e38f, -3e38f, 1e10f})
      x[static_cast<size_t>(pick(0, static_cast<int64_t>(x.size()) - 1))] = special;
    // Halves.
    for (size_t k = 0; k < x.size(); k += 5)
      x[k] = step[args.per_channel ? k % count : 0] * (static_cast<float>(pick(-130, 130)) + 0.5f);
    std::vector<uint8_t> q(x.size());
    args.step = step.data(), args.zero_point = zero.data(), args.x = x.data(), args.q = q.data();
    const auto parameter = [&](size_t k) {
      return args.per_channel ? k % static_cast<size_t>(args.channels) : 0;
    };
    check_kernels(quantize_kernels(), args, q, [&] {
      for (size_t k = 0; k < x.size(); ++k)
        ASSERT_EQ(byte_value(args.element, q[k]),
                  quantized(x[k], step[parameter(k)], zero[parameter(k)], args.element))
            << x[k] << " / " << step[parameter(k)];
    });
    if (HasFatalFailure()) return;

    const std::vector<uint8_t> codes = bytes(args.rows * args.channels);
    std::vector<float> y(x.size());
    const Dequantize back{args.rows,   args.channels, args.per_channel, args.element,
                          step.data(), zero.data(),   codes.data(),     y.data()};
    check_kernels(dequantize_kernels(), back, y, [&] {
      for (size_t k = 0; k < y.size(); ++k) {
        const int32_t value = byte_value(args.element, codes[k]) - zero[parameter(k)];
        ASSERT_EQ(y[k], static_cast<float>(value) * step[parameter(k)]);
      }
    });
    if (HasFatalFailure()) return;
  }
}

TEST_F(Quantized, InputToNhwc) {
  for (int i = 0; i < 60; ++i) {
    QuantizeToNhwc args{
        .n = pick(1, 2), .channels = pick(1, 9), .pixels = pick(0, 5) ? pick(1, 100) : 9000};
    args.element = byte_element();
    args.step = real(0.01f, 0.1f);
    args.zero_point = zero_point(args.element);
    const auto x = values(args.n * args.channels * args.pixels, 4);
    std::vector<uint8_t> q(x.size());
    args.x = x.data(), args.q = q.data();
    check_kernels(quantize_to_nhwc_kernels(), args, q, [&] {
      size_t at = 0;
      for (int64_t n = 0; n < args.n; ++n)
        for (int64_t p = 0; p < args.pixels; ++p)
          for (int64_t c = 0; c < args.channels; ++c, ++at) {
            const float v = x[static_cast<size_t>((n * args.channels + c) * args.pixels + p)];
            ASSERT_EQ(byte_value(args.element, q[at]),
                      quantized(v, args.step, args.zero_point, args.element));
          }
    });
    if (HasFatalFailure()) return;
  }
}

// quantized.h's text, from ops/dynamic_quantize.cpp.
TEST_F(Quantized, DynamicQuantizeIsExact) {
  for (int i = 0; i < 60; ++i) {
    DynamicQuantize args;
    args.by_row = pick(0, 1) != 0;
    args.rows = pick(0, 5) ? pick(1, 9) : 300;
    args.columns = pick(0, 5) ? pick(1, 100) : 384;
    auto x = values(args.rows * args.columns, pick(0, 3) ? 1.0f : 1e-42f);
    for (float& v : x) {
      if (pick(0, 40) == 0) v = std::numeric_limits<float>::quiet_NaN();
      if (pick(0, 9) == 0) v = 0.5f;
    }
    const int64_t kind = pick(0, 9);
    if (kind == 0) x[0] = std::numeric_limits<float>::infinity();
    if (kind == 1) x[0] = -3e38f, x.back() = 3e38f;  // a range that overflows
    if (kind == 2) std::fill(x.begin(), x.end(), -0.0f);
    if (kind == 3)
      for (float& v : x) v = std::abs(v);
    if (kind == 4)
      for (float& v : x) v = -std::abs(v);
    const auto parameters = static_cast<size_t>(args.by_row ? args.rows : 1);
    const auto length = x.size() / parameters;
    std::vector<uint8_t> y(x.size()), zero(parameters);
    std::vector<float> scale(parameters);
    std::vector<float> scratch(
        static_cast<size_t>(dynamic_quantize_scratch(args.rows, args.columns)));
    args.x = x.data(), args.q = y.data(), args.scale = scale.data();
    args.zero_point = zero.data(), args.scratch = scratch.data();
    const auto whole = [](float v) { return std::isnan(v) ? 0.0f : std::nearbyint(v); };
    check_kernels(dynamic_quantize_kernels(), args, y, [&] {
      for (size_t r = 0; r < parameters; ++r) {
        float least = 0, most = 0;
        for (size_t k = r * length; k < (r + 1) * length; ++k) {
          if (x[k] < least) least = x[k];
          if (x[k] > most) most = x[k];
        }
        float step = (most - least) / 255.0f;
        if (!(step > 0)) step = 1;
        const float z = std::clamp(whole(-least / step), 0.0f, 255.0f);
        ASSERT_EQ(scale[r], step);
        ASSERT_EQ(static_cast<float>(zero[r]), z);
        for (size_t k = r * length; k < (r + 1) * length; ++k)
          ASSERT_EQ(static_cast<float>(y[k]), std::clamp(whole(x[k] / step) + z, 0.0f, 255.0f))
              << x[k];
      }
    });
    if (HasFatalFailure()) return;
  }
}

}  // namespace
}  // namespace octavo::cpu
