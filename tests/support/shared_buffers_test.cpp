#include "support/shared_buffers.h"

#include <gtest/gtest.h>

#include <cstring>
#include <thread>
#include <vector>

namespace octavo {
namespace {

std::shared_ptr<Buffer> filled(size_t bytes, int value) {
  auto made = Buffer::allocate(bytes);
  std::memset(made->mutable_data(), value, bytes);
  return made;
}

TEST(HeldOnce, EqualBytesAreOneBufferWhileSomebodyHoldsThem) {
  auto first = held_once(filled(100'000, 1));
  const auto again = held_once(filled(100'000, 1));
  EXPECT_EQ(first, again);
  EXPECT_NE(first, held_once(filled(100'000, 2)));
  EXPECT_NE(first, held_once(filled(100'064, 1)));
  const std::weak_ptr<Buffer> watch = first;
  first.reset();
  EXPECT_FALSE(watch.expired());  // `again` holds it
}

TEST(HeldOnce, NothingIsKeptAlive) {
  const std::weak_ptr<Buffer> watch = held_once(filled(100'000, 3));
  EXPECT_TRUE(watch.expired());
  EXPECT_EQ(held_once(filled(100'000, 3))->data()[99'999], std::byte{3});
}

TEST(HeldOnce, WhatDiffersBetweenTheSampledBytesIsTold) {
  const auto one = held_once(filled(100'000, 4));
  auto other = filled(100'000, 4);
  other->mutable_data()[2'000] = std::byte{5};
  const Buffer* address = other.get();
  const auto held = held_once(std::move(other));
  EXPECT_EQ(held.get(), address);
  EXPECT_EQ(held_once(filled(100'000, 4)), one);
}

TEST(HeldOnce, SmallBuffersAreLeftAlone) {
  const auto one = held_once(filled(64, 6));
  EXPECT_NE(one, held_once(filled(64, 6)));
}

TEST(HeldOnce, ManyThreads) {
  std::vector<std::shared_ptr<Buffer>> held(8);
  std::vector<std::thread> threads;
  for (size_t n = 0; n < held.size(); ++n)
    threads.emplace_back([&, n] {
      for (int value = 0; value < 50; ++value) held[n] = held_once(filled(20'000, value));
    });
  for (std::thread& thread : threads) thread.join();
  for (const auto& one : held) EXPECT_EQ(one, held[0]);
}

TEST(MadeOnce, OnceForEachWayWhileItIsHeld) {
  const std::shared_ptr<const Buffer> source = filled(50'000, 7), other = filled(50'000, 7);
  int made = 0;
  const auto make = [&](int value) {
    return [&made, value] {
      ++made;
      return filled(60'000, value);
    };
  };
  auto first = made_once(source, "a", make(1));
  EXPECT_EQ(made_once(source, "a", make(1)), first);
  EXPECT_EQ(made, 1);
  EXPECT_NE(made_once(source, "b", make(2)), first);
  EXPECT_EQ(made_once(other, "a", make(1)), first);  // made, and found equal
  EXPECT_EQ(made, 3);
  first.reset();
  EXPECT_EQ(made_once(source, "a", make(3))->data()[0], std::byte{3});
  EXPECT_EQ(made, 4);
}

TEST(MadeOnce, AnotherSourceAtTheSameAddressIsAnother) {
  const auto held = made_once(filled(50'000, 8), "a", [] { return filled(60'000, 1); });
  for (int i = 0; i < 20; ++i) {  // the allocator gives the address again
    const auto made = made_once(filled(50'000, 9), "a", [] { return filled(60'000, 2); });
    EXPECT_EQ(made->data()[0], std::byte{2});
  }
  EXPECT_EQ(held->data()[0], std::byte{1});
}

}  // namespace
}  // namespace octavo
