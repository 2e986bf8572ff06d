// Windows of signals.
#include <numbers>

#include "frontends/onnx/compose.h"

namespace octavo::onnx_import {
namespace {

// a0 + a1 cos(2 pi i / n) + a2 cos(4 pi i / n)
std::vector<Value*> import_window(OnnxNodeReader& reader) {
  Composer make(reader);
  Value* size = make.reshape(make.cast(make.input(0), DType::i64), {1});
  double a0 = 0.5, a1 = -0.5, a2 = 0;  // Hann
  if (reader.op_type() == "HammingWindow") a0 = 25.0 / 46, a1 = -21.0 / 46;
  if (reader.op_type() == "BlackmanWindow") a0 = 0.42, a1 = -0.5, a2 = 0.08;
  Value* index = make.cast(make("range", {make.ints({0}), size, make.ints({1})}), DType::f64);
  Value* period = make.cast(size, DType::f64);
  if (reader.integer("periodic", 1) == 0) period = make("sub", {period, make.number(1, period)});
  const auto wave = [&](double turns, double amplitude) {
    Value* angle = make("mul", {index, make.number(turns * 2 * std::numbers::pi, index)});
    Value* cosine = make("cos", {make("div", {angle, period})});
    return make("mul", {cosine, make.number(amplitude, index)});
  };
  Value* y = make("add", {wave(1, a1), make.number(a0, index)});
  if (a2 != 0) y = make("add", {y, wave(2, a2)});
  return {make.cast(y, reader.element_type(reader.integer("output_datatype", 1)))};
}

constexpr OnnxImportRule rules[] = {
    {.op_type = "HannWindow", .since = 17, .import = import_window},
    {.op_type = "HammingWindow", .since = 17, .import = import_window},
    {.op_type = "BlackmanWindow", .since = 17, .import = import_window}};

}  // namespace

std::span<const OnnxImportRule> signal_rules() { return rules; }

}  // namespace octavo::onnx_import
