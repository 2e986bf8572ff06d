#include "ops/window.h"

#include "ops/op.h"

namespace octavo::ops {

std::vector<AttributeSpec> window_attributes() {
  return {{"strides", AttributeKind::integers, false, Ints{}},
          {"pads", AttributeKind::integers, false, Ints{}},
          {"dilations", AttributeKind::integers, false, Ints{}}};
}

Window window_of(const Node& node, Ints kernel) {
  Window w{std::move(kernel), node.integers("strides"), node.integers("pads"),
           node.integers("dilations")};
  const size_t rank = w.rank();
  if (w.strides.empty()) w.strides.assign(rank, 1);
  if (w.dilations.empty()) w.dilations.assign(rank, 1);
  if (w.pads.empty()) w.pads.assign(2 * rank, 0);
  require(node, w.strides.size() == rank && w.dilations.size() == rank && w.pads.size() == 2 * rank,
          "strides, dilations or pads do not match the kernel's rank");
  constexpr int64_t most = 1 << 20;
  for (size_t i = 0; i < rank; ++i) {
    require(node,
            w.kernel[i] > 0 && w.kernel[i] <= most && w.strides[i] > 0 && w.strides[i] <= most &&
                w.dilations[i] > 0 && w.dilations[i] <= most,
            "kernel, strides and dilations must be in 1 to 2^20");
    require(
        node,
        w.pads[i] >= 0 && w.pads[i] <= most && w.pads[rank + i] >= 0 && w.pads[rank + i] <= most,
        "pads must be in 0 to 2^20");
  }
  return w;
}

Dim window_output(const Node& node, const Window& w, size_t i, const Dim& input, bool ceil_mode) {
  if (!input.is_static()) return Dim::unknown();
  const int64_t padded = input.value() + w.pads[i] + w.pads[w.rank() + i];
  const int64_t span = (w.kernel[i] - 1) * w.dilations[i] + 1;
  if (padded < span)
    fail(node, fmt::format("the window spans {} but the padded input only {}", span, padded));
  int64_t out = (padded - span + (ceil_mode ? w.strides[i] - 1 : 0)) / w.strides[i] + 1;
  // A window that would start in the padding after the input is dropped (as PyTorch and ONNX do).
  if (ceil_mode && (out - 1) * w.strides[i] >= input.value() + w.pads[i]) --out;
  return out;
}

Attributes import_window(OnnxNodeReader& reader, const Ints& kernel, const Shape& input) {
  const size_t rank = kernel.size();
  Ints strides = reader.integers("strides", Ints(rank, 1));
  Ints dilations = reader.integers("dilations", Ints(rank, 1));
  Ints pads = reader.integers("pads", Ints(2 * rank, 0));
  const std::string mode = reader.text("auto_pad", "NOTSET");
  if (mode == "VALID") {
    pads.assign(2 * rank, 0);
  } else if (mode == "SAME_UPPER" || mode == "SAME_LOWER") {
    if (strides.size() != rank || dilations.size() != rank)
      reader.invalid("strides or dilations have the wrong length");
    pads.assign(2 * rank, 0);
    for (size_t i = 0; i < rank; ++i) {
      const Dim& dim = input[i + 2];
      if (!dim.is_static() && strides[i] != 1)
        reader.unsupported("auto_pad SAME on a dynamic dimension with a stride");
      const int64_t span = (kernel[i] - 1) * dilations[i] + 1;
      const int64_t total =
          dim.is_static() ? std::max<int64_t>(
                                0, ((dim.value() + strides[i] - 1) / strides[i] - 1) * strides[i] +
                                       span - dim.value())
                          : span - 1;
      const int64_t small = total / 2;
      pads[i] = mode == "SAME_UPPER" ? small : total - small;
      pads[rank + i] = total - pads[i];
    }
  } else if (mode != "NOTSET") {
    reader.invalid(fmt::format("auto_pad '{}' is not a mode", mode));
  }
  return {{"strides", std::move(strides)},
          {"pads", std::move(pads)},
          {"dilations", std::move(dilations)}};
}

void export_window(const Node& node, size_t rank, Attributes& onnx) {
  const Window w = window_of(node, Ints(rank, 1));
  onnx["strides"] = w.strides;
  onnx["pads"] = w.pads;
  onnx["dilations"] = w.dilations;
}

}  // namespace octavo::ops
