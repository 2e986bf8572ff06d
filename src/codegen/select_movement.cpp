// Elements copied to other places.
#include "backends/cpu/copy.h"
#include "codegen/kernel_step.h"
#include "codegen/selectors.h"
#include "graph/op_def.h"
#include "ops/movement.h"

namespace octavo {
namespace {

// out[i…] = in[start + sum i_d * steps_d], over `y`: the output's dims, or a finer cut of them.
void select_strided(const Node& node, const Dims& y, const ops::StridedView& view,
                    Selected& selected) {
  const size_t bytes = dtype_size(node.output()->dtype());
  if (bytes > 8) return decline(selected, "copy_strided", "elements of more than 8 bytes");
  const StridedBox box = merged({y, {view.steps, dense_steps(y)}});
  const Dims &steps = box.steps[0], &dims = box.dims;
  const size_t rank = box.rank();
  // [n, columns, rows] read from [n, rows, columns].
  const bool swapped = rank >= 2 && rank <= 3 && steps[rank - 2] == 1 &&
                       steps[rank - 1] == dims[rank - 2] &&
                       (rank == 2 || steps[0] == dims[1] * dims[2]);
  if (swapped && view.start == 0 && (bytes == 1 || bytes == 4)) {
    const cpu::Transpose2d args{.n = rank == 3 ? dims[0] : 1,
                                .rows = dims[rank - 1],
                                .columns = dims[rank - 2],
                                .element_bytes = static_cast<int>(bytes)};
    selected.kernel = make_step(cpu::transpose_2d_kernels(), args);
    return;
  }
  if (rank > cpu::CopyStrided::max_rank)
    return decline(selected, "copy_strided", "more than 8 dimensions");
  cpu::CopyStrided args{.rank = static_cast<int>(rank), .element_bytes = static_cast<int>(bytes)};
  for (size_t d = 0; d < rank; ++d)
    args.dims[d] = dims[d], args.x_steps[d] = steps[d], args.y_steps[d] = box.steps[1][d];
  const auto offset = view.start * static_cast<int64_t>(bytes);
  selected.kernel = make_step(cpu::copy_strided_kernels(), args,
                              [offset](cpu::CopyStrided& a, StepInputs in, StepOutputs out) {
                                a.x = static_cast<const std::byte*>(in[0]) + offset;
                                a.y = out[0];
                              });
}

class ConcatStep final : public StepKernel {
 public:
  ConcatStep(const cpu::Kernel<cpu::CopyRows>& kernel, std::vector<cpu::CopyRows> parts)
      : kernel_(kernel), parts_(std::move(parts)) {}
  const char* name() const override { return kernel_.name; }
  Isa isa() const override { return kernel_.isa; }
  void run(StepInputs in, StepOutputs out, StepContext context) const override {
    auto* y = static_cast<std::byte*>(out[0]);
    for (size_t i = 0; i < parts_.size(); ++i) {
      cpu::CopyRows args = parts_[i];
      args.x = in[i];
      args.y = y;
      kernel_.run(args, context.pool);
      y += args.row_bytes;
    }
  }

 private:
  const cpu::Kernel<cpu::CopyRows>& kernel_;
  std::vector<cpu::CopyRows> parts_;
};

}  // namespace

void select_transpose(const Node& node, Selected& selected) {
  const Dims from = dense_steps(node.input(0)->shape().dims());
  ops::StridedView view;
  for (int64_t axis : node.integers("perm")) view.steps.push_back(from[static_cast<size_t>(axis)]);
  select_strided(node, node.output()->shape().dims(), view, selected);
}

void select_slice(const Node& node, Selected& selected) {
  if (decline_parameter_inputs(selected, "copy_strided", node)) return;
  select_strided(node, node.output()->shape().dims(),
                 ops::slice_view(node, node.input(0)->shape().dims()), selected);
}

void select_expand(const Node& node, Selected& selected) {
  if (decline_parameter_inputs(selected, "copy_strided", node)) return;
  const Dims y = node.output()->shape().dims();
  select_strided(node, y, {0, broadcast_steps(node.input(0)->shape().dims(), y)}, selected);
}

void select_tile(const Node& node, Selected& selected) {
  if (decline_parameter_inputs(selected, "copy_strided", node)) return;
  const Dims x = node.input(0)->shape().dims(), y = node.output()->shape().dims();
  const Dims dense = dense_steps(x);
  Dims cut;
  ops::StridedView view;
  for (size_t d = 0; d < x.size(); ++d)
    for (const bool inside : {false, true}) {
      cut.push_back(inside || x[d] == 0 ? x[d] : y[d] / x[d]);
      view.steps.push_back(inside ? dense[d] : 0);
    }
  select_strided(node, cut, view, selected);
}

void select_depth_to_space(const Node& node, Selected& selected) {
  const bool to_space = node.is("depth_to_space");
  const Dims y = node.output()->shape().dims();
  const Dims& deep = to_space ? node.input(0)->shape().dims() : y;
  const int64_t b = node.integer("block"), c = to_space ? y[1] : deep[1] / (b * b);
  const int64_t h = deep[2], w = deep[3];
  const bool crd = to_space && node.text("mode") == "crd";
  if (to_space) {  // [n, c, h, b, w, b] of channels [b, b, c], or [c, b, b]
    const int64_t plane = h * w, block = crd ? plane : c * plane;
    select_strided(node, {y[0], c, h, b, w, b},
                   {0, {deep[1] * plane, crd ? b * b * plane : plane, w, b * block, 1, block}},
                   selected);
  } else {  // [n, b, b, c, h, w]
    const int64_t row = w * b, plane = h * b * row;
    select_strided(node, {y[0], b, b, c, h, w}, {0, {c * plane, row, 1, plane, b * row, b}},
                   selected);
  }
}

void select_concat(const Node& node, Selected& selected) {
  const Dims y = node.output()->shape().dims();
  const auto axis = static_cast<size_t>(
      normalize_axis(node.integer("axis"), static_cast<int64_t>(y.size()), node.where()));
  auto inner = static_cast<int64_t>(dtype_size(node.output()->dtype()));
  int64_t outer = 1;
  for (size_t i = 0; i < y.size(); ++i)
    if (i != axis) (i < axis ? outer : inner) *= y[i];
  std::vector<cpu::CopyRows> parts;
  for (const Value* input : node.inputs()) {
    const int64_t row = inner * input->shape().dims()[axis];
    parts.push_back({.rows = outer, .row_bytes = row, .x_pitch = row, .y_pitch = inner * y[axis]});
  }
  selected.kernel =
      std::make_unique<ConcatStep>(cpu::best_kernel(cpu::copy_rows_kernels()), std::move(parts));
}

}  // namespace octavo
