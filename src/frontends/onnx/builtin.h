// ONNX ops that need no op of ours: constants, sizes, and nodes that do nothing.
#pragma once
#include "frontends/onnx/reader.h"

namespace octavo::onnx_import {

// What reads the node, tried before the ops' own rules; an empty result passes the node on to
// them. Null if there is none.
using Builtin = std::vector<Value*> (*)(Reader& reader);
Builtin find_builtin(std::string_view domain, std::string_view op_type);

}  // namespace octavo::onnx_import
