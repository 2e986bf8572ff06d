#include "program.h"

#include <ATen/EmptyTensor.h>
#include <ATen/Parallel.h>
#include <ATen/core/LegacyTypeDispatch.h>
#include <ATen/ops/empty_strided.h>
#include <fmt/format.h>

#include <algorithm>

#include "codegen/compile.h"
#include "graph/shape.h"
#include "regions.h"
#include "support/buffer.h"
#include "support/error.h"

namespace octavo::aten {
namespace {

constexpr int no_slot = -1;

std::size_t at(int index) { return static_cast<std::size_t>(index); }

// A tensor that a region reads.
struct RegionInput {
  int slot;
  bool row_major;
  std::vector<std::int64_t> strides, order;  // where it is not row-major
};

// A tensor that a region makes.
struct RegionOutput {
  int slot;
  ValueInfo info;
  bool dense;            // else made row-major and copied
  int target = no_slot;  // the input in whose memory it is made
};

struct Region {
  octavo::Program program;
  std::shared_ptr<const Plan> plan;
  std::vector<RegionInput> inputs;
  std::vector<RegionOutput> outputs;
};

// A call of torch.
struct Opaque {
  struct Slots {
    std::size_t argument;
    bool list;
    bool optional;  // of a list: elements may be None
    std::vector<int> slots;
  };
  c10::OperatorHandle op;
  std::optional<InPlace> in_place;
  std::vector<c10::IValue> arguments;  // tensors left out
  std::vector<Slots> tensors;
  std::vector<int> outputs;
};

struct Step {
  std::unique_ptr<Region> region;
  std::unique_ptr<Opaque> opaque;
  std::vector<int> last;  // slots that nothing reads after it
};

using Values = std::vector<at::Tensor>;

void run_opaque(const Opaque& call, Values& values) {
  torch::jit::Stack stack(call.arguments);
  for (const Opaque::Slots& tensors : call.tensors) {
    if (!tensors.list) {
      stack[tensors.argument] = values[at(tensors.slots[0])];
      continue;
    }
    if (tensors.optional) {
      c10::List<std::optional<at::Tensor>> list;
      list.reserve(tensors.slots.size());
      for (const int slot : tensors.slots)
        list.push_back(slot == no_slot ? std::optional<at::Tensor>() : values[at(slot)]);
      stack[tensors.argument] = std::move(list);
    } else {
      c10::List<at::Tensor> list;
      list.reserve(tensors.slots.size());
      for (const int slot : tensors.slots) list.push_back(values[at(slot)]);
      stack[tensors.argument] = std::move(list);
    }
  }
  call_as(call.op, call.in_place, stack);
  std::size_t next = 0;
  std::size_t given = 0;
  for (const c10::IValue& result : stack)
    given += result.isTensor() ? 1 : result.isTensorList() ? result.toListRef().size() : 0;
  // Masked gradients are undefined; a graph has values for them or leaves them out.
  const bool all = given == call.outputs.size();
  const auto take = [&](const at::Tensor& tensor) {
    if (!tensor.defined() && !all) return;
    if (next < call.outputs.size()) values[at(call.outputs[next])] = tensor;
    ++next;
  };
  for (const c10::IValue& result : stack) {
    if (result.isTensor())
      take(result.toTensor());
    else if (result.isTensorList())
      for (const at::Tensor& tensor : result.toTensorVector()) take(tensor);
  }
  if (next != call.outputs.size())
    throw InternalError(fmt::format("{} gave {} tensors, the program has {}",
                                    toString(call.op.operator_name()), next, call.outputs.size()));
}

void run_region(Region& region, Values& values, const std::vector<at::Tensor>& inputs) {
  c10::SmallVector<const void*, 32> in;
  c10::SmallVector<void*, 32> out;
  std::vector<at::Tensor> copies;
  for (const RegionInput& input : region.inputs) {
    const at::Tensor& tensor = values[at(input.slot)];
    const bool fits = input.row_major ? tensor.is_contiguous() : tensor.strides() == input.strides;
    if (fits) {
      in.push_back(tensor.const_data_ptr());
    } else {
      copies.push_back(input.order.empty() ? tensor.contiguous()
                                           : tensor.permute(input.order).contiguous());
      in.push_back(copies.back().const_data_ptr());
    }
  }
  std::vector<std::pair<const RegionOutput*, at::Tensor>> strided;
  for (const RegionOutput& output : region.outputs) {
    at::Tensor& tensor = values[at(output.slot)];
    if (output.target != no_slot && inputs[at(output.target)].is_contiguous()) {
      tensor = inputs[at(output.target)];
    } else if (output.dense) {
      tensor =
          at::detail::empty_strided_cpu(output.info.sizes, output.info.strides, output.info.dtype);
    } else {
      strided.emplace_back(&output, at::detail::empty_cpu(output.info.sizes, output.info.dtype));
      out.push_back(strided.back().second.mutable_data_ptr());
      continue;
    }
    out.push_back(tensor.mutable_data_ptr());
  }
  region.program.run(*region.plan, {in.data(), in.size()}, {out.data(), out.size()});
  for (auto& [output, dense] : strided) {
    at::Tensor& tensor = values[at(output->slot)];
    tensor =
        at::detail::empty_strided_cpu(output->info.sizes, output->info.strides, output->info.dtype);
    tensor.copy_(dense);
  }
}

}  // namespace

struct Program::State {
  std::vector<ValueInfo> input_infos;
  std::vector<int> input_slots;
  std::vector<std::pair<int, at::Tensor>> constants;
  std::vector<Step> steps;
  std::vector<int> output_slots;
  struct Write {
    std::size_t input;
    int slot;
    bool may_alias = true;  // the value may lie in an input's memory
  };
  std::vector<Write> writes;
  std::size_t slots = 0;
  Summary summary;
};

namespace {

class Builder {
 public:
  explicit Builder(const Graph& graph)
      : graph_(graph), facts_(graph), slot_of_(graph.values.size(), no_slot) {}

