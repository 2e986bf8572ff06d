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

// Nothing if the input would have to repeat more than once.
std::optional<std::vector<Stretch>> stretches(const std::string& mode, int64_t size, int64_t before,
                                              int64_t after) {
  const int64_t total = size + before + after;
  const int64_t head = std::clamp<int64_t>(before, 0, total),
                tail = std::clamp<int64_t>(after, 0, total - head);
  std::vector<Stretch> result;
  const auto add = [&](int64_t at, int64_t count, int64_t from, int64_t step) {
    if (count > 0) result.push_back({at, count, from, step});
  };
  add(head, total - head - tail, std::max<int64_t>(-before, 0), 1);
  if (mode == "edge") {
    add(0, head, 0, 0);
    add(total - tail, tail, size - 1, 0);
  } else if (mode == "reflect") {
    if (head >= size || tail >= size) return std::nullopt;
    add(0, head, before, -1);
    add(total - tail, tail, size - 2, -1);
  } else if (mode == "wrap") {
    if (head > size || tail > size) return std::nullopt;
    add(0, head, size - before, 1);
    add(total - tail, tail, 0, 1);
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
  for (size_t d = 0; d < y.size(); ++d) {
    const auto cut = stretches(mode, x[d], amounts->before[d], amounts->after[d]);
    if (!cut) return decline(selected, "pad_strided", "pads beyond one copy of the input");
    axes.push_back(*cut);
  }
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
