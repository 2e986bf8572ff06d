#include <algorithm>
#include <cstring>
#include <unordered_map>

#include "codegen/compile.h"
#include "codegen/fuse_steps.h"
#include "codegen/memory.h"
#include "codegen/select.h"
#include "codegen/selectors.h"
#include "graph/op_def.h"
#include "support/error.h"

namespace octavo {
namespace {

// Reinterprets bytes: its output can be its input's memory.
bool is_view(const Node& node) {
  return node.is("reshape") || node.is("squeeze") || node.is("unsqueeze") || node.is("flatten");
}

class CopyKernel final : public StepKernel {
 public:
  explicit CopyKernel(size_t bytes) : bytes_(bytes) {}
  const char* name() const override { return "copy"; }
  Isa isa() const override { return Isa::portable; }
  void run(std::span<const void* const> in, std::span<void* const> out,
           StepContext) const override {
    std::memcpy(out[0], in[0], bytes_);
  }

 private:
  size_t bytes_;
};

size_t value_bytes(const Value& value) {
  return static_cast<size_t>(element_count(value.shape().dims())) * dtype_size(value.dtype());
}

int64_t count_macs(const Node& node) {
  if (node.is("matmul"))
    return element_count(node.output()->shape().dims()) * node.input(0)->shape().back().value();
  if (!node.is("fused_conv") && !node.is("fused_gemm") && !node.is("conv") && !node.is("gemm"))
    return 0;
  const Dims w = node.input(1)->shape().dims();
  const bool k_first = node.is("gemm") ? node.integer("trans_b") == 0
                                       : node.is("fused_gemm") && node.integer("trans_w") != 0;
  const int64_t channels = k_first ? w[1] : w[0];
  return channels == 0
             ? 0
             : element_count(node.output()->shape().dims()) * (element_count(w) / channels);
}

class Builder {
 public:
  Builder(const Graph& graph, const CompileOptions& options)
      : graph_(graph), options_(options), plan_(std::make_shared<Plan>()) {}

  std::shared_ptr<Plan> build() {
    for (const Value* input : graph_.inputs()) {
      plan_->input_types.push_back(input->type());
      slot_of_[input] = add_slot({Slot::Kind::input, plan_->input_types.size() - 1});
    }
    for (const Value* output : graph_.outputs()) {
      if (!output->shape().is_static())
        throw UserError(
            ErrorKind::unsupported, fmt::format("output '{}'", output->name()),
            fmt::format("its shape {} is not known at compile time", output->shape().str()),
            "give the inputs fixed shapes, or cut the network before the node that makes it");
      plan_->output_types.push_back(output->type());
    }
    claim_outputs();
    if (options_.fuse_steps) {
      for (const StepItem& item : fused_steps(graph_)) add_item(item);
    } else {
      for (const Node* node = graph_.first(); node; node = node->next()) add_step(*node);
    }
    copy_outputs();
    place();
    return plan_;
  }

 private:
  // The value whose memory `value` shares.
  static const Value* root(const Value* value) {
    while (value->producer() && is_view(*value->producer())) value = value->producer()->input(0);
    return value;
  }

  int add_slot(Slot slot) {
    plan_->slots.push_back(slot);
    return static_cast<int>(plan_->slots.size()) - 1;
  }

  // A value that becomes an output is written into the caller's memory straight away.
  void claim_outputs() {
    for (size_t i = 0; i < graph_.outputs().size(); ++i) {
      const Value* source = root(graph_.outputs()[i]);
      if (source->producer() && !slot_of_.contains(source))
        slot_of_[source] = add_slot({Slot::Kind::output, i});
    }
  }

  int slot(const Value* value) {
    if (!value) return -1;
    value = root(value);
    if (const auto it = slot_of_.find(value); it != slot_of_.end()) return it->second;
    OCTAVO_CHECK(value->is_constant());
    plan_->constants.push_back(value->constant());
    return slot_of_[value] = add_slot({Slot::Kind::constant, plan_->constants.size() - 1});
  }

  void touch(int s) {
    if (s >= 0 && plan_->slots[static_cast<size_t>(s)].kind == Slot::Kind::arena)
      blocks_[block_of_[s]].last = static_cast<int>(plan_->steps.size());
  }

  void add_step(const Node& node) {
    if (is_view(node)) return;
    Selected selected = select_kernel(node);
    Step step;
    step.node = node.name().empty() ? node.output()->name() : node.name();
    step.op = node.op_name();
    step.declined = std::move(selected.declined);
    step.macs = count_macs(node);
    for (size_t i = 0; i < node.inputs().size(); ++i) {
      const Value* input = node.input(i);
      if (input) step.bytes += value_bytes(*input);
      const bool absorbed = std::find(selected.absorbed.begin(), selected.absorbed.end(), i) !=
                            selected.absorbed.end();
      step.inputs.push_back(absorbed ? -1 : slot(input));
      touch(step.inputs.back());
    }
    for (const Value* output : node.outputs()) add_output(step, output);
    add(std::move(step), std::move(selected.kernel));
  }