  template <class State>
  void build(State& state) {
    std::unordered_set<std::size_t> refused;
    for (;;) {
      steps_ = cut(facts_, refused);
      const std::size_t before = refused.size();
      compile(refused, state.summary);
      if (refused.size() == before) break;
    }
    for (const ValueId value : graph_.inputs) {
      state.input_infos.push_back(graph_.values[Call::at(value)]);
      state.input_slots.push_back(slot(value));
    }
    for (const auto& [value, tensor] : graph_.constants)
      state.constants.emplace_back(slot(value), tensor);
    std::size_t region = 0;
    for (const PlannedStep& step : steps_) {
      Step made;
      if (step.kind == PlannedStep::Kind::region) {
        made.region = bind(step, std::move(*regions_[region++]));
        state.summary.lowered += step.nodes.size();
      } else {
        made.opaque = bind(step);
        const Call call(facts_, graph_.nodes[step.nodes[0]]);
        if (step.kind == PlannedStep::Kind::view)
          ++state.summary.views;
        else
          ++state.summary.opaque[call.name()];
      }
      state.steps.push_back(std::move(made));
    }
    state.summary.nodes = graph_.nodes.size();
    state.summary.regions = regions_.size();
    for (const ValueId value : graph_.outputs) state.output_slots.push_back(slot(value));
    for (const auto& [input, value] : graph_.writes)
      state.writes.push_back({input, slot(value), true});
    state.slots = slots_;
    find_writes(state);
    release(state);
  }

 private:
  int slot(ValueId value) {
    int& slot = slot_of_[Call::at(value)];
    if (slot == no_slot) slot = static_cast<int>(slots_++);
    return slot;
  }

  // What cannot be compiled after all stays with torch.
  void compile(std::unordered_set<std::size_t>& refused, Program::Summary& summary) {
    regions_.clear();
    CompileOptions options;
    options.threads = at::get_num_threads();
    options.fuse_steps = true;
    options.keep_denormals = true;  // torch.set_flush_denormal decides
    for (const PlannedStep& step : steps_) {
      if (step.kind != PlannedStep::Kind::region) continue;
      try {
        regions_.push_back(std::make_unique<octavo::Program>(
            octavo::compile(lower_region(facts_, step), options)));
      } catch (const UserError& error) {
        for (const std::size_t i : step.nodes) {
          refused.insert(i);
          summary.refused.emplace(Call(facts_, graph_.nodes[i]).name(), error.what());
        }
      }
    }
  }

  std::unique_ptr<Region> bind(const PlannedStep& step, octavo::Program program) {
    std::vector<Dims> dims;
    for (const TensorType& type : program.signature().input_types)
      dims.push_back(type.shape.dims());
    auto plan = program.plan(dims);
    auto region = std::make_unique<Region>(Region{std::move(program), std::move(plan), {}, {}});
    for (const ValueId value : step.inputs) {
      if (is_constant(value)) continue;
      const ValueInfo& info = graph_.values[Call::at(value)];
      auto order = order_of(info);
      const bool row_major = order.empty() || std::is_sorted(order.begin(), order.end());
      if (row_major) order.clear();
      region->inputs.push_back({slot(value), row_major, info.strides, std::move(order)});
    }
    for (const ValueId value : step.outputs) {
      const ValueInfo& info = graph_.values[Call::at(value)];
      region->outputs.push_back({slot(value), info, info.sizes.empty() || !order_of(info).empty()});
    }
    return region;
  }

