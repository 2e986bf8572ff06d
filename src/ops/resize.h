// resize: sampling along axes by nearest, linear or cubic interpolation, with ONNX's coordinates.
#pragma once
#include <optional>
#include <utility>
#include <vector>

#include "graph/op_def.h"

namespace octavo::ops {

// How one axis is sampled.
struct ResizeAxis {
  int64_t size = 1, wanted = 1;
  double scale = 1, roi_start = 0, roi_end = 1;
  bool sampled = false;
};
// Per axis of the input; nothing while the sizes or scales are not known.
std::optional<std::vector<ResizeAxis>> resize_axes(const Node& node);

// What output index i of an axis is made of.
struct ResizeTaps {
  std::vector<std::pair<int64_t, double>> taps;  // index and weight
  bool outside = false;                          // extrapolated
};
ResizeTaps resize_taps(const Node& node, const ResizeAxis& axis, int64_t i);

}  // namespace octavo::ops
