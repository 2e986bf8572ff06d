// Graphs out as ONNX files, by the rules that the ops' own files hold.
//
// Quantization is written as QuantizeLinear and DequantizeLinear. `quantize` of a constant is
// computed here, so that weights are stored as integers with a DequantizeLinear after them.
#pragma once
#include <string>

#include "graph/graph.h"

namespace octavo {

enum class ExternalData {
  automatic,  // when the weights exceed 1.8 GB; a file cannot be larger than 2 GB
  never,
  always,
};

struct OnnxExportOptions {
  // 13 to 22; 0: the least from 17 on that has a form for every node. Runtimes read 17, and before
  // it a layer normalization is nine nodes.
  int64_t opset = 0;
  int64_t ir_version = 0;  // 0: the one that belongs to the opset
  std::string producer = "octavo";
  ExternalData external_data = ExternalData::automatic;  // to <path>.data, beside the model
};

// Written whole or not at all. UserError for a lowered graph, an op without ONNX form, an opset
// out of range, an unwritable path.
void export_onnx(const Graph& graph, const std::string& path,
                 const OnnxExportOptions& options = {});

// The bytes of such a file; the weights are inside.
std::string onnx_bytes(const Graph& graph, const OnnxExportOptions& options = {});

}  // namespace octavo