  std::unique_ptr<Opaque> bind(const PlannedStep& step) {
    const Node& node = graph_.nodes[step.nodes[0]];
    auto call = std::make_unique<Opaque>(Opaque{node.op, node.in_place, {}, {}, {}});
    const auto& schema = node.op.schema().arguments();
    for (std::size_t i = 0; i < node.arguments.size(); ++i) {
      const Argument& argument = node.arguments[i];
      if (const auto* constant = std::get_if<c10::IValue>(&argument)) {
        call->arguments.push_back(*constant);
        continue;
      }
      call->arguments.emplace_back();
      if (const auto* value = std::get_if<ValueId>(&argument)) {
        call->tensors.push_back({i, false, false, {slot(*value)}});
        continue;
      }
      Opaque::Slots tensors{i, true, false, {}};
      const auto list = schema[i].type()->cast<c10::ListType>();
      tensors.optional = list && list->getElementType()->kind() == c10::TypeKind::OptionalType;
      for (const auto& value : std::get<std::vector<std::optional<ValueId>>>(argument))
        tensors.slots.push_back(value ? slot(*value) : no_slot);
      call->tensors.push_back(std::move(tensors));
    }
    for (const ValueId value : node.outputs) call->outputs.push_back(slot(value));
    return call;
  }

  bool is_constant(ValueId value) const {
    return std::any_of(graph_.constants.begin(), graph_.constants.end(),
                       [&](const auto& entry) { return entry.first == value; });
  }

  // What regions make for the inputs is made in their memory where nothing reads them afterwards.
  template <class State>
  void find_writes(State& state) {
    std::vector<int> readers(slots_, 0);  // steps of torch, outputs and writes that read a slot
    std::vector<std::ptrdiff_t> last(slots_, -1), made(slots_, -1);
    for (std::size_t i = 0; i < state.steps.size(); ++i) {
      const Step& step = state.steps[i];
      if (step.region) {
        for (const auto& input : step.region->inputs)
          last[at(input.slot)] = static_cast<std::ptrdiff_t>(i);
        for (const auto& output : step.region->outputs)
          made[at(output.slot)] = static_cast<std::ptrdiff_t>(i);
      } else {
        for (const auto& tensors : step.opaque->tensors)
          for (const int slot : tensors.slots)
            if (slot != no_slot) ++readers[at(slot)];
      }
    }
    for (const int slot : state.output_slots) ++readers[at(slot)];
    for (const auto& write : state.writes) ++readers[at(write.slot)];
    std::unordered_map<const Region*, Accesses> known;
    for (auto& write : state.writes) {
      const int target = state.input_slots[write.input];
      const std::ptrdiff_t step = made[at(write.slot)];
      if (step < 0) continue;
      write.may_alias = false;
      // The value is read by this write alone: what else reads it would see the input's memory.
      if (readers[at(write.slot)] != 1 || readers[at(target)] != 0 || last[at(target)] > step)
        continue;
      Region& region = *state.steps[static_cast<std::size_t>(step)].region;
      auto found = known.find(&region);
      if (found == known.end()) found = known.emplace(&region, accesses(region)).first;
      for (std::size_t k = 0; k < region.outputs.size(); ++k) {
        RegionOutput& output = region.outputs[k];
        if (output.slot != write.slot) continue;
        const ValueInfo& info = state.input_infos[write.input];
        const auto order = order_of(output.info);
        if ((order.empty() && !info.sizes.empty()) || !std::is_sorted(order.begin(), order.end()) ||
            info.dtype != output.info.dtype || info.sizes != output.info.sizes ||
            !may_overwrite(region, found->second, target, k))
          continue;
        output.target = static_cast<int>(write.input);
        ++state.summary.in_place;
      }
    }
  }

  // Who reads a region's inputs and writes its outputs, by step of its plan.
  struct Accesses {
    struct Read {
      std::size_t step, input;
    };
    std::vector<std::vector<Read>> reads;  // of each input
    std::vector<std::size_t> written;      // each output's step
  };
  static Accesses accesses(const Region& region) {
    Accesses a{std::vector<std::vector<Accesses::Read>>(region.inputs.size()),
               std::vector<std::size_t>(region.outputs.size())};
    const Plan& plan = *region.plan;
    for (std::size_t i = 0; i < plan.steps.size(); ++i) {
      const octavo::Step& step = plan.steps[i];
      for (std::size_t k = 0; k < step.inputs.size(); ++k) {
        if (step.inputs[k] < 0) continue;
        const Slot& slot = plan.slots[at(step.inputs[k])];
        if (slot.kind == Slot::Kind::input) a.reads[slot.index].push_back({i, k});
      }
      for (const int output : step.outputs) {
        if (output < 0) continue;
        const Slot& slot = plan.slots[at(output)];
        if (slot.kind == Slot::Kind::output) a.written[slot.index] = i;
      }
    }
    return a;
  }

