// What the tests of CPU kernels share: random data from a printed seed, and each kernel of a list
// with 1, 2 and 3 threads.
#pragma once
#include <gtest/gtest.h>

#include <cfloat>
#include <cmath>
#include <cstring>
#include <random>

#include "backends/cpu/kernel_list.h"

namespace octavo::cpu {

class KernelTest : public testing::Test {
 protected:
  void SetUp() override {
    seed_ = std::random_device{}();
    if (const char* text = std::getenv("OCTAVO_TEST_SEED"))
      seed_ = static_cast<unsigned>(std::stoul(text));
    random_.seed(seed_);
    RecordProperty("seed", std::to_string(seed_));
  }
  void TearDown() override {
    if (HasFailure()) printf("repeat with OCTAVO_TEST_SEED=%u\n", seed_);
  }

  int64_t pick(int64_t lo, int64_t hi) {
    return std::uniform_int_distribution<int64_t>(lo, hi)(random_);
  }
  float real(float lo, float hi) { return std::uniform_real_distribution<float>(lo, hi)(random_); }
  std::vector<float> values(int64_t count, float scale = 1) {
    std::normal_distribution<float> normal(0, scale);
    std::vector<float> v(static_cast<size_t>(count));
    for (float& f : v) f = normal(random_);
    return v;
  }
  std::vector<uint8_t> bytes(int64_t count) {
    std::vector<uint8_t> v(static_cast<size_t>(count));
    for (uint8_t& b : v) b = static_cast<uint8_t>(pick(0, 255));
    return v;
  }
  Element byte_element() { return pick(0, 1) ? Element::u8 : Element::s8; }
  int32_t zero_point(Element e) {
    return static_cast<int32_t>(e == Element::u8 ? pick(0, 255) : pick(-128, 127));
  }

  unsigned seed_ = 0;
  std::mt19937 random_;
};

// Runs every kernel of `list` that this machine has; each must fill `y`, which args points at, with
// what verify() accepts, and with the same bytes for any number of threads.
template <class Args, class T, class Verify>
void check_kernels(KernelList<Args> list, const Args& args, std::vector<T>& y,
                   const Verify& verify) {
  static ThreadPool one(1), two(2), three(3);
  ASSERT_FALSE(list.empty());
  EXPECT_EQ(list.back().isa, Isa::portable);
  for (const Kernel<Args>& kernel : list) {
    if (kernel.isa > hardware_isa()) continue;
    SCOPED_TRACE(kernel.name);
    EXPECT_NE(std::string(kernel.name).find(isa_name(kernel.isa)), std::string::npos);
    std::vector<T> first;
    for (ThreadPool* pool : {&one, &two, &three}) {
      if (!y.empty()) std::memset(y.data(), 0xa5, y.size() * sizeof(T));
      kernel.run(args, *pool);
      if (first.empty()) {
        first = y;
        verify();
      } else {
        ASSERT_EQ(0, std::memcmp(first.data(), y.data(), y.size() * sizeof(T)))
            << pool->size() << " threads";
      }
      if (testing::Test::HasFatalFailure()) return;
    }
  }
}

// conv.h's end: clamp, round half to even, saturate; NaN goes to the lower bound.
inline double finish(float f, float lo, float hi, Element y, int32_t zero) {
  f = f > lo ? f : lo;
  f = f < hi ? f : hi;
  if (y == Element::f32) return static_cast<double>(f);
  const double least = y == Element::u8 ? 0 : -128;
  return std::clamp(std::nearbyint(static_cast<double>(f)) + zero, least, least + 255);
}

inline int32_t byte_value(Element e, uint8_t byte) {
  return e == Element::s8 ? static_cast<int8_t>(byte) : byte;
}

// Element i of an output in y.
inline double element_at(Element e, const std::vector<uint8_t>& y, size_t i) {
  if (e != Element::f32) return byte_value(e, y[i]);
  float f;
  std::memcpy(&f, y.data() + 4 * i, 4);
  return static_cast<double>(f);
}

}  // namespace octavo::cpu
