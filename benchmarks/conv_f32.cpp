// FP32 convolutions of EfficientNet-Lite0 and ResNet-50, as parts of the FMA peak measured beside
// each. Usage: bench_conv_f32 [--isa NAME] [--threads N] [--filter TEXT] [--repeats N]
#include <immintrin.h>

#include <algorithm>
#include <cstdio>
#include <cstring>
#include <ctime>
#include <string>
#include <vector>

#include "backends/cpu/conv.h"
#include "support/buffer.h"

namespace octavo::cpu {
namespace {

// One thread: its processor time, so that others on the machine count less.
double seconds(bool alone) {
  timespec t;
  clock_gettime(alone ? CLOCK_THREAD_CPUTIME_ID : CLOCK_MONOTONIC, &t);
  return static_cast<double>(t.tv_sec) + 1e-9 * static_cast<double>(t.tv_nsec);
}

// 12 independent chains of the widest FMA that `isa` has; portable: a multiply and an add.
#define OCTAVO_FMA_CHAINS(type, set, fma, store)                   \
  type acc[12];                                                    \
  for (int c = 0; c < 12; ++c) acc[c] = set(1.0f + c);             \
  const type x = set(0.999f), y = set(1e-3f);                      \
  for (int64_t i = 0; i < turns; ++i)                              \
    _Pragma("GCC unroll 12") for (auto& a : acc) a = fma(a, x, y); \
  float sink[16], sum = 0;                                         \
  for (const auto& a : acc) store(sink, a), sum += sink[0];        \
  return sum;

__attribute__((target("avx512f"))) float chains_avx512(int64_t turns) {
  OCTAVO_FMA_CHAINS(__m512, _mm512_set1_ps, _mm512_fmadd_ps, _mm512_storeu_ps)
}
__attribute__((target("avx2,fma"))) float chains_avx2(int64_t turns){
    OCTAVO_FMA_CHAINS(__m256, _mm256_set1_ps, _mm256_fmadd_ps, _mm256_storeu_ps)} __m128
    multiply_add(__m128 a, __m128 x, __m128 y) {
  return _mm_add_ps(_mm_mul_ps(a, x), y);
}
float chains_portable(int64_t turns) {
  OCTAVO_FMA_CHAINS(__m128, _mm_set1_ps, multiply_add, _mm_storeu_ps)
}

// Floating-point operations a second of `pool`'s threads together.
double peak(Isa isa, ThreadPool& pool) {
  constexpr int64_t turns = 60000;
  const int width = isa >= Isa::avx512 ? 16 : isa == Isa::avx2 ? 8 : 4;
  volatile float sink = 0;
  auto task = [&](int64_t, int) {
    sink = isa >= Isa::avx512 ? chains_avx512(turns)
           : isa == Isa::avx2 ? chains_avx2(turns)
                              : chains_portable(turns);
  };
  const double start = seconds(pool.size() == 1);
  pool.run(pool.size(), task);
  return 2.0 * 12 * width * turns * pool.size() / (seconds(pool.size() == 1) - start);
}

struct Layer {
  const char* name;
  ConvShape shape;
};

ConvShape conv(int64_t size, int64_t c_in, int64_t c_out, int64_t k, int64_t stride = 1,
               int64_t groups = 1) {
  ConvShape s;
  s.h = s.w = size;
  s.c_in = c_in, s.c_out = c_out;
  s.kh = s.kw = k;
  s.stride_h = s.stride_w = stride;
  s.pad_top = s.pad_left = (k - 1) / 2;
  s.oh = s.ow = (size + stride - 1) / stride;
  s.groups = groups;
  return s;
}
ConvShape depthwise(int64_t size, int64_t c, int64_t k, int64_t stride = 1) {
  return conv(size, c, c, k, stride, c);
}

std::vector<Layer> layers() {
  return {
      {"lite0 stem", conv(224, 3, 32, 3, 2)},       {"lite0 dw", depthwise(112, 32, 3)},
      {"lite0 1x1", conv(112, 32, 16, 1)},          {"lite0 1x1", conv(112, 16, 96, 1)},
      {"lite0 dw", depthwise(112, 96, 3, 2)},       {"lite0 1x1", conv(56, 96, 24, 1)},
      {"lite0 1x1", conv(56, 24, 144, 1)},          {"lite0 dw", depthwise(56, 144, 3)},
      {"lite0 1x1", conv(56, 144, 24, 1)},          {"lite0 dw", depthwise(56, 144, 5, 2)},
      {"lite0 1x1", conv(28, 144, 40, 1)},          {"lite0 1x1", conv(28, 40, 240, 1)},
      {"lite0 dw", depthwise(28, 240, 5)},          {"lite0 1x1", conv(28, 240, 40, 1)},
      {"lite0 dw", depthwise(28, 240, 3, 2)},       {"lite0 1x1", conv(14, 240, 80, 1)},
      {"lite0 1x1", conv(14, 80, 480, 1)},          {"lite0 dw", depthwise(14, 480, 3)},
      {"lite0 dw", depthwise(14, 480, 5)},          {"lite0 1x1", conv(14, 480, 112, 1)},
      {"lite0 1x1", conv(14, 112, 672, 1)},         {"lite0 dw", depthwise(14, 672, 5)},
      {"lite0 1x1", conv(14, 672, 112, 1)},         {"lite0 dw", depthwise(14, 672, 5, 2)},
      {"lite0 1x1", conv(7, 672, 192, 1)},          {"lite0 1x1", conv(7, 192, 1152, 1)},
      {"lite0 dw", depthwise(7, 1152, 5)},          {"lite0 1x1", conv(7, 1152, 192, 1)},
      {"lite0 1x1", conv(7, 1152, 320, 1)},         {"lite0 1x1", conv(7, 320, 1280, 1)},
      {"lite0 gemv", conv(1, 1280, 1000, 1)},       {"resnet50 stem", conv(224, 3, 64, 7, 2)},
      {"resnet50 1x1", conv(56, 64, 64, 1)},        {"resnet50 3x3", conv(56, 64, 64, 3)},
      {"resnet50 1x1", conv(56, 64, 256, 1)},       {"resnet50 1x1", conv(56, 256, 64, 1)},
      {"resnet50 3x3/2", conv(56, 128, 128, 3, 2)}, {"resnet50 1x1/2", conv(56, 256, 512, 1, 2)},
      {"resnet50 3x3", conv(28, 128, 128, 3)},      {"resnet50 1x1", conv(28, 128, 512, 1)},
      {"resnet50 1x1", conv(28, 512, 128, 1)},      {"resnet50 3x3", conv(14, 256, 256, 3)},
      {"resnet50 1x1", conv(14, 256, 1024, 1)},     {"resnet50 1x1", conv(14, 1024, 256, 1)},
      {"resnet50 3x3", conv(7, 512, 512, 3)},       {"resnet50 1x1", conv(7, 512, 2048, 1)},
      {"resnet50 1x1", conv(7, 2048, 512, 1)},      {"resnet50 gemv", conv(1, 2048, 1000, 1)},
  };
}

double median(std::vector<double> v) {
  std::nth_element(v.begin(), v.begin() + static_cast<int64_t>(v.size() / 2), v.end());
  return v[v.size() / 2];
}

int main_of(int argc, char** argv) {
  int threads = 1, repeats = 21;
  std::string filter;
  for (int i = 1; i + 1 < argc; i += 2) {
    const std::string key = argv[i], value = argv[i + 1];
    if (key == "--isa") set_isa_limit(parse_isa(value));
    if (key == "--threads") threads = std::stoi(value);
    if (key == "--filter") filter = value;
    if (key == "--repeats") repeats = std::stoi(value);
  }
  ThreadPool pool(threads);
  printf("%-15s %5s %5s %6s %2s %-22s %9s %9s %6s %6s\n", "layer", "size", "c_in", "c_out", "k",
         "kernel", "us", "GFLOP/s", "peak", "%");
  for (const Layer& layer : layers()) {
    if (std::string(layer.name).find(filter) == std::string::npos) continue;
    const ConvShape& s = layer.shape;
    const auto count = [](int64_t n) { return static_cast<size_t>(n); };
    const std::vector<float> weights(count(s.c_out * s.c_in / s.groups * s.kh * s.kw), 0.5f);
    const std::vector<float> bias(count(s.c_out), 0.1f), x(count(s.h * s.w * s.c_in), 0.25f);
    std::vector<float> y(count(s.oh * s.ow * s.c_out));
    ConvProblem problem;
    problem.shape = s;
    problem.weights = weights.data();
    problem.bias = bias.data();
    problem.clamp_lo = 0;
    problem.clamp_hi = 6;
    const auto kernel = make_conv(problem);
    const auto scratch = Buffer::allocate(kernel->scratch_bytes(threads));
    const ConvArgs args{x.data(), nullptr, y.data(), scratch->mutable_data()};
    const double flops = 2.0 * static_cast<double>(s.oh * s.ow * s.c_out) *
                         static_cast<double>(s.kh * s.kw * s.c_in / s.groups);
    // Calls in one measurement: about 1 ms, so that interruptions stay out of the median.
    const double rough = peak(kernel->isa(), pool);
    const int calls = std::max(1, static_cast<int>(1e-3 / (flops / rough)));
    std::vector<double> times, ratios, peaks;
    for (int i = 0; i < repeats; ++i) {
      const double before = peak(kernel->isa(), pool), start = seconds(threads == 1);
      for (int call = 0; call < calls; ++call) kernel->run(args, pool);
      const double time = (seconds(threads == 1) - start) / calls;
      const double best = std::max(before, peak(kernel->isa(), pool));
      times.push_back(time);
      peaks.push_back(best);
      ratios.push_back(flops / time / best);
    }
    printf("%-15s %5d %5d %6d %2d %-22s %9.1f %9.1f %6.1f %5.0f%%\n", layer.name,
           static_cast<int>(s.h), static_cast<int>(s.c_in), static_cast<int>(s.c_out),
           static_cast<int>(s.kh), kernel->name(), median(times) * 1e6, flops / median(times) / 1e9,
           median(peaks) / 1e9, median(ratios) * 100);
    fflush(stdout);
  }
  return 0;
}

}  // namespace
}  // namespace octavo::cpu

int main(int argc, char** argv) { return octavo::cpu::main_of(argc, argv); }
