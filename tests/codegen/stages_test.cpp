// Programs whose shapes depend on values: planned piece by piece, the same answers as the
// interpreter's.
#include "codegen/stages.h"

#include <gtest/gtest.h>

#include "backends/reference/interpreter.h"
#include "codegen/compile.h"
#include "graph/text.h"
#include "ops/evaluate.h"
#include "passes/passes.h"

namespace octavo {
namespace {

using namespace octavo::testing;

void expect_same(const std::string& text, const std::vector<Tensor>& inputs) {
  const Graph graph = parse_graph(text);
  const auto wanted = interpret(graph, inputs);
  for (const bool optimize : {true, false}) {
    Program program = compile(graph.clone(), {.optimize = optimize});
    const auto got = program.run(inputs);
    ASSERT_EQ(got.size(), wanted.size());
    for (size_t i = 0; i < got.size(); ++i) {
      EXPECT_EQ(got[i].dims(), wanted[i].dims());
      EXPECT_EQ(got[i].to_doubles(), wanted[i].to_doubles());
    }
  }
}

TEST(Stages, AComputedParameter) {
  const char* text = R"(graph "g" canonical {
    input %x : f32[2, 6]
    input %shape : i64[2]
    %two = add(%x, %x)
    %y = reshape(%two, %shape)
    %z = relu(%y)
    return %z, %two
  })";
  const Tensor x = uniform({2, 6}, 1);
  for (const Ints& shape : {Ints{3, 4}, Ints{-1, 2}, Ints{12, 1}})
    expect_same(text, {x, tensor<int64_t>({2}, shape)});
}

TEST(Stages, AShapeThatDependsOnData) {
  expect_same(R"(graph "g" canonical {
    input %x : f32[8]
    %zero = relu(%x)
    %at = non_zero(%zero)
    %i = reshape(%at) {shape = [-1]}
    %picked = gather(%x, %i)
    %y = neg(%picked)
    return %y
  })",
              {uniform({8}, 3)});
}

TEST(Stages, OneAfterTheOther) {
  expect_same(R"(graph "g" canonical {
    input %x : f32[3, 4]
    input %n : i64[1]
    const %one : i64[1] = [1]
    const %zero : i64[1] = [0]
    %part = slice(%x, %zero, %n, %one)
    %shape = shape(%part)
    %count = reduce_prod(%shape)
    %flat = reshape(%part, %count)
    %at = non_zero(%flat)
    return %at, %flat
  })",
              {uniform({3, 4}, 4), tensor<int64_t>({1}, {3})});
}

TEST(Stages, CutsWhereAShapeIsUnknown) {
  Graph graph = parse_graph(R"(graph "g" canonical {
    input %x : f32[4]
    input %k : i64[1]
    %a = exp(%x)
    %at = non_zero(%a)
    %tiled = tile(%a, %k)
    %y = neg(%tiled)
    return %y, %at
  })");
  specialize(graph);
  EXPECT_FALSE(all_static(graph));
  const Cut parts = cut(graph);
  EXPECT_EQ(parts.first.node_count(), 1u);
  EXPECT_EQ(parts.between.node_count(), 1u);
  EXPECT_EQ(parts.rest.node_count(), 2u);
  ASSERT_EQ(parts.value_inputs.size(), 1u);
  EXPECT_EQ(parts.rest.inputs()[parts.value_inputs[0]]->name(), "k");
}

TEST(Stages, SymbolicShapesAreEvaluatedWhenBound) {
  Graph graph = parse_graph(R"(graph "g" canonical {
    input %x : f32[N, 6]
    const %half : i64[1] = [2]
    const %rest : i64[1] = [-1]
    %shape = shape(%x) {start = 0, end = 1}
    %rows = div(%shape, %half)
    %target = concat(%rows, %rest) {axis = 0}
    %y = reshape(%x, %target)
    return %y
  })");
  graph.inputs()[0]->set_type({DType::f32, {4, 6}});
  specialize(graph);
  graph.remove_dead();
  EXPECT_EQ(graph.node_count(), 1u);
  EXPECT_EQ(graph.outputs()[0]->type().str(), "f32[2, 12]");
  EXPECT_EQ(graph.first()->integers("shape"), (Ints{2, -1}));
}

TEST(Stages, RawCallsSayWhyTheyCannot) {
  Program program = compile(parse_graph(R"(graph "g" canonical {
    input %x : f32[4]
    %at = non_zero(%x)
    return %at
  })"));
  const Tensor x = uniform({4}, 1), y(DType::i64, {1, 4});
  const auto plan = program.plan({{4}});
  const void* in[] = {x.data()};
  Tensor out = y;
  void* outputs[] = {out.mutable_data()};
  EXPECT_NE(error_of([&] { program.run(*plan, in, outputs); }).find("depend on values"),
            std::string::npos);
  EXPECT_EQ(program.run(std::vector{x})[0].dims(), (Dims{1, 4}));
}

TEST(Stages, BadValuesAreUserErrors) {
  Program program = compile(parse_graph(R"(graph "g" canonical {
    input %x : f32[4]
    input %shape : i64[2]
    %y = reshape(%x, %shape)
    return %y
  })"));
  const auto run = [&](Ints shape) {
    return error_of([&] {
      program.run(std::vector{uniform({4}, 1), tensor<int64_t>({2}, shape)});
    });
  };
  EXPECT_NE(run({3, 2}).find("does not reshape"), std::string::npos);
  EXPECT_NE(run({-2, 2}).find("negative"), std::string::npos);
  EXPECT_NE(run({int64_t{1} << 50, 2}).find("2^40"), std::string::npos);
  EXPECT_EQ(run({2, 2}), "no error");
}

}  // namespace
}  // namespace octavo
