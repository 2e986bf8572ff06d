// .octavo files: a graph, its constants, and optional packed sections.
//
//   0   "OCTAVO\r\n"
//   8   u32 version of the format, u32 size of this header (64)
//   16  u64 size of the metadata, u64 offset of the data section, u64 size of the data section
//   40  u64 FNV-1a of this header with zeros here, then of the metadata
//   48  zeros
//   64  the metadata: a FlatBuffer, schemas/octavo.fbs
//       zeros up to the data section, which ends the file
//
// Numbers are little-endian; the data section and everything in it starts at a multiple of 64. A
// file is mapped, its constants are views into the mapping: elements come from disk when they are
// first read, and processes share them. The data section has no checksum for that reason. Files are
// not trusted: all that is read is checked before it is used.
#pragma once
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "graph/graph.h"
#include "support/buffer.h"

namespace octavo {

constexpr uint32_t octavo_file_version = 1;

struct PackedSection {
  std::string key;  // who packed it for what: "conv_int8/avx512_vnni"
  uint32_t version = 0;
  std::shared_ptr<Buffer> bytes;
};

struct OctavoFile {
  Graph graph;
  std::vector<PackedSection> sections;
};

// Writes the whole file or, with a UserError (file), nothing. InternalError if verify() finds
// fault.
void save_octavo(const Graph& graph, const std::string& path,
                 std::span<const PackedSection> sections = {});

// UserError (file) for what is no sound .octavo file, or is of a newer version.
OctavoFile load_octavo_file(const std::string& path);
Graph load_octavo(const std::string& path);

// Whether the file begins like an .octavo file; UserError (file) if it cannot be opened.
bool is_octavo_file(const std::string& path);

}  // namespace octavo
