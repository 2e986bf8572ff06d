#include <cstring>

#include "graph/op_def.h"
#include "ops/packed.h"
#include "passes/layout.h"
#include "passes/passes.h"

namespace octavo {
namespace {

// One of `tensor`'s only element for each row.
Tensor for_each_row(const Tensor& tensor, int64_t rows) {
  Tensor all(tensor.dtype(), {rows, 1});
  const size_t size = dtype_size(tensor.dtype());
  for (int64_t r = 0; r < rows; ++r)
    std::memcpy(all.mutable_data() + static_cast<size_t>(r) * size, tensor.data(), size);
  return all;
}

}  // namespace

void fuse_gather(Graph& graph) {
  graph.for_each([&](Node& node) {
    if (!node.is("gather")) return;
    const Node* dq = node.input(0)->producer();
    if (!dq || !dq->is("dequantize") || dq->output()->dtype() != DType::f32 ||
        dq->input(1)->dtype() != DType::f32)
      return;
    for (const Value* input : dq->inputs())
      if (input && !input->is_constant()) return;
    const DType type = integer_type(*dq);
    const Dims table = dq->output()->shape().dims();
    if ((type != DType::i8 && type != DType::u8) || table.size() != 2 ||
        normalize_axis(node.integer("axis"), 2, node.where()) != 0)
      return;
    Tensor scale = dq->input(1)->constant(), zero;
    if (dq->input(2)) zero = dq->input(2)->constant();
    const int64_t group = dq->integer("group_size");
    if (scale.size() == 1 && scale.rank() <= 1) {
      scale = for_each_row(scale, table[0]);
      if (zero) zero = for_each_row(zero, table[0]);
    } else {
      const int64_t axis = normalize_axis(dq->integer("axis"), 2, node.where());
      if (axis != (group == 0 ? 0 : 1)) return;
      if (group == 0) scale = scale.reshaped({table[0], 1});
      if (group == 0 && zero) zero = zero.reshaped({table[0], 1});
    }
    const auto constant = [&](const char* what, const Tensor& tensor) {
      return graph.add_constant(node.name() + "/" + what, tensor);
    };
    Value* y = graph.apply("fused_gather",
                           {dq->input(0), node.input(1), constant("scale", scale),
                            zero ? constant("zero_point", zero) : nullptr},
                           {{"group_size", group},
                            {"packed", dq->text("packed")},
                            {"columns", dq->integer("columns")}},
                           node.name(), &node);
    take_over(graph, &node, y);
  });
}

}  // namespace octavo
