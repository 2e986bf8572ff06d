#include <gtest/gtest.h>

#include "backends/reference/interpreter.h"
#include "graph/op_def.h"
#include "graph/text.h"
#include "passes/passes.h"

namespace octavo {
namespace {

Graph sunk(const Graph& graph) {
  Graph result = graph.clone();
  sink_transposes(result);
  result.remove_dead();
  return result;
}

std::vector<Ints> perms(const Graph& graph) {
  std::vector<Ints> found;
  graph.for_each([&](Node& node) {
    if (node.is("transpose")) found.push_back(node.integers("perm"));
  });
  return found;
}

void expect_same(const Graph& before, const Graph& after) {
  Tensor x(DType::f32, before.inputs()[0]->shape().dims());
  float next = 0;
  for (float& v : x.mutable_values<float>()) v = next++;
  EXPECT_TRUE(interpret(before, std::vector{x})[0] == interpret(after, std::vector{x})[0]);
}

// A detection head: channels become anchors and values, which go last.
TEST(SinkTransposes, AReshapeThatCutsAxesLetsThemMeet) {
  const Graph before = parse_graph(R"(graph "g" canonical {
    input %x : f32[2, 4, 5, 6]
    %t = transpose(%x) {perm = [0, 3, 1, 2]}
    %r = reshape(%t) {shape = [2, 3, 2, 4, 5]}
    %y = transpose(%r) {perm = [0, 1, 3, 4, 2]}
    return %y
  })");
  const Graph after = sunk(before);
  EXPECT_EQ(perms(after), std::vector<Ints>{(Ints{0, 3, 1, 2, 4})});
  expect_same(before, after);
}

TEST(SinkTransposes, AReshapeThatMixesAxesKeepsThemApart) {
  const Graph before = parse_graph(R"(graph "g" canonical {
    input %x : f32[2, 4, 5, 6]
    %t = transpose(%x) {perm = [0, 3, 1, 2]}
    %r = reshape(%t) {shape = [2, 4, 6, 5]}
    %y = transpose(%r) {perm = [0, 2, 3, 1]}
    return %y
  })");
  const Graph after = sunk(before);
  EXPECT_EQ(perms(after), perms(before));
  expect_same(before, after);
}

// Attributes that name axes follow the layout.
TEST(SinkTransposes, GoThroughWhatMovesElementsOfImages) {
  for (const char* body :
       {"%y = pad(%t) {pads = [0, 1, 1, 2, 0, 0, 3, 0]}",
        "%y = pad(%t) {pads = [1, 2, 1, 0], axes = [1, 3], mode = \"reflect\"}",
        "%y = slice(%t) {starts = [1, 2], ends = [2, 5], axes = [0, 1], steps = [1, 2]}",
        "%y = slice(%t) {starts = [0, 1], ends = [2, 5]}",
        "%y = resize(%t) {scales = [1.0, 1.0, 2.0, 3.0]}",
        "%y = resize(%t) {sizes = [3, 9], axes = [3, 2], mode = \"linear\"}",
        "%y = depth_to_space(%t) {block = 2}",
        "%y = depth_to_space(%t) {block = 2, mode = \"crd\"}", "%y = concat(%t, %t) {axis = 1}"}) {
    SCOPED_TRACE(body);
    const Graph before = parse_graph(fmt::format(R"(graph "g" canonical {{
      input %x : f32[2, 4, 5, 8]
      %t = transpose(%x) {{perm = [0, 3, 1, 2]}}
      {}
      return %y
    }})",
                                                 body));
    const Graph after = sunk(before);
    EXPECT_TRUE(after.outputs()[0]->producer()->is("transpose"));
    expect_same(before, after);
  }
}

}  // namespace
}  // namespace octavo
