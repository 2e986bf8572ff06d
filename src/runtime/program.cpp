#include "runtime/program.h"

#include <algorithm>
#include <chrono>
#include <map>
#include <mutex>

#include "support/error.h"
#include "support/float_mode.h"

namespace octavo {
namespace {

// Pools are shared by size: two programs never fight over the cores with threads of their own.
std::shared_ptr<ThreadPool> shared_pool(int threads) {
  static std::mutex mutex;
  static std::map<int, std::shared_ptr<ThreadPool>> pools;
  if (threads == 0 || threads == default_pool().size())
    return {&default_pool(), [](ThreadPool*) {}};
  const std::lock_guard lock(mutex);
  auto& pool = pools[threads];
  if (!pool) pool = std::make_shared<ThreadPool>(threads);
  return pool;
}

// Memory and argument lists of one running call.
struct Workspace {
  const Plan* plan = nullptr;
  std::shared_ptr<Buffer> memory;
  std::vector<const void*> arguments;  // of all steps, inputs then outputs of each
  // Arguments that point into the caller's tensors, set at each call.
  struct Patch {
    size_t argument;
    bool output;
    size_t index;
  };
  std::vector<Patch> patches;

  explicit Workspace(const Plan& p)
      : plan(&p), memory(Buffer::allocate(p.arena_bytes + p.scratch_bytes)) {
    for (const Step& step : p.steps)
      for (const auto* list : {&step.inputs, &step.outputs})
        for (int slot : *list) add(slot);
  }

  void add(int slot) {
    const void* pointer = nullptr;
    if (slot >= 0) {
      const Slot& s = plan->slots[static_cast<size_t>(slot)];
      switch (s.kind) {
        case Slot::Kind::arena:
          pointer = memory->data() + s.offset;
          break;
        case Slot::Kind::constant:
          pointer = plan->constants[s.index].data();
          break;
        case Slot::Kind::input:
          patches.push_back({arguments.size(), false, s.index});
          break;
        case Slot::Kind::output:
          patches.push_back({arguments.size(), true, s.index});
          break;
        case Slot::Kind::absent:
          break;
      }
    }
    arguments.push_back(pointer);
  }
};

}  // namespace

struct Program::State {
  Signature signature;
  Planner planner;
  std::shared_ptr<ThreadPool> pool;
  std::mutex mutex;
  std::vector<size_t> value_inputs;
  struct Entry {
    std::vector<Dims> dims;
    std::vector<Tensor> values;  // of the value inputs, in their places
    std::shared_ptr<const Plan> plan;
    uint64_t used;
  };
  std::vector<Entry> plans;
  uint64_t clock = 0;
  std::vector<std::unique_ptr<Workspace>> idle;

  static constexpr size_t most_plans = 16;

  std::unique_ptr<Workspace> take(const Plan& plan) {
    {
      const std::lock_guard lock(mutex);
      for (auto& workspace : idle)
        if (workspace && workspace->plan == &plan) return std::move(workspace);
    }
    return std::make_unique<Workspace>(plan);
  }

  void give_back(std::unique_ptr<Workspace> workspace) {
    const std::lock_guard lock(mutex);
    // A plan that was dropped meanwhile takes its workspaces along: its address may be used again.
    if (std::none_of(plans.begin(), plans.end(),
                     [&](const Entry& entry) { return entry.plan.get() == workspace->plan; }))
      return;
    for (auto& place : idle)
      if (!place) {
        place = std::move(workspace);
        return;
      }
    idle.push_back(std::move(workspace));
  }

