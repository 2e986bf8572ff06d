// Every INT8 convolution kernel against a naive one written from conv.h's text: bit for bit, on
// every instruction set of this machine, for any number of threads.
#include "backends/cpu/conv_int8.h"

#include <gtest/gtest.h>
#include <sys/mman.h>

#include <cmath>
#include <cstring>
#include <random>

#include "support/allocations.h"

namespace octavo::cpu {
namespace {

// Memory that ends where its page ends, before one that may not be touched: a vector that reads or
// writes beyond it faults.
class Guarded {
 public:
  Guarded() = default;
  explicit Guarded(size_t size) : size_(size) {
    const size_t page = 4096;
    mapped_ = (size + page - 1) / page * page + page;
    void* p = mmap(nullptr, mapped_, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (p == MAP_FAILED) throw std::bad_alloc();
    base_ = static_cast<uint8_t*>(p);
    mprotect(base_ + mapped_ - page, page, PROT_NONE);
  }
  Guarded(Guarded&& o) noexcept { *this = std::move(o); }
  Guarded& operator=(Guarded&& o) noexcept {
    std::swap(base_, o.base_);
    std::swap(mapped_, o.mapped_);
    std::swap(size_, o.size_);
    return *this;
  }
  ~Guarded() {
    if (base_) munmap(base_, mapped_);
  }
  uint8_t* data() const { return base_ ? base_ + mapped_ - 4096 - size_ : nullptr; }
  size_t size() const { return size_; }
  bool empty() const { return size_ == 0; }
  uint8_t& operator[](size_t i) const { return data()[i]; }
  uint8_t* begin() const { return data(); }
  uint8_t* end() const { return data() + size_; }

 private:
  uint8_t* base_ = nullptr;
  size_t mapped_ = 0, size_ = 0;
};

// A problem with its data.
struct Case {
  ConvProblem p;
  std::vector<int8_t> weights;
  std::vector<int32_t> bias;
  std::vector<float> multiplier;
  Guarded x, residual;
  std::vector<float> float_bias, x_scale;  // dynamic: of all of x, or of each pixel
  std::vector<uint8_t> x_zero;

