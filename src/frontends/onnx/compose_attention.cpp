#include "frontends/onnx/compose.h"
namespace octavo::onnx_import {
std::span<const OnnxImportRule> attention_rules() { return {}; }
}  // namespace octavo::onnx_import
