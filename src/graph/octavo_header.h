// The first 64 bytes of an .octavo file (octavo_file.h says what they mean).
#pragma once
#include <array>
#include <bit>
#include <cstdint>
#include <cstring>
#include <string_view>

#include "support/hash.h"

namespace octavo {

static_assert(std::endian::native == std::endian::little,
              "the fields are written as they lie in memory");

constexpr std::string_view octavo_magic = "OCTAVO\r\n";  // \r\n: a transfer as text would show
constexpr size_t octavo_alignment = 64;

struct OctavoHeader {
  std::array<char, 8> magic;
  uint32_t version, header_size;
  uint64_t metadata_size, data_offset, data_size, checksum;
  std::array<uint64_t, 2> reserved;
};
static_assert(sizeof(OctavoHeader) == octavo_alignment);

inline uint64_t checksum(OctavoHeader header, std::span<const std::byte> metadata) {
  header.checksum = 0;
  return fnv1a(metadata, fnv1a(std::as_bytes(std::span(&header, 1))));
}

inline uint64_t align_up(uint64_t offset) {
  return (offset + octavo_alignment - 1) / octavo_alignment * octavo_alignment;
}

}  // namespace octavo
