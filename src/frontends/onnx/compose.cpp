#include "frontends/onnx/compose.h"

namespace octavo::onnx_import {

std::span<const std::span<const OnnxImportRule>> composed_rules() {
  static const std::span<const OnnxImportRule> all[] = {attention_rules(), loss_rules(),
                                                        quantized_rules(), plain_rules(),
                                                        state_rules(),     signal_rules()};
  return all;
}

}  // namespace octavo::onnx_import
