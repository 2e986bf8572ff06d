// Windows that slide over spatial dimensions: what convolution and pooling share.
#pragma once
#include "graph/op_def.h"
#include "ops/onnx_rules.h"

namespace octavo::ops {

// strides, pads (all begins, then all ends), dilations, with the defaults filled in.
struct Window {
  Ints kernel, strides, pads, dilations;
  size_t rank() const { return kernel.size(); }
};

// The attributes that a windowed op declares (kernel excepted).
std::vector<AttributeSpec> window_attributes();
// From the attributes of a node; UserError unless all sizes fit `kernel` and are positive.
Window window_of(const Node& node, Ints kernel);
// Output spatial dim i of an input dim.
Dim window_output(const Node& node, const Window& window, size_t i, const Dim& input,
                  bool ceil_mode = false);
// ONNX's auto_pad, strides, pads, dilations as our attributes (2 pads per spatial dim).
Attributes import_window(OnnxNodeReader& reader, const Ints& kernel, const Shape& input);
void export_window(const Node& node, size_t rank, Attributes& onnx);

}  // namespace octavo::ops