  bool dynamic() const { return p.dynamic != ConvProblem::Dynamic::no; }
  int64_t pixels() const { return p.shape.n * p.shape.oh * p.shape.ow; }
  size_t y_bytes() const {
    return static_cast<size_t>(pixels() * p.shape.c_out * (p.y == Element::f32 ? 4 : 1));
  }
};

int32_t element(Element e, const Guarded& bytes, int64_t i) {
  const uint8_t byte = bytes[static_cast<size_t>(i)];
  return e == Element::s8 ? static_cast<int8_t>(byte) : byte;
}

// conv.h's text, a line at a time.
std::vector<uint8_t> expected(const Case& c) {
  const ConvProblem& p = c.p;
  const ConvShape& s = p.shape;
  const int64_t in = s.c_in / s.groups, out = s.c_out / s.groups;
  std::vector<uint8_t> y(c.y_bytes());
  int64_t at = 0;
  for (int64_t n = 0; n < s.n; ++n)
    for (int64_t oy = 0; oy < s.oh; ++oy)
      for (int64_t ox = 0; ox < s.ow; ++ox)
        for (int64_t oc = 0; oc < s.c_out; ++oc, ++at) {
          const auto pixel = static_cast<size_t>(at / s.c_out);
          const size_t scale_at = p.dynamic == ConvProblem::Dynamic::row ? pixel : 0;
          const int32_t zero = c.dynamic() ? c.x_zero[scale_at] : p.x_zero_point;
          int64_t sum = p.bias_i32 && !c.dynamic() ? p.bias_i32[oc] : 0;
          for (int64_t ky = 0; ky < s.kh; ++ky)
            for (int64_t kx = 0; kx < s.kw; ++kx) {
              const int64_t iy = oy * s.stride_h + ky * s.dilation_h - s.pad_top;
              const int64_t ix = ox * s.stride_w + kx * s.dilation_w - s.pad_left;
              if (iy < 0 || iy >= s.h || ix < 0 || ix >= s.w) continue;
              for (int64_t ci = 0; ci < in; ++ci) {
                const int64_t i = ((n * s.h + iy) * s.w + ix) * s.c_in + oc / out * in + ci;
                const int64_t w = ((oc * in + ci) * s.kh + ky) * s.kw + kx;
                sum += static_cast<int64_t>(element(p.x, c.x, i) - zero) *
                       c.weights[static_cast<size_t>(w)];
              }
            }
          float by = p.multiplier[oc];
          if (c.dynamic()) by = c.x_scale[scale_at] * by;
          float f = static_cast<float>(static_cast<int32_t>(sum)) * by;
          if (c.dynamic() && p.bias) f = f + p.bias[oc];
          if (p.residual) {
            float r;
            if (*p.residual == Element::f32)
              std::memcpy(&r, c.residual.data() + at * 4, 4);
            else
              r = static_cast<float>(element(*p.residual, c.residual, at) - p.residual_zero_point);
            r = r * p.residual_multiplier;
            f = f + r;
          }
          f = f < 0 ? f * p.negative_slope : f;
          f = f > p.clamp_lo ? f : p.clamp_lo;
          f = f < p.clamp_hi ? f : p.clamp_hi;
          if (p.y == Element::f32) {
            std::memcpy(y.data() + at * 4, &f, 4);
          } else {
            const double lo = p.y == Element::u8 ? 0 : -128;
            const double v = std::nearbyint(static_cast<double>(f)) + p.y_zero_point;
            y[static_cast<size_t>(at)] =
                static_cast<uint8_t>(static_cast<int>(std::clamp(v, lo, lo + 255)));
          }
        }
  return y;
}

class Generator {
 public:
  explicit Generator(uint64_t seed) : random_(seed) {}

  int64_t below(int64_t n) { return static_cast<int64_t>(random_() % static_cast<uint64_t>(n)); }
  int64_t between(int64_t a, int64_t b) { return a + below(b - a + 1); }
  bool one_in(int64_t n) { return below(n) == 0; }
  template <class T>
  T of(std::initializer_list<T> list) {
    return list.begin()[below(static_cast<int64_t>(list.size()))];
  }

  ConvShape shape() {
    ConvShape s;
    s.kh = one_in(3) ? 1 : between(1, 7);
    s.kw = one_in(2) ? s.kh : between(1, 7);
    s.stride_h = between(1, 3);
    s.stride_w = one_in(2) ? s.stride_h : between(1, 3);
    s.dilation_h = one_in(4) ? between(1, 3) : 1;
    s.dilation_w = one_in(4) ? between(1, 3) : 1;
    s.n = between(1, 2);
    s.h = between(1, 19);
    s.w = between(1, 19);
    switch (below(6)) {
      case 0:  // depthwise
        s.groups = s.c_in = s.c_out = of<int64_t>({2, 16, 31, 32, 33, 64, 65, 96, 100, 144, 200});
        break;
      case 1:
        s.groups = between(2, 5);
        s.c_in = s.groups * between(1, 20);
        s.c_out = s.groups * between(1, 40);
        break;
      case 2:  // pointwise
        s.kh = s.kw = s.stride_h = s.stride_w = 1;
        [[fallthrough]];
      default:
        s.c_in = one_in(2) ? between(1, 12) : between(1, 130);
        s.c_out = one_in(2) ? between(1, 40) : between(1, 150);
    }
    const bool pad = s.kh * s.kw > 1 ? !one_in(4) : one_in(8);
    int64_t pads[4] = {};  // top, left, bottom, right
    if (pad)
      for (int64_t& v : pads) v = below(4);
    // At least one output pixel.
    s.h = std::max(s.h, (s.kh - 1) * s.dilation_h + 1 - pads[0] - pads[2]);
    s.w = std::max(s.w, (s.kw - 1) * s.dilation_w + 1 - pads[1] - pads[3]);
    s.pad_top = pads[0];
    s.pad_left = pads[1];
    s.oh = (s.h + pads[0] + pads[2] - (s.kh - 1) * s.dilation_h - 1) / s.stride_h + 1;
    s.ow = (s.w + pads[1] + pads[3] - (s.kw - 1) * s.dilation_w - 1) / s.stride_w + 1;
    return s;
  }

