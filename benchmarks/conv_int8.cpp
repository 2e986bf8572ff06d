// INT8 convolutions of EfficientNet-Lite0 and ResNet-50 at 224 x 224, batch 1, or the matrix
// products of a 6 x 384 encoder (--rows of them, 128 by default): time, GOPS, and the fraction of
// the dot-product peak measured in the same run. Layers follow one another as in the network, each
// reading what the one before wrote, so that caches are as warm as there; a layer's time is the
// median over rounds.
//
//   bench_conv_int8 [lite0|resnet50|encoder] [--rows N] [--threads N] [--rounds N] [--isa NAME]
//   [--s8] [--layers]
//   [--best]
//
// --best: the fastest round instead of the median, for a machine that others use.
#include <fmt/format.h>
#include <immintrin.h>

#include <algorithm>
#include <chrono>
#include <cstring>
#include <random>

#include "backends/cpu/conv.h"

namespace octavo::cpu {
namespace {

using Clock = std::chrono::steady_clock;

double seconds(Clock::time_point from) {
  return std::chrono::duration<double>(Clock::now() - from).count();
}

// Multiply-accumulates a second of one core, 8 independent sums.
__attribute__((target("avx512f,avx512vnni"))) double vnni_peak() {
  __m512i s[8];
  for (int i = 0; i < 8; ++i) s[i] = _mm512_set1_epi32(i);
  const __m512i a = _mm512_set1_epi8(3), b = _mm512_set1_epi8(5);
  constexpr int turns = 100000;
  const auto start = Clock::now();
  for (int t = 0; t < turns; ++t)
    asm volatile(
        "vpdpbusd %8, %9, %0\n vpdpbusd %8, %9, %1\n vpdpbusd %8, %9, %2\n vpdpbusd %8, %9, %3\n"
        "vpdpbusd %8, %9, %4\n vpdpbusd %8, %9, %5\n vpdpbusd %8, %9, %6\n vpdpbusd %8, %9, %7"
        : "+v"(s[0]), "+v"(s[1]), "+v"(s[2]), "+v"(s[3]), "+v"(s[4]), "+v"(s[5]), "+v"(s[6]),
          "+v"(s[7])
        : "v"(b), "v"(a));
  const double time = seconds(start);
  return turns * 8 * 64.0 / time;
}

struct Layer {
  std::string name;
  ConvShape shape;
  bool residual = false;
  bool relu = false;
  int count = 1;
};

ConvShape conv(int64_t size, int64_t c_in, int64_t c_out, int64_t kernel, int64_t stride,
               bool depthwise = false) {
  ConvShape s;
  s.h = s.w = size;
  s.c_in = c_in;
  s.c_out = c_out;
  s.kh = s.kw = kernel;
  s.stride_h = s.stride_w = stride;
  s.oh = s.ow = (size + stride - 1) / stride;
  const int64_t pad = std::max<int64_t>((s.oh - 1) * stride + kernel - size, 0);
  s.pad_top = s.pad_left = pad / 2;
  if (depthwise) s.groups = c_in;
  return s;
}

std::vector<Layer> lite0() {
  struct Stage {
    int64_t kernel, stride, expand, c_in, c_out, repeats;
  };
  std::vector<Layer> layers;
  const auto add = [&](const char* kind, const ConvShape& s, bool residual, bool relu) {
    layers.push_back(
        {fmt::format("{} {}x{} {}>{} /{} @{}", kind, s.kh, s.kw, s.c_in, s.c_out, s.stride_h, s.h),
         s, residual, relu});
  };
  add("first", conv(224, 3, 32, 3, 2), false, true);
  int64_t size = 112;
  for (const Stage& stage : std::initializer_list<Stage>{{3, 1, 1, 32, 16, 1},
                                                         {3, 2, 6, 16, 24, 2},
                                                         {5, 2, 6, 24, 40, 2},
                                                         {3, 2, 6, 40, 80, 3},
                                                         {5, 1, 6, 80, 112, 3},
                                                         {5, 2, 6, 112, 192, 4},
                                                         {3, 1, 6, 192, 320, 1}})
    for (int64_t i = 0; i < stage.repeats; ++i) {
      const int64_t c_in = i == 0 ? stage.c_in : stage.c_out, wide = c_in * stage.expand;
      const int64_t stride = i == 0 ? stage.stride : 1;
      if (stage.expand > 1) add("expand", conv(size, c_in, wide, 1, 1), false, true);
      add("depthwise", conv(size, wide, wide, stage.kernel, stride, true), false, true);
      size = (size + stride - 1) / stride;
      add("project", conv(size, wide, stage.c_out, 1, 1), i > 0, false);
    }
  add("head", conv(7, 320, 1280, 1, 1), false, true);
  add("classifier", conv(1, 1280, 1000, 1, 1), false, false);
  return layers;
}

std::vector<Layer> resnet50() {
  std::vector<Layer> layers;
  const auto add = [&](const char* kind, const ConvShape& s, bool residual, bool relu) {
    layers.push_back(
        {fmt::format("{} {}x{} {}>{} /{} @{}", kind, s.kh, s.kw, s.c_in, s.c_out, s.stride_h, s.h),
         s, residual, relu});
  };
  add("first", conv(224, 3, 64, 7, 2), false, true);
  int64_t size = 56, c_in = 64;
  for (int64_t stage = 0; stage < 4; ++stage) {
    const int64_t mid = 64 << stage, out = mid * 4, repeats[] = {3, 4, 6, 3};
    for (int64_t i = 0; i < repeats[stage]; ++i) {
      const int64_t stride = i == 0 && stage > 0 ? 2 : 1;
      add("reduce", conv(size, c_in, mid, 1, 1), false, true);
      add("3x3", conv(size, mid, mid, 3, stride), false, true);
      if (i == 0) add("shortcut", conv(size, c_in, out, 1, stride), false, false);
      size /= stride;
      add("restore", conv(size, mid, out, 1, 1), true, true);
      c_in = out;
    }
  }
  add("classifier", conv(1, 2048, 1000, 1, 1), false, false);
  return layers;
}

std::vector<Layer> encoder(int64_t rows) {
  std::vector<Layer> layers;
  const auto add = [&](const char* kind, int64_t depth, int64_t width, bool residual) {
    ConvShape s;
    s.w = s.ow = rows;
    s.c_in = depth;
    s.c_out = width;
    layers.push_back({fmt::format("{} {}x{}x{}", kind, rows, depth, width), s, residual, false});
  };
  for (int i = 0; i < 6; ++i) {
    for (int projection = 0; projection < 3; ++projection) add("projection", 384, 384, false);
    add("output", 384, 384, true);
    add("widen", 384, 1536, false);
    add("narrow", 1536, 384, true);
  }
  return layers;
}

struct Instance {
  Layer layer;
  std::unique_ptr<ConvKernel> kernel;
  std::vector<uint8_t> scratch;
  std::vector<double> times;
  double macs;
  // Layers pass their outputs on in two buffers.
  ConvArgs args(std::vector<uint8_t>* buffers, size_t i) {
    void* aligned = scratch.data();
    size_t space = scratch.size();
    std::align(64, 1, aligned, space);
    return {buffers[i % 2].data(), layer.residual ? buffers[2].data() : nullptr,
            buffers[(i + 1) % 2].data(), aligned};
  }
};

// Adds the time that making the kernel takes to `creation`.
Instance make(const Layer& layer, bool s8, int threads, double& creation) {
  const ConvShape& s = layer.shape;
  std::mt19937 random(7);
  Instance instance;
  const size_t weights = static_cast<size_t>(s.c_out * (s.c_in / s.groups) * s.kh * s.kw);
  std::vector<int8_t> w(weights);
  for (int8_t& v : w) v = static_cast<int8_t>(random());
  std::vector<int32_t> bias(static_cast<size_t>(s.c_out), 100);
  std::vector<float> multiplier(static_cast<size_t>(s.c_out), 0.001f);
  ConvProblem p;
  p.shape = s;
  p.x = s8 ? Element::s8 : Element::u8;
  p.y = p.x;
  p.weights = w.data();
  p.bias_i32 = bias.data();
  p.multiplier = multiplier.data();
  p.x_zero_point = s8 ? -3 : 125;
  if (layer.relu) p.clamp_lo = 0;
  if (layer.residual) {
    p.residual = p.x;
    p.residual_multiplier = 0.7f;
  }
  const auto start = Clock::now();
  instance.kernel = make_conv(p);
  creation += seconds(start);
  instance.layer = layer;
  instance.scratch.resize(instance.kernel->scratch_bytes(threads) + 64);
  instance.macs = static_cast<double>(weights) * static_cast<double>(s.n * s.oh * s.ow);
  return instance;
}

bool best = false;

double typical(std::vector<double> v) {
  if (best) return *std::min_element(v.begin(), v.end());
  std::nth_element(v.begin(), v.begin() + static_cast<long>(v.size() / 2), v.end());
  return v[v.size() / 2];
}

int run(int argc, char** argv) {
  int threads = 0, rounds = 101;
  int64_t rows = 128;
  bool s8 = false, all = false;
  std::string net = "lite0";
  for (int i = 1; i < argc; ++i) {
    const std::string arg = argv[i];
    if (arg == "--threads" && i + 1 < argc)
      threads = std::stoi(argv[++i]);
    else if (arg == "--rounds" && i + 1 < argc)
      rounds = std::stoi(argv[++i]);
    else if (arg == "--isa" && i + 1 < argc)
      set_isa_limit(parse_isa(argv[++i]));
    else if (arg == "--s8")
      s8 = true;
    else if (arg == "--best")
      best = true;
    else if (arg == "--layers")
      all = true;
    else if (arg == "--rows" && i + 1 < argc)
      rows = std::stoll(argv[++i]);
    else
      net = arg;
  }
  ThreadPool pool(threads);
  std::vector<Instance> instances;
  double creation = 0;
  for (const Layer& layer : net == "resnet50"  ? resnet50()
                            : net == "encoder" ? encoder(rows)
                                               : lite0())
    instances.push_back(make(layer, s8, pool.size(), creation));

  size_t largest = 0;
  for (const Instance& instance : instances) {
    const ConvShape& s = instance.layer.shape;
    largest =
        std::max(largest, static_cast<size_t>(std::max(s.h * s.w * s.c_in, s.oh * s.ow * s.c_out)));
  }
  std::vector<uint8_t> buffers[3];
  for (auto& buffer : buffers) buffer.assign(largest, 77);
  std::vector<double> peaks, totals;
  for (int round = 0; round < rounds; ++round) {
    if (hardware_isa() >= Isa::vnni && round % 4 == 0) {
      std::vector<double> each(static_cast<size_t>(pool.size()));
      auto task = [&](int64_t i, int) { each[static_cast<size_t>(i)] = vnni_peak(); };
      pool.run(pool.size(), task);
      double sum = 0;
      for (double v : each) sum += v;
      peaks.push_back(sum);
    }
    const auto first = Clock::now();
    for (size_t i = 0; i < instances.size(); ++i) {
      const ConvArgs args = instances[i].args(buffers, i);
      const auto start = Clock::now();
      instances[i].kernel->run(args, pool);
      instances[i].times.push_back(seconds(start));
    }
    totals.push_back(seconds(first));
  }
  const double peak = peaks.empty() ? 0 : *std::max_element(peaks.begin(), peaks.end());
  fmt::print("{} threads, dot-product peak {:.0f} GOPS, whole network {:.3f} ms (best {:.3f})\n",
             pool.size(), 2e-9 * peak, 1e3 * typical(totals),
             1e3 * *std::min_element(totals.begin(), totals.end()));
  fmt::print("kernels made in {:.1f} ms\n", 1e3 * creation);
  struct Sum {
    double time = 0, macs = 0;
    int count = 0;
  };
  std::vector<std::pair<std::string, Sum>> kinds;
  const auto line = [&](const std::string& name, const Sum& s) {
    fmt::print("{:36} {:9.1f} us {:8.1f} GOPS {:5.1f}% {}\n", name, 1e6 * s.time,
               2e-9 * s.macs / s.time, peak > 0 ? 100 * s.macs / s.time / peak : 0,
               s.count > 1 ? fmt::format("x{}", s.count) : "");
  };
  for (Instance& instance : instances) {
    const Sum own{typical(instance.times), instance.macs, 1};
    const std::string kind = instance.layer.name.substr(0, instance.layer.name.find(' '));
    auto found =
        std::find_if(kinds.begin(), kinds.end(), [&](const auto& k) { return k.first == kind; });
    if (found == kinds.end()) found = kinds.insert(kinds.end(), {kind, {}});
    found->second.time += own.time;
    found->second.macs += own.macs;
    found->second.count += 1;
    if (all) line(instance.layer.name + " " + instance.kernel->name(), own);
  }
  Sum total;
  for (const auto& [kind, sum] : kinds) {
    line(kind, sum);
    total.time += sum.time;
    total.macs += sum.macs;
  }
  line("sum of layers", total);
  return 0;
}

}  // namespace
}  // namespace octavo::cpu

int main(int argc, char** argv) { return octavo::cpu::run(argc, argv); }