  void add_output(Step& step, const Value* output) {
    // What has no float result compares or rounds: there a denormal number is what it is.
    const DType type = output->dtype();
    if (type == DType::f32 || type == DType::f16 || type == DType::bf16)
      step.flushes = !options_.keep_denormals;
    step.bytes += value_bytes(*output);
    if (!slot_of_.contains(output)) {
      const int s = add_slot({Slot::Kind::arena});
      slot_of_[output] = s;
      block_of_[s] = blocks_.size();
      const int now = static_cast<int>(plan_->steps.size());
      blocks_.push_back({value_bytes(*output), now, now});
    }
    step.outputs.push_back(slot_of_[output]);
  }

  void add(Step step, std::unique_ptr<const StepKernel> kernel) {
    plan_->scratch_bytes = std::max(plan_->scratch_bytes, kernel->scratch_bytes(options_.threads));
    step.kernel = std::move(kernel);
    plan_->steps.push_back(std::move(step));
  }

  // A transpose that products alone read: they read what it transposes.
  bool is_absorbed_transpose(const Node& node) const {
    if (!node.is("transpose") || graph_.is_output(node.output()) ||
        !transposed_operand(node.output()))
      return false;
    const auto& uses = node.output()->uses();
    return std::all_of(uses.begin(), uses.end(), [](const Use& use) {
      return use.node->is("matmul") && use.node->output()->dtype() == DType::f32;
    });
  }

  void add_product(const Node& node) {
    const Value* operands[2] = {node.input(0), node.input(1)};
    bool transposed[2] = {false, false};
    for (size_t i = 0; i < 2; ++i)
      if (const Value* from = transposed_operand(operands[i])) {
        operands[i] = from;
        transposed[i] = true;
      }
    Selected selected;
    select_matmul_of(node, transposed[0], transposed[1], selected);
    Step step;
    step.node = node.name().empty() ? node.output()->name() : node.name();
    step.op = node.op_name();
    step.macs = count_macs(node);
    for (const Value* operand : operands) {
      step.bytes += value_bytes(*operand);
      step.inputs.push_back(slot(operand));
      touch(step.inputs.back());
    }
    add_output(step, node.output());
    add(std::move(step), std::move(selected.kernel));
  }

  void add_item(const StepItem& item) {
    const Node& last = *item.nodes.back();
    if (!is_group(item)) {
      if (last.is("matmul") && last.output()->dtype() == DType::f32)
        add_product(last);
      else if (!is_absorbed_expand(graph_, last) && !is_absorbed_transpose(last))
        add_step(last);
      return;
    }
    FusedStep fused = make_fused_step(graph_, item);
    Step step;
    step.node = last.name().empty() ? last.output()->name() : last.name();
    step.op = "pointwise";
    for (const Value* input : fused.inputs) {
      step.bytes += value_bytes(*input);
      step.inputs.push_back(slot(input));
      touch(step.inputs.back());
    }
    for (const Value* output : fused.outputs) add_output(step, output);
    add(std::move(step), std::move(fused.kernel));
  }

  // Outputs that are inputs, constants, or the same value twice.
  void copy_outputs() {
    for (size_t i = 0; i < graph_.outputs().size(); ++i) {
      const Value* value = graph_.outputs()[i];
      const int source = slot(value);
      const Slot s = plan_->slots[static_cast<size_t>(source)];
      if (s.kind == Slot::Kind::output && s.index == i) continue;
      Step step;
      step.node = value->name();
      step.op = "copy";
      step.bytes = 2 * value_bytes(*value);
      step.kernel = std::make_unique<CopyKernel>(value_bytes(*value));
      step.inputs = {source};
      step.outputs = {add_slot({Slot::Kind::output, i})};
      plan_->steps.push_back(std::move(step));
    }
  }

  void place() {
    const MemoryPlan memory = plan_memory(blocks_);
    plan_->arena_bytes = memory.bytes;
    plan_->least_arena_bytes = memory.least;
    for (const auto& [s, block] : block_of_)
      plan_->slots[static_cast<size_t>(s)].offset = blocks_[block].offset;
  }

  const Graph& graph_;
  CompileOptions options_;
  std::shared_ptr<Plan> plan_;
  std::unordered_map<const Value*, int> slot_of_;
  std::unordered_map<int, size_t> block_of_;
  std::vector<MemoryBlock> blocks_;
};

}  // namespace

std::shared_ptr<const Plan> build_plan(const Graph& graph, const CompileOptions& options,
                                       std::optional<Continuation> then) {
  auto plan = Builder(graph, options).build();
  plan->then = std::move(then);
  return plan;
}

}  // namespace octavo
