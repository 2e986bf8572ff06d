#include "quantize/algorithms/matrix_product.h"

#include "codegen/compile.h"

namespace octavo {

Program matrix_product(size_t rows, size_t inner, size_t columns, int threads) {
  const auto n = static_cast<int64_t>(rows), k = static_cast<int64_t>(inner),
             m = static_cast<int64_t>(columns);
  Graph graph;
  graph.stage = Stage::canonical;
  Value* a = graph.add_input("a", {DType::f32, Shape(Dims{n, k})});
  Value* b = graph.add_input("b", {DType::f32, Shape(Dims{k, m})});
  graph.add_output(graph.apply("matmul", {a, b}, {}, "y"));
  return compile(std::move(graph), {.threads = threads});
}

}  // namespace octavo
