// pad: boxes of the output that each are a strided copy of the input, and a fill for the rest.
#include <array>
#include <cstring>

#include "backends/cpu/copy.h"
#include "codegen/kernel_step.h"
#include "codegen/selectors.h"
#include "graph/op_def.h"
#include "ops/pad.h"

namespace octavo {
namespace {

// A stretch of one axis of the output, and where in the input it starts and goes.
struct Stretch {
  int64_t at, count, from, step;
};

std::vector<Stretch> stretches(const std::string& mode, int64_t size, int64_t before,
                               int64_t after) {
  std::vector<Stretch> result;
  for (int64_t at = 0; at < size + before + after; ++at) {
    const int64_t from = ops::pad_source(mode, at - before, size);
    if (from < 0) continue;
    if (!result.empty() && result.back().at + result.back().count == at) {
      Stretch& last = result.back();
      if (last.count == 1) last.step = from - last.from;
      if (from == last.from + last.count * last.step) {
        ++last.count;
        continue;
      }
    }
    result.push_back({at, 1, from, 0});
  }
  return result;
}

struct Part {
  cpu::CopyStrided copy;
  int64_t x_offset, y_offset;  // bytes
};

class PadStep final : public StepKernel {
 public:
  PadStep(std::vector<Part> parts, cpu::Fill fill, bool filled)
      : copy_(cpu::best_kernel(cpu::copy_strided_kernels())),
        fill_(cpu::best_kernel(cpu::fill_kernels())),
        parts_(std::move(parts)),
        fill_args_(fill),
        filled_(filled) {}
  const char* name() const override { return "pad_strided"; }
  Isa isa() const override { return copy_.isa; }
  void run(StepInputs in, StepOutputs out, StepContext context) const override {
    if (filled_) {
      constexpr uint64_t zero = 0;
      cpu::Fill args = fill_args_;
      args.value = in.size() > 1 && in[1] ? in[1] : &zero;
      args.y = out[0];
      fill_.run(args, context.pool);
    }
    for (const Part& part : parts_) {
      cpu::CopyStrided args = part.copy;
      args.x = static_cast<const std::byte*>(in[0]) + part.x_offset;
      args.y = static_cast<std::byte*>(out[0]) + part.y_offset;
      copy_.run(args, context.pool);
    }
  }

 private:
  const cpu::Kernel<cpu::CopyStrided>& copy_;
  const cpu::Kernel<cpu::Fill>& fill_;
  std::vector<Part> parts_;
  cpu::Fill fill_args_;
  bool filled_;
};

}  // namespace

void select_pad(const Node& node, Selected& selected) {
  const auto amounts = ops::pad_amounts(node);
  if (!amounts) return decline(selected, "pad_strided", "the pads are known only at run time");
  if (node.input(1) && element_count(node.input(1)->shape().dims()) != 1)
    return decline(selected, "pad_strided", "the value is not one number");
  const Dims x = node.input(0)->shape().dims(), y = node.output()->shape().dims();
  const std::string& mode = node.text("mode");
  const Dims x_steps = dense_steps(x), y_steps = dense_steps(y);
  const auto bytes = static_cast<int64_t>(dtype_size(node.output()->dtype()));
  std::vector<std::vector<Stretch>> axes;
  for (size_t d = 0; d < y.size(); ++d)
    axes.push_back(stretches(mode, x[d], amounts->before[d], amounts->after[d]));
  if (y.size() > cpu::CopyStrided::max_rank)
    return decline(selected, "pad_strided", "more than 8 dimensions");
  std::vector<Part> parts{
      {{.rank = static_cast<int>(y.size()), .element_bytes = int(bytes)}, 0, 0}};
  for (size_t d = 0; d < y.size(); ++d) {
    std::vector<Part> next;
    for (const Part& part : parts)
      for (const Stretch& s : axes[d]) {
        Part cut = part;
        cut.copy.dims[d] = s.count;
        cut.copy.x_steps[d] = s.step * x_steps[d];
        cut.copy.y_steps[d] = y_steps[d];
        cut.x_offset += s.from * x_steps[d] * bytes;
        cut.y_offset += s.at * y_steps[d] * bytes;
        next.push_back(cut);
      }
    parts = std::move(next);
  }
  const int64_t count = element_count(y);
  const bool whole = mode != "constant" || (parts.size() == 1 && y == x);
  selected.kernel = std::make_unique<PadStep>(
      std::move(parts), cpu::Fill{.count = count, .element_bytes = int(bytes)}, !whole);
}

}  // namespace octavo
