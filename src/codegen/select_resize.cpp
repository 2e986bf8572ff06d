// resize of up to two neighbouring axes, by nearest or linear interpolation, in any layout.
#include "backends/cpu/copy.h"
#include "codegen/kernel_step.h"
#include "codegen/selectors.h"
#include "graph/op_def.h"
#include "ops/resize.h"

namespace octavo {
namespace {

// The tables of one axis; nothing if it takes more than two elements, or none.
std::optional<std::vector<cpu::ResizeTap>> table(const Node& node, const ops::ResizeAxis& axis) {
  std::vector<cpu::ResizeTap> taps;
  for (int64_t i = 0; i < axis.wanted; ++i) {
    if (!axis.sampled) {
      const auto at = static_cast<int32_t>(i);
      taps.push_back({at, at, 0});
      continue;
    }
    const ops::ResizeTaps from = ops::resize_taps(node, axis, i);
    if (from.outside || from.taps.empty() || from.taps.size() > 2) return std::nullopt;
    const auto& [low, weight] = from.taps.front();
    const auto& [high, other] = from.taps.back();
    if (from.taps.size() == 1 && weight != 1) return std::nullopt;
    taps.push_back({static_cast<int32_t>(low), static_cast<int32_t>(high),
                    from.taps.size() == 1 ? 0.0f : static_cast<float>(other)});
  }
  return taps;
}

bool is_identity(const std::vector<cpu::ResizeTap>& taps, int64_t size) {
  if (static_cast<int64_t>(taps.size()) != size) return false;
  for (size_t i = 0; i < taps.size(); ++i)
    if (taps[i].low != static_cast<int32_t>(i) || taps[i].weight != 0) return false;
  return true;
}

}  // namespace

void select_resize(const Node& node, Selected& selected) {
  constexpr const char* kernel = "resize";
  const DType dtype = node.output()->dtype();
  const bool nearest = node.text("mode") == "nearest";
  if (!nearest && node.text("mode") != "linear")
    return decline(selected, kernel, "interpolates by nearest or linear");
  if (!nearest && !is_byte(dtype) && dtype != DType::f32)
    return decline(selected, kernel, "interpolates f32 and bytes");
  const auto axes = ops::resize_axes(node);
  if (!axes) return decline(selected, kernel, "the sizes are known only at run time");
  std::vector<std::vector<cpu::ResizeTap>> tables;
  size_t first = axes->size(), last = 0;
  for (size_t d = 0; d < axes->size(); ++d) {
    const auto taps = table(node, (*axes)[d]);
    if (!taps) return decline(selected, kernel, "an element takes more than two, or none");
    if (!is_identity(*taps, (*axes)[d].size)) first = std::min(first, d), last = d;
    tables.push_back(*taps);
  }
  if (axes->empty()) return decline(selected, kernel, "a scalar");
  if (first > last) first = last = 0;  // nothing moves
  if (last - first > 1) return decline(selected, kernel, "more than two neighbouring axes");
  // One axis is a column of rows.
  int64_t before = 1, after = 1;
  for (size_t d = 0; d < axes->size(); ++d)
    if (d < first || d > last) (d < first ? before : after) *= (*axes)[d].size;
  const std::vector<cpu::ResizeTap> none{{0, 0, 0}};
  const auto rows = last > first ? tables[first] : none, columns = tables[last];
  const int64_t h = last > first ? (*axes)[first].size : 1, w = (*axes)[last].size;
  const auto oh = static_cast<int64_t>(rows.size()), ow = static_cast<int64_t>(columns.size());
  if (nearest) {
    std::vector<int32_t> row_table, column_table;
    for (const auto& tap : rows) row_table.push_back(tap.low);
    for (const auto& tap : columns) column_table.push_back(tap.low);
    const cpu::ResizeNearest args{before, h,  w,
                                  oh,     ow, after * static_cast<int64_t>(dtype_size(dtype))};
    selected.kernel =
        make_step(cpu::resize_nearest_kernels(), args,
                  [row_table, column_table](cpu::ResizeNearest& a, StepInputs in, StepOutputs out) {
                    a.rows = row_table.data();
                    a.columns = column_table.data();
                    a.x = in[0];
                    a.y = out[0];
                  });
    return;
  }
  cpu::ResizeBilinear args{before, h, w, oh, ow, after};
  args.element = element_of(dtype);
  selected.kernel =
      make_step(cpu::resize_bilinear_kernels(), args,
                [rows, columns](cpu::ResizeBilinear& a, StepInputs in, StepOutputs out) {
                  a.rows = rows.data();
                  a.columns = columns.data();
                  a.x = in[0];
                  a.y = out[0];
                });
}

}  // namespace octavo
