// ONNX files in: a model becomes a Graph by the rules that the ops' own files hold.
//
// Names of values and nodes are those of the file. Weights are views into the parsed file or into
// mapped external data: never copied after the parse. Nodes that no output needs are left out, and
// shape arithmetic on known sizes is computed on the way, so that rules see constants.
#pragma once
#include <span>
#include <string>

#include "graph/graph.h"

namespace octavo {

// UserError: `file` for what cannot be read or is not a sound model, `unsupported` for ops, types
// and versions that Octavo lacks (all of a file's missing ops in one message).
Graph load_onnx(const std::string& path);

// A model in memory. External data is looked for in `folder`; none is allowed if that is empty.
Graph load_onnx_bytes(std::span<const std::byte> bytes, const std::string& folder = "");

}  // namespace octavo