  int32_t zero_point(Element e) {
    if (e == Element::f32) return 0;
    const auto v = static_cast<int32_t>(of<int64_t>({0, 128, 255, 1, below(256)}));
    return e == Element::u8 ? v : v - 128;
  }

  void fill(Guarded& bytes, size_t size) {
    bytes = Guarded(size);
    const int64_t kind = below(4);  // extremes show saturation inside the dot product
    for (uint8_t& b : bytes)
      b = static_cast<uint8_t>(kind == 0   ? 255
                               : kind == 1 ? of<int64_t>({0, 255, 127, 128})
                                           : below(256));
  }

  void make_dynamic(Case& c) {
    ConvProblem& p = c.p;
    const ConvShape& s = p.shape;
    using Dynamic = ConvProblem::Dynamic;
    const bool matrix = s.kh == 1 && s.kw == 1 && s.stride_h == 1 && s.stride_w == 1 &&
                        s.oh == s.h && s.ow == s.w && s.pad_top == 0 && s.pad_left == 0;
    p.dynamic = matrix && one_in(2) ? Dynamic::row : Dynamic::tensor;
    p.x = Element::u8;
    p.y = Element::f32;
    p.x_zero_point = p.y_zero_point = 0;
    if (p.residual && *p.residual != Element::f32) p.residual.reset();
    for (int64_t i = 0; i < (p.dynamic == Dynamic::row ? c.pixels() : 1); ++i) {
      c.x_scale.push_back(static_cast<float>(between(1, 1000)) / 997);
      c.x_zero.push_back(static_cast<uint8_t>(of<int64_t>({0, 128, 255, 1, below(256)})));
    }
    for (int64_t i = 0; i < s.c_out; ++i)
      c.float_bias.push_back(static_cast<float>(between(-5000, 5000)) / 611);
    if (!one_in(4)) p.bias = c.float_bias.data();
  }

  void make(Case& c, const ConvShape& s) {
    ConvProblem& p = c.p;
    p.shape = s;
    p.x = of({Element::u8, Element::s8});
    p.y = of({Element::u8, Element::s8, Element::u8, Element::s8, Element::f32});
    const auto count = static_cast<size_t>(s.c_in / s.groups * s.kh * s.kw * s.c_out);
    const int64_t kind = below(4);
    c.weights.resize(count);
    for (int8_t& w : c.weights)
      w = static_cast<int8_t>(kind == 0   ? -128
                              : kind == 1 ? of<int64_t>({-128, 127})
                                          : between(-128, 127));
    fill(c.x, static_cast<size_t>(s.n * s.h * s.w * s.c_in));
    p.weights = c.weights.data();
    p.x_zero_point = zero_point(p.x);
    p.y_zero_point = zero_point(p.y);
    const int64_t taps = s.c_in / s.groups * s.kh * s.kw;
    const double depth = static_cast<double>(taps);
    const bool steep = one_in(8);  // multipliers of 1 and more
    const bool wrap = one_in(10);  // sums that leave int32
    for (int64_t i = 0; i < s.c_out; ++i) {
      c.bias.push_back(static_cast<int32_t>(
          wrap ? of<int64_t>({INT32_MAX, INT32_MIN, INT32_MAX - 1000}) : between(-20000, 20000)));
      const double unit = static_cast<double>(between(1, 1000)) / 1000;
      c.multiplier.push_back(
          static_cast<float>(steep ? unit * 5000 : unit / (30 * std::sqrt(depth))));
      if (one_in(50)) c.multiplier.back() = -c.multiplier.back();
      if (one_in(10)) c.multiplier.back() = 0.5f;  // ties
    }
    p.multiplier = c.multiplier.data();
    if (!one_in(5)) p.bias_i32 = c.bias.data();
    if (one_in(3)) {
      p.residual = of({Element::u8, Element::s8, Element::f32});
      p.residual_zero_point = zero_point(*p.residual);
      p.residual_multiplier = of({0.5f, 1.0f, 0.7371f, 3.25e5f, -0.1f});
      const auto values = static_cast<size_t>(c.pixels() * s.c_out);
      if (*p.residual == Element::f32) {
        c.residual = Guarded(values * 4);
        for (size_t i = 0; i < values; ++i) {
          const float r = static_cast<float>(between(-4000, 4000)) * 0.0625f;
          std::memcpy(c.residual.data() + i * 4, &r, 4);
        }
      } else {
        fill(c.residual, values);
      }
    }
    if (one_in(3)) make_dynamic(c);
    if (one_in(3)) p.negative_slope = of({0.1f, 0.3f, 1e-3f});
    if (one_in(2)) p.clamp_lo = of({0.0f, -3.5f, 2.5f, -130.25f, 300.0f});
    if (one_in(2)) p.clamp_hi = of({6.0f, 100.5f, 101.5f, 254.75f, 1e9f, -400.0f});
  }