  std::shared_ptr<const Plan> plan(const std::vector<Dims>& dims, std::vector<Tensor> values);
  void check_dims(const std::vector<Dims>& dims) const;
  void execute(const Plan& plan, std::span<const void* const> in, std::span<void* const> out,
               std::vector<StepProfile>* profile);
};

// Of what a node refuses at run time: shapes or values that other inputs may have led to.
constexpr const char* call_hint =
    "check the shapes and values of this call's inputs; octavo inspect lists them";
constexpr const char* takes_hint = "octavo inspect lists the inputs";

void Program::State::check_dims(const std::vector<Dims>& dims) const {
  const auto& types = signature.input_types;
  if (dims.size() != types.size())
    throw UserError(ErrorKind::value, "program",
                    fmt::format("takes {} inputs, not {}", types.size(), dims.size()), takes_hint);
  std::map<std::string, int64_t> symbols;
  for (size_t i = 0; i < dims.size(); ++i) {
    bool fits = dims[i].size() == types[i].shape.size();
    for (size_t d = 0; fits && d < dims[i].size(); ++d) {
      const Dim& dim = types[i].shape[d];
      if (dim.is_static())
        fits = dim.value() == dims[i][d];
      else if (!dim.is_unknown())
        fits = symbols.emplace(dim.symbol(), dims[i][d]).first->second == dims[i][d];
    }
    if (!fits)
      throw UserError(
          ErrorKind::value, fmt::format("input '{}'", signature.input_names[i]),
          fmt::format("expected shape {}, got {}", types[i].shape.str(), dims_str(dims[i])),
          takes_hint);
  }
}

void Program::State::execute(const Plan& plan, std::span<const void* const> in,
                             std::span<void* const> out, std::vector<StepProfile>* profile) {
  std::unique_ptr<Workspace> workspace = take(plan);
  for (const Workspace::Patch& patch : workspace->patches)
    workspace->arguments[patch.argument] = patch.output ? out[patch.index] : in[patch.index];
  std::byte* scratch = workspace->memory->mutable_data() + plan.arena_bytes;
  const void** argument = workspace->arguments.data();
  const Step* running = nullptr;
  const KeepFloatMode keep;
  try {
    for (const Step& step : plan.steps) {
      running = &step;
      (step.flushes ? keep.before().flushing() : keep.before()).apply();
      const std::span<const void* const> step_in(argument, step.inputs.size());
      argument += step.inputs.size();
      // Outputs are never constants or inputs: they were writable when their address was taken.
      const std::span<void* const> step_out(const_cast<void* const*>(argument),
                                            step.outputs.size());
      argument += step.outputs.size();
      if (!profile) {
        step.kernel->run(step_in, step_out, {*pool, scratch});
        continue;
      }
      const auto start = std::chrono::steady_clock::now();
      step.kernel->run(step_in, step_out, {*pool, scratch});
      const std::chrono::duration<double, std::micro> took =
          std::chrono::steady_clock::now() - start;
      profile->push_back({step.node, step.op, step.kernel->name(), isa_name(step.kernel->isa()),
                          took.count(), step.macs, step.bytes});
    }
  } catch (const UserError& e) {
    give_back(std::move(workspace));
    if (!e.where().empty()) throw;
    // Kernels do not know their node.
    throw UserError(e.kind(), fmt::format("{} '{}'", running->op, running->node), e.message(),
                    e.hint());
  } catch (...) {
    give_back(std::move(workspace));
    throw;
  }
  give_back(std::move(workspace));
}

Program::Program(Signature signature, Planner planner, int threads,
                 std::vector<size_t> value_inputs)
    : s_(std::make_unique<State>()) {
  s_->signature = std::move(signature);
  s_->planner = std::move(planner);
  s_->pool = shared_pool(threads);
  s_->value_inputs = std::move(value_inputs);
}
Program::~Program() = default;
Program::Program(Program&&) noexcept = default;
Program& Program::operator=(Program&&) noexcept = default;

const Program::Signature& Program::signature() const { return s_->signature; }
int Program::threads() const { return s_->pool->size(); }

std::shared_ptr<const Plan> Program::plan(const std::vector<Dims>& input_dims) {
  OCTAVO_CHECK(s_->value_inputs.empty());
  return s_->plan(input_dims, {});
}

void Program::release_planner() { s_->planner = nullptr; }

std::shared_ptr<const Plan> Program::State::plan(const std::vector<Dims>& dims,
                                                 std::vector<Tensor> values) {
  {
    const std::lock_guard lock(mutex);
    for (Entry& entry : plans)
      if (entry.dims == dims && entry.values == values) {
        entry.used = ++clock;
        return entry.plan;
      }
  }
  check_dims(dims);
  OCTAVO_CHECK(planner);
  std::shared_ptr<const Plan> fresh = planner(dims, values);
  const std::lock_guard lock(mutex);
  if (plans.size() >= most_plans) {
    const auto oldest = std::min_element(
        plans.begin(), plans.end(), [](const auto& a, const auto& b) { return a.used < b.used; });
    std::erase_if(idle, [&](const auto& w) { return w && w->plan == oldest->plan.get(); });
    plans.erase(oldest);
  }
  plans.push_back({dims, std::move(values), fresh, ++clock});
  return fresh;
}

void Program::run(const Plan& plan, std::span<const void* const> in, std::span<void* const> out) {
  if (plan.then)
    throw UserError(ErrorKind::unsupported, "program", "the shapes of its outputs depend on values",
                    "call it without outputs of your own: it then allocates them");
  s_->execute(plan, in, out, nullptr);
}

std::vector<Tensor> Program::run(std::span<const Tensor> inputs) { return call(inputs, nullptr); }

std::vector<Tensor> Program::run_profiled(std::span<const Tensor> inputs,
                                          std::vector<StepProfile>& profile) {
  return call(inputs, &profile);
}

std::vector<Tensor> Program::call(std::span<const Tensor> inputs,
                                  std::vector<StepProfile>* profile) try {
  const Signature& signature = s_->signature;
  std::vector<Dims> dims;
  std::vector<const void*> in;
  for (size_t i = 0; i < inputs.size(); ++i) {
    if (i < signature.input_types.size() && inputs[i].dtype() != signature.input_types[i].dtype)
      throw UserError(ErrorKind::value, fmt::format("input '{}'", signature.input_names[i]),
                      fmt::format("expected {}, got {}", signature.input_types[i].str(),
                                  inputs[i].type().str()),
                      takes_hint);
    dims.push_back(inputs[i].dims());
    in.push_back(inputs[i].data());
  }
  std::vector<Tensor> values(s_->value_inputs.empty() ? 0 : inputs.size());
  for (const size_t i : s_->value_inputs) values[i] = inputs[i];
  const std::shared_ptr<const Plan> current = s_->plan(dims, std::move(values));
  std::vector<Tensor> outputs;
  std::vector<void*> out;
  for (const TensorType& type : current->output_types) {
    outputs.emplace_back(type.dtype, type.shape.dims());
    out.push_back(outputs.back().mutable_data());
  }
  s_->execute(*current, in, out, profile);
  if (!current->then) return outputs;
  if (current->then->between) {
    std::vector<Tensor> more = current->then->between(outputs);
    outputs.insert(outputs.end(), more.begin(), more.end());
  }
  return current->then->rest->call(outputs, profile);
} catch (const UserError& e) {
  throw e.or_hint(call_hint);
}

}  // namespace octavo
