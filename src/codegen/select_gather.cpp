// Elements picked by an index or a condition, and casts.
#include "backends/cpu/cast_half.h"
#include "backends/cpu/copy.h"
#include "backends/cpu/gather_integers.h"
#include "backends/cpu/parallel.h"
#include "codegen/kernel_step.h"
#include "codegen/selectors.h"
#include "graph/element.h"
#include "graph/op_def.h"

namespace octavo {
namespace {

class CastStep final : public StepKernel {
 public:
  CastStep(DType from, DType to, int64_t count) : from_(from), to_(to), count_(count) {}
  const char* name() const override { return "cast"; }
  Isa isa() const override { return Isa::portable; }
  void run(StepInputs in, StepOutputs out, StepContext context) const override {
    visit_dtype(from_, [&](auto from) {
      visit_dtype(to_, [&](auto to) {
        using From = decltype(from);
        using To = decltype(to);
        const auto* x = static_cast<const From*>(in[0]);
        auto* y = static_cast<To*>(out[0]);
        cpu::parallel_chunks(context.pool, count_, 16384, [&](int64_t begin, int64_t end) {
          for (int64_t i = begin; i < end; ++i) y[i] = store_element<To>(load_element(x[i]));
        });
      });
    });
  }

 private:
  DType from_, to_;
  int64_t count_;
};

}  // namespace

void select_gather(const Node& node, Selected& selected) {
  const Dims x = node.input(0)->shape().dims();
  const auto axis = static_cast<size_t>(
      normalize_axis(node.integer("axis"), static_cast<int64_t>(x.size()), node.where()));
  cpu::GatherRows args{.rows = x[axis],
                       .row_bytes = static_cast<int64_t>(dtype_size(node.output()->dtype())),
                       .count = element_count(node.input(1)->shape().dims()),
                       .index_bytes = static_cast<int>(dtype_size(node.input(1)->dtype()))};
  for (size_t d = 0; d < x.size(); ++d)
    if (d != axis) (d < axis ? args.outer : args.row_bytes) *= x[d];
  selected.kernel = make_step(cpu::gather_rows_kernels(), args,
                              [](cpu::GatherRows& a, StepInputs in, StepOutputs out) {
                                a.x = in[0];
                                a.indices = in[1];
                                a.y = out[0];
                              });
}

void select_fused_gather(const Node& node, Selected& selected) {
  const Dims table = node.input(0)->shape().dims(), scale = node.input(2)->shape().dims();
  const int64_t columns = node.output()->shape().back().value(), group = node.integer("group_size");
  const cpu::GatherIntegers args{
      .rows = table[0],
      .columns = columns,
      .row_bytes = table[1],
      .group = group > 0 ? group : std::max<int64_t>(columns, 1),
      .groups = scale[1],
      .count = element_count(node.input(1)->shape().dims()),
      .index_bytes = static_cast<int>(dtype_size(node.input(1)->dtype())),
      .four_bits = !node.text("packed").empty(),
      .is_signed = node.input(0)->dtype() == DType::i8 || node.text("packed") == "i4"};
  selected.kernel = make_step(cpu::gather_integers_kernels(), args,
                              [](cpu::GatherIntegers& a, StepInputs in, StepOutputs out) {
                                a.x = static_cast<const uint8_t*>(in[0]);
                                a.indices = in[1];
                                a.scales = static_cast<const float*>(in[2]);
                                a.zero_points =
                                    static_cast<const uint8_t*>(in.size() > 3 ? in[3] : nullptr);
                                a.y = static_cast<float*>(out[0]);
                              });
}

void select_where(const Node& node, Selected& selected) {
  const Dims y = node.output()->shape().dims();
  std::vector<Dims> steps;
  for (const Value* input : node.inputs())
    steps.push_back(broadcast_steps(input->shape().dims(), y));
  const StridedBox box = merged({y, steps});
  if (box.rank() > cpu::Choose::max_rank)
    return decline(selected, "choose", "broadcasts over more than 8 dimensions");
  cpu::Choose args{.rank = static_cast<int>(box.rank()),
                   .element_bytes = static_cast<int>(dtype_size(node.output()->dtype()))};
  for (size_t d = 0; d < box.rank(); ++d) {
    args.dims[d] = box.dims[d];
    args.condition_steps[d] = box.steps[0][d];
    args.a_steps[d] = box.steps[1][d];
    args.b_steps[d] = box.steps[2][d];
  }
  selected.kernel =
      make_step(cpu::choose_kernels(), args, [](cpu::Choose& a, StepInputs in, StepOutputs out) {
        a.condition = static_cast<const uint8_t*>(in[0]);
        a.a = in[1];
        a.b = in[2];
        a.y = out[0];
      });
}

void select_cast(const Node& node, Selected& selected) {
  const DType from = node.input(0)->dtype(), to = node.output()->dtype();
  if ((from == DType::f32 && half_of(to) != cpu::HalfType::none) ||
      (to == DType::f32 && half_of(from) != cpu::HalfType::none)) {
    selected.kernel =
        make_step(cpu::cast_half_kernels(),
                  cpu::CastHalf{.half = half_of(to == DType::f32 ? from : to),
                                .widen = to == DType::f32,
                                .count = element_count(node.output()->shape().dims())});
    return;
  }
  selected.kernel = std::make_unique<CastStep>(node.input(0)->dtype(), node.output()->dtype(),
                                               element_count(node.output()->shape().dims()));
}

}  // namespace octavo
