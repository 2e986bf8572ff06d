#include "quantize/placement/placement.h"

#include "quantize/placement/facts.h"
#include "support/error.h"

namespace octavo {
namespace {
constexpr PlacementTarget targets[] = {
    {"octavo", "Octavo's own INT8 kernels: u8 activations, i8 weights per channel", place_octavo,
     octavo_facts},
    {"onnxruntime", "ONNX Runtime's CPU provider: u8 activations, Q/DQ on every side",
     place_onnxruntime, onnxruntime_facts},
    {"openvino", "OpenVINO on CPU: u8 activations, Q/DQ on what products and additions read",
     place_openvino, openvino_facts},
    {"tensorrt", "TensorRT: i8 symmetric, Q/DQ on the inputs of products and on shortcuts",
     place_tensorrt, tensorrt_facts},
};
}

std::span<const PlacementTarget> placement_targets() { return targets; }

const PlacementTarget& find_placement_target(const std::string& name) {
  std::string known;
  for (const PlacementTarget& target : targets) {
    if (name == target.name) return target;
    known += (known.empty() ? "" : ", ") + std::string(target.name);
  }
  throw UserError(ErrorKind::value, "target", fmt::format("'{}' is not known", name),
                  "use one of: " + known);
}

}  // namespace octavo
