// If, Loop and Scan, taken apart at import: a graph has no control flow.
//  * An If whose condition is known is the branch that it takes. If it is computed and both
//    branches give the same types, both run and the condition picks the results.
//  * A Loop or Scan whose number of steps is known is unrolled; its body is read once per step.
// Others are unsupported, with an error that names the node.
#pragma once
#include <functional>

#include "frontends/onnx/compose.h"
#include "frontends/onnx/reader.h"

namespace octavo::onnx_import {

class Control {
 public:
  // Adds the nodes of a subgraph to the graph and returns its outputs.
  using AddSubgraph =
      std::function<std::vector<Value*>(::onnx::GraphProto& body, std::vector<Value*> args)>;
  Control(Reader& reader, ::onnx::NodeProto& node, AddSubgraph add)
      : reader_(reader), make_(reader), node_(node), add_(std::move(add)) {}
  std::vector<Value*> run();

 private:
  std::vector<Value*> branch();
  std::vector<Value*> loop();
  std::vector<Value*> scan();
  ::onnx::GraphProto& subgraph(std::string_view name);
  void check_results(std::string_view name, int results, int outputs) const;
  // One step of a body that is read several times.
  std::vector<Value*> step(const ::onnx::GraphProto& body, std::vector<Value*> args);
  // One value for each step, joined along an axis.
  Value* stacked(const std::vector<Value*>& values, int64_t axis, bool reversed);

  Reader& reader_;
  Composer make_;
  ::onnx::NodeProto& node_;
  AddSubgraph add_;
};

}  // namespace octavo::onnx_import
