// FNV-1a, 64 bits: tells damaged or different bytes apart; no defence against forgery.
#pragma once
#include <cstddef>
#include <cstdint>
#include <span>

namespace octavo {

constexpr uint64_t fnv1a_seed = 0xcbf29ce484222325u;

inline uint64_t fnv1a(std::span<const std::byte> bytes, uint64_t hash = fnv1a_seed) {
  for (const std::byte b : bytes) hash = (hash ^ static_cast<uint64_t>(b)) * 0x100000001b3u;
  return hash;
}

}  // namespace octavo