 private:
  std::mt19937_64 random_;
};

std::string describe(const Case& c) {
  const ConvShape& s = c.p.shape;
  return fmt::format(
      "n {} in {}x{}x{} out {}x{}x{} kernel {}x{} stride {}x{} pad {},{} dilation {}x{} groups {} "
      "x {} "
      "y {} residual {} zero points {} {} {} slope {} clamp {} {} "
      "dynamic {}",
      s.n, s.h, s.w, s.c_in, s.oh, s.ow, s.c_out, s.kh, s.kw, s.stride_h, s.stride_w, s.pad_top,
      s.pad_left, s.dilation_h, s.dilation_w, s.groups, static_cast<int>(c.p.x),
      static_cast<int>(c.p.y), c.p.residual ? static_cast<int>(*c.p.residual) : -1,
      c.p.x_zero_point, c.p.y_zero_point, c.p.residual_zero_point, c.p.negative_slope, c.p.clamp_lo,
      c.p.clamp_hi, static_cast<int>(c.p.dynamic));
}

Guarded run(const ConvKernel& kernel, const Case& c, ThreadPool& pool) {
  Guarded y(c.y_bytes());
  const Guarded scratch((kernel.scratch_bytes(pool.size()) + 63) / 64 * 64);
  std::fill(scratch.begin(), scratch.end(), uint8_t{0xa5});
  std::fill(y.begin(), y.end(), uint8_t{0x5a});
  const ConvArgs args{c.x.data(),     c.residual.data(), y.data(),
                      scratch.data(), c.x_scale.data(),  c.x_zero.data()};
  const int64_t before = allocations();
  kernel.run(args, pool);
  EXPECT_EQ(allocations(), before) << kernel.name() << " allocated";
  return y;
}

void check(const ConvKernel& kernel, const Case& c, const std::vector<uint8_t>& want) {
  static ThreadPool pools[] = {ThreadPool(1), ThreadPool(2), ThreadPool(3)};
  for (ThreadPool& pool : pools) {
    const auto got = run(kernel, c, pool);
    const auto at = std::mismatch(got.begin(), got.end(), want.begin()).first - got.begin();
    ASSERT_TRUE(std::equal(got.begin(), got.end(), want.begin()))
        << kernel.name() << ", " << pool.size() << " threads, byte " << at << " of " << got.size()
        << ": " << describe(c);
  }
}

// Every implementation that accepts the problem, for 1, 2 and 3 threads.
void check(const Case& c) {
  const std::vector<uint8_t> want = expected(c);
  bool any = false;
  for (const ConvImplementation& implementation : conv_int8_list()) {
    if (hardware_isa() < implementation.isa) continue;
    std::string why;
    const auto kernel = implementation.create(c.p, why);
    if (!kernel) {
      EXPECT_FALSE(why.empty()) << implementation.name;
      continue;
    }
    any = any || implementation.isa == Isa::portable;
    EXPECT_EQ(kernel->isa(), implementation.isa);
    EXPECT_STREQ(kernel->name(), implementation.name);
    check(*kernel, c, want);
  }
  std::string why;
  if (hardware_isa() >= Isa::vnni)
    if (const auto emulated = make_emulated_amx_int8(c.p, why)) check(*emulated, c, want);
  EXPECT_TRUE(any) << describe(c);
}

TEST(ConvInt8, EveryKernelEqualsTheNaiveOneOnRandomProblems) {
  const char* text = std::getenv("OCTAVO_TEST_SEED");
  const uint64_t seed = text ? std::strtoull(text, nullptr, 10) : std::random_device{}();
  RecordProperty("seed", std::to_string(seed));
  SCOPED_TRACE(fmt::format("OCTAVO_TEST_SEED={}", seed));
  Generator generator(seed);
  for (int i = 0; i < 250 && !::testing::Test::HasFailure(); ++i) {
    Case c;
    generator.make(c, generator.shape());
    check(c);
  }
}

// The shapes that networks have, thinned: every path and tail of the fast kernels.
TEST(ConvInt8, LayersOfRealNetworks) {
  struct Layer {
    int64_t size, c_in, c_out, kernel, stride, groups;
  };
  Generator generator(1);
  for (const Layer& l : std::initializer_list<Layer>{{32, 3, 32, 3, 2, 1},
                                                     {28, 32, 32, 3, 1, 32},
                                                     {28, 16, 96, 1, 1, 1},
                                                     {28, 96, 96, 3, 2, 96},
                                                     {14, 144, 24, 1, 1, 1},
                                                     {14, 144, 144, 5, 2, 144},
                                                     {14, 240, 240, 5, 1, 240},
                                                     {7, 672, 192, 1, 1, 1},
                                                     {7, 1152, 1152, 5, 1, 1152},
                                                     {7, 1152, 320, 1, 1, 1},
                                                     {1, 1280, 1000, 1, 1, 1},
                                                     {14, 64, 64, 3, 1, 1},
                                                     {23, 3, 64, 7, 2, 1},
                                                     {14, 64, 256, 1, 2, 1},
                                                     {20, 96, 96, 7, 1, 96}}) {
    ConvShape s;
    s.h = s.w = l.size;
    s.c_in = l.c_in;
    s.c_out = l.c_out;
    s.kh = s.kw = l.kernel;
    s.stride_h = s.stride_w = l.stride;
    s.groups = l.groups;
    s.pad_top = s.pad_left = l.kernel / 2;
    s.oh = s.ow = (l.size + 2 * (l.kernel / 2) - l.kernel) / l.stride + 1;
    for (int i = 0; i < 3; ++i) {
      Case c;
      generator.make(c, s);
      check(c);
    }
  }
}

TEST(ConvInt8, DeclinesSayWhyAndTheBestIsTaken) {
  Generator generator(2);
  Case c;
  ConvShape s;
  s.w = s.ow = 5;
  s.c_in = s.c_out = 16;
  generator.make(c, s);
  std::vector<Declined> declined;
  const auto kernel = make_conv(c.p, &declined);
  ASSERT_NE(kernel, nullptr);
  EXPECT_LE(kernel->isa(), best_isa());
  for (const Declined& d : declined) EXPECT_FALSE(d.reason.empty()) << d.kernel;
  c.p.x_zero_point = 1000;
  EXPECT_EQ(make_conv(c.p), nullptr);
}

}  // namespace
}  // namespace octavo::cpu
