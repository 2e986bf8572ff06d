// The text form of a graph: what a person reads and what the tests of passes are written in.
//
//   graph "net" canonical {
//     input %x : f32[N, 3, 224, 224]
//     const %w : f32[32, 3, 3, 3] = <3456 bytes, 6f1c0a9b3d2e4857>
//     const %zp : u8[] = 128
//     %y = conv(%x, %w) {pads = [0, 0, 1, 1], strides = [2, 2]} : f32[N, 32, 112, 112] @
//     "/stem/Conv" return %y
//   }
//
//  * Items come in any order that defines before use; `return` comes last. Comments: # and //.
//  * %name is a value; names that are not [A-Za-z_/][A-Za-z0-9_./]* are quoted: %"a b". %0, %1, …
//    are values without a name.
//  * `_` is an input that is left out. The type after `:` may be left out too; where it is given it
//    must equal what the op's shape function says.
//  * @ "name" is the node's name where that differs from its first output's.
//  * Dims are numbers, symbols (quoted unless identifiers) and ?.
//  * Attributes: 3, 0.5, "text", [1, 2], [0.5, 1.0], and tensors as f32[2] [1, 2].
//  * Elements of a tensor: [1, 2, …] in row-major order, one number for all of them, zeros, iota
//    (0, 1, …), random(seed, lo, hi) (uniform; integers include hi), or hex "0001…" (the bytes).
//    <n bytes, hash> stands for elements that the printer left out; only a person can read those.
//  * NaN is `nan`, or nan(0x7fc00001) where its bits differ from that one's. Floats print so that
//    they read back to the same bits.
#pragma once
#include <string>
#include <string_view>

#include "graph/graph.h"

namespace octavo {

struct PrintOptions {
  size_t inline_elements = 16;  // larger tensors are elided, or hexadecimal if `full`
  bool full = false;            // parse_graph(print_graph(g, full)) is g
};
std::string print_graph(const Graph& graph, const PrintOptions& options = {});

// UserError (value) at "<where>:<line>:<column>" for text that does not parse or does not fit.
Graph parse_graph(std::string_view text, const std::string& where = "graph");

}  // namespace octavo