  // Whether the region may write its output k into the memory of the input in slot `target`.
  static bool may_overwrite(const Region& region, const Accesses& a, int target, std::size_t k) {
    for (std::size_t input = 0; input < region.inputs.size(); ++input) {
      if (region.inputs[input].slot != target) continue;
      if (!region.inputs[input].row_major) return false;
      for (const Accesses::Read& read : a.reads[input]) {
        if (read.step > a.written[k]) return false;
        if (read.step == a.written[k] &&
            !region.plan->steps[read.step].kernel->may_overwrite(read.input))
          return false;
      }
    }
    return true;
  }

  // Slots are emptied behind their last reader, but for what outlives the steps.
  template <class State>
  void release(State& state) const {
    std::vector<std::ptrdiff_t> last(slots_, -1);
    for (std::size_t i = 0; i < state.steps.size(); ++i) {
      const auto touch = [&](int slot) {
        if (slot != no_slot) last[at(slot)] = static_cast<std::ptrdiff_t>(i);
      };
      const Step& step = state.steps[i];
      if (step.region) {
        for (const auto& input : step.region->inputs) touch(input.slot);
        for (const auto& output : step.region->outputs) touch(output.slot);
      } else {
        for (const auto& tensors : step.opaque->tensors)
          for (const int slot : tensors.slots) touch(slot);
        for (const int slot : step.opaque->outputs) touch(slot);
      }
    }
    for (const int slot : state.output_slots) last[at(slot)] = -1;
    for (const auto& write : state.writes) last[at(write.slot)] = -1;
    for (const int slot : state.input_slots) last[at(slot)] = -1;
    for (std::size_t slot = 0; slot < slots_; ++slot)
      if (last[slot] >= 0)
        state.steps[static_cast<std::size_t>(last[slot])].last.push_back(static_cast<int>(slot));
  }

  const Graph& graph_;
  Facts facts_;
  std::vector<PlannedStep> steps_;
  std::vector<std::unique_ptr<octavo::Program>> regions_;
  std::vector<int> slot_of_;
  std::size_t slots_ = 0;
};

}  // namespace

Program::Program(const Graph& graph) : state_(std::make_unique<State>()) {
  Builder(graph).build(*state_);
  // Weights on their way to packed ones leave holes in the heap, for each size that is compiled.
  constexpr std::size_t much = 8 << 20;
  std::size_t bytes = 0;
  for (const auto& [value, tensor] : graph.constants) bytes += tensor.nbytes();
  if (bytes >= much) release_free_memory();
}
Program::~Program() = default;
Program::Program(Program&&) noexcept = default;
Program& Program::operator=(Program&&) noexcept = default;

const Program::Summary& Program::summary() const { return state_->summary; }

std::vector<at::Tensor> Program::run(const std::vector<at::Tensor>& inputs) const {
  const State& state = *state_;
  if (inputs.size() != state.input_slots.size())
    throw UserError(
        ErrorKind::value, "program",
        fmt::format("takes {} tensors, not {}", state.input_slots.size(), inputs.size()));
  Values values(state.slots);
  for (std::size_t i = 0; i < inputs.size(); ++i) {
    const ValueInfo& info = state.input_infos[i];
    if (inputs[i].sizes() != info.sizes || inputs[i].scalar_type() != info.dtype)
      throw UserError(
          ErrorKind::value, fmt::format("input {}", i),
          fmt::format("expected {}{}, got {}{}", toString(info.dtype), dims_str(info.sizes),
                      toString(inputs[i].scalar_type()), dims_str(inputs[i].sizes().vec())),
          "trace the function anew for these inputs");
    values[at(state.input_slots[i])] = inputs[i];
  }
  for (const auto& [slot, tensor] : state.constants) values[at(slot)] = tensor;
  const at::AutoDispatchBelowADInplaceOrView below;
  for (const Step& step : state.steps) {
    if (step.region)
      run_region(*step.region, values, inputs);
    else
      run_opaque(*step.opaque, values);
    for (const int slot : step.last) values[at(slot)].reset();
  }
  // What lies in an input's memory is read before any input is written.
  for (const State::Write& write : state.writes) {
    at::Tensor& value = values[at(write.slot)];
    if (write.may_alias && !value.is_same(inputs[write.input])) value = value.clone();
  }
  for (const State::Write& write : state.writes) {
    const at::Tensor &value = values[at(write.slot)], &target = inputs[write.input];
    if (!value.is_same(target)) target.copy_(value);
    target.unsafeGetTensorImpl()->bump_version();
  }
  std::vector<at::Tensor> outputs;
  outputs.reserve(state.output_slots.size());
  for (const int slot : state.output_slots) outputs.push_back(values[at(slot)]);
  return outputs;
}

}  // namespace octavo::aten
