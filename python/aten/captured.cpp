#include "captured.h"

#include <ATen/FunctionalTensorWrapper.h>
#include <ATen/core/LegacyTypeDispatch.h>
#include <ATen/ops/alias.h>
#include <c10/core/InferenceMode.h>
#include <torch/csrc/autograd/functions/basic_ops.h>
#include <torch/csrc/autograd/functions/utils.h>
#include <torch/csrc/autograd/python_variable.h>
#include <torch/csrc/autograd/saved_variable.h>

#include <algorithm>
#include <deque>
#include <mutex>

#include "frozen.h"
#include "joint.h"
#include "partition.h"
#include "program.h"
#include "replay.h"
#include "trace.h"

namespace octavo::aten {

using capture::Ref;
using torch::autograd::SavedVariable;
using torch::autograd::variable_list;

// What the programs were made for.
struct InputForm {
  at::ScalarType dtype;
  std::vector<std::int64_t> sizes, strides;
  bool requires_grad, inference;
};

// Octavo's program of a graph. Where it cannot be compiled, torch's operators one by one.
class Runner {
 public:
  // `held`: the inputs that a module holds, for a program without a backward pass.
  explicit Runner(const Graph& graph, std::vector<bool> held = {}) : graph_(graph) {
    auto replay = std::make_unique<Replay>(graph);
    // Workspaces of torch's recurrent layers have sizes that its kernels alone know.
    const bool workspace = std::any_of(graph.nodes.begin(), graph.nodes.end(), [](const Node& n) {
      return n.op.operator_name().name.rfind("aten::mkldnn_rnn_layer", 0) == 0;
    });
    if (workspace)
      note_ = "a recurrent layer of torch, whose workspace has a size of its own";
    else if (std::find(held.begin(), held.end(), true) != held.end())
      frozen_ = std::make_unique<Frozen>(graph, std::move(held));
    else
      compile();
    replay_ = std::move(replay);
  }
  // Why torch runs every operator; empty if it does not.
  const std::string& note() const { return note_; }
  std::vector<at::Tensor> run(const std::vector<at::Tensor>& inputs) const {
    if (frozen_) {
      std::vector<at::Tensor> others;
      if (const auto program = frozen_->program(inputs, others)) return program->run(others);
      std::call_once(compiled_, [this] { compile(); });
    }
    return program_ ? program_->run(inputs) : replay_->run(inputs);
  }
  Program::Summary summary() const {
    if (frozen_ && !program_) return frozen_->summary();
    return program_ ? program_->summary() : Program::Summary();
  }
  std::size_t constants() const { return frozen_ && !program_ ? frozen_->constants() : 0; }

 private:
  void compile() const {
    try {
      program_ = std::make_unique<Program>(graph_);
    } catch (const std::exception& error) {
      note_ = error.what();
    }
  }

  const Graph& graph_;
  std::unique_ptr<Replay> replay_;
  std::unique_ptr<Frozen> frozen_;
  mutable std::once_flag compiled_;
  mutable std::unique_ptr<Program> program_;
  mutable std::string note_;
};

// A stage of the backward pass.
struct StageRunner {
  StageRunner(const Joint& joint, const Stage& of, const BackwardProgram& made);
  const Stage& traced;
  const BackwardProgram& program;
  Runner runner;
  std::vector<ValueInfo> tangents;         // of the roots
  std::vector<std::vector<bool>> reached;  // for each gradient there is: by which tangents
};

struct Captured::State {
  State(Joint traced, Programs made, std::vector<bool> held)
      : joint(std::move(traced)),
        programs(std::move(made)),
        forward(programs.forward, std::move(held)) {
    for (std::size_t n = 0; n < joint.stages.size(); ++n)
      backward.emplace_back(joint, joint.stages[n], programs.backward[n]);
  }
  State(const State&) = delete;
  State& operator=(const State&) = delete;
  // The last owner may be autograd's, on a thread without the GIL.
  ~State() {
    if (!Py_IsInitialized()) return;
    const PyGILState_STATE gil = PyGILState_Ensure();
    joint.outputs.clear();
    PyGILState_Release(gil);
  }
  Joint joint;
  Programs programs;
  Runner forward;
  std::deque<StageRunner> backward;
  std::vector<InputForm> inputs;
  bool grad_mode = false;
};

namespace {

// Which tangents each gradient depends on: without any of them it is undefined, as eager's is.
std::vector<std::vector<bool>> reached_by(const Joint& joint, const Stage& stage) {
  std::vector<std::vector<bool>> from(joint.graph.values.size());
  const std::size_t count = stage.roots.size();
  for (std::size_t n = 0; n < count; ++n) {
    auto& bits = from[static_cast<std::size_t>(*joint.results[stage.roots[n]].tangent)];
    bits.resize(count);
    bits[n] = true;
  }
  for (std::size_t at = stage.first_node; at < stage.last_node; ++at) {
    const Node& node = joint.graph.nodes[at];
    std::vector<bool> bits(count);
    const auto add = [&](ValueId value) {
      const auto& other = from[static_cast<std::size_t>(value)];
      for (std::size_t n = 0; n < other.size(); ++n) bits[n] = bits[n] || other[n];
    };
    for (const Argument& argument : node.arguments) {
      if (const auto* value = std::get_if<ValueId>(&argument)) add(*value);
      if (const auto* list = std::get_if<std::vector<std::optional<ValueId>>>(&argument))
        for (const auto& item : *list)
          if (item) add(*item);
    }
    for (const ValueId output : node.outputs) from[static_cast<std::size_t>(output)] = bits;
  }
  std::vector<std::vector<bool>> gradients;
  for (const auto& gradient : stage.gradients)
    if (gradient) gradients.push_back(from[static_cast<std::size_t>(*gradient)]);
  for (const InnerGradient& inner : stage.inner)
    gradients.push_back(from[static_cast<std::size_t>(inner.gradient)]);
  return gradients;
}

}  // namespace

StageRunner::StageRunner(const Joint& joint, const Stage& of, const BackwardProgram& made)
    : traced(of), program(made), runner(made.graph), reached(reached_by(joint, of)) {
  for (const std::size_t root : of.roots)
    tangents.push_back(joint.graph.values[static_cast<std::size_t>(*joint.results[root].tangent)]);
}

namespace {

// A stage in autograd's graph.
struct Backward : torch::autograd::Node {
  std::shared_ptr<const Captured::State> state;  // that holds `stage`
  const StageRunner* stage = nullptr;
  std::vector<SavedVariable> saved;

  std::string name() const override { return "OctavoBackward"; }

  void release_variables() override {
    const std::lock_guard<std::mutex> lock(mutex_);
    for (SavedVariable& variable : saved) variable.reset_data();
  }

  variable_list apply(variable_list&& incoming) override {
    const std::lock_guard<std::mutex> lock(mutex_);
    std::vector<at::Tensor> inputs;
    const auto self = getptr();
    for (const SavedVariable& variable : saved) inputs.push_back(variable.unpack(self));
    variable_list gradients;
    {
      const at::NoGradGuard no_grad;
      for (std::size_t n = 0; n < stage->tangents.size(); ++n)
        inputs.push_back(as_traced(incoming.at(n), stage->tangents[n]));
      gradients = spread(stage->runner.run(inputs), incoming);
    }
    return at::GradMode::is_enabled() ? once(std::move(gradients)) : gradients;
  }

 private:
  // Views in the program hold for the strides it was traced with.
  static at::Tensor as_traced(const at::Tensor& gradient, const ValueInfo& form) {
    if (gradient.defined() && gradient.strides() == at::IntArrayRef(form.strides)) return gradient;
    const auto made = at::empty_strided(form.sizes, form.strides, at::TensorOptions(form.dtype));
    return gradient.defined() ? made.copy_(gradient) : made.zero_();
  }

  // One for each primal, then for each inner result; undefined where nothing defined came in.
  variable_list spread(std::vector<at::Tensor> made, const variable_list& incoming) const {
    variable_list gradients;
    std::size_t next = 0;
    const auto add = [&] {
      const auto& reached = stage->reached[next];
      bool defined = false;
      for (std::size_t n = 0; n < reached.size(); ++n)
        defined = defined || (reached[n] && incoming[n].defined());
      gradients.push_back(defined ? std::move(made[next]) : at::Tensor());
      ++next;
    };
    for (const auto& gradient : stage->traced.gradients) {
      if (gradient)
        add();
      else
        gradients.emplace_back();
    }
    for (std::size_t n = 0; n < stage->traced.inner.size(); ++n) add();
    return gradients;
  }

  // Gradients of gradients are not in the program: whoever asks for one is told.
  variable_list once(variable_list gradients) const {
    torch::autograd::edge_list edges;
    for (const torch::autograd::Edge& edge : next_edges())
      if (edge.is_valid()) edges.push_back(edge);
    const auto refuse = c10::make_intrusive<torch::autograd::Error>(
        "backend 'octavo' compiles first derivatives only; for gradients of gradients use "
        "backend='eager'",
        std::move(edges));
    for (at::Tensor& gradient : gradients)
      if (gradient.defined()) {
        gradient = gradient.detach();
        torch::autograd::create_gradient_edge(gradient, refuse);
      }
    return gradients;
  }
};

// Results that are an input, or one another, become tensors of their own.
void separate(std::vector<at::Tensor>& results, const std::vector<at::Tensor>& inputs) {
  for (std::size_t n = 0; n < results.size(); ++n) {
    if (!results[n].defined()) continue;  // nothing but an input's new value
    const auto same = [&](const at::Tensor& other) { return other.is_same(results[n]); };
    if (std::any_of(inputs.begin(), inputs.end(), same) ||
        std::any_of(results.begin(), results.begin() + static_cast<long>(n), same))
      results[n] = results[n].clone();
  }
}

// A tensor of its own in the base's memory; detached where the traced one was.
at::Tensor view_of(const at::Tensor& base, const Output& output) {
  const at::Tensor made = at::functionalization::impl::apply_view_meta_sequence(base, output.views);
  if (made.requires_grad() && !output.requires_grad) return made.detach();
  return made.is_same(base) ? at::alias(base) : made;
}

// The stage becomes the history of its roots.
void record(const std::shared_ptr<const Captured::State>& state, const StageRunner& stage,
            const std::vector<at::Tensor>& inputs, const std::vector<at::Tensor>& kept,
            std::vector<at::Tensor>& results, const std::vector<at::Tensor>& outputs) {
  auto node = c10::make_intrusive<Backward>();
  node->state = state;
  node->stage = &stage;
  for (std::size_t n = 0; n < inputs.size(); ++n)
    node->add_next_edge(stage.traced.gradients[n] && state->inputs[n].requires_grad
                            ? torch::autograd::impl::gradient_edge(inputs[n])
                            : torch::autograd::Edge());
  for (const InnerGradient& inner : stage.traced.inner)
    node->add_next_edge(torch::autograd::impl::gradient_edge(inner.view ? outputs[inner.index]
                                                                        : results[inner.index]));
  for (const std::size_t root : stage.traced.roots)
    torch::autograd::set_history(results[root], node);
  for (const std::size_t primal : stage.program.saved_inputs) {
    const auto& writes = state->joint.writes;
    const bool written = std::any_of(writes.begin(), writes.end(),
                                     [&](const Write& w) { return w.input == primal; });
    node->saved.emplace_back(written ? inputs[primal].detach().clone() : inputs[primal], false);
  }
  for (const std::size_t place : stage.program.saved) {
    const auto is_it = [&](std::size_t root) { return results[root].is_same(kept[place]); };
    const auto& roots = stage.traced.roots;
    node->saved.emplace_back(kept[place], std::any_of(roots.begin(), roots.end(), is_it));
  }
}

// The tensor of an output that is one of its own.
at::Tensor make_output(const Output& output, const std::vector<at::Tensor>& inputs,
                       const std::vector<at::Tensor>& results) {
  const at::AutoGradMode mode(output.requires_grad);
  if (output.kind == Output::Kind::result) return results[output.index];
  const bool of_input = output.kind == Output::Kind::view_of_input;
  return view_of((of_input ? inputs : results)[output.index], output);
}

// The results; outputs that are inner views are made on the way.
std::vector<at::Tensor> run(const std::shared_ptr<const Captured::State>& state,
                            const std::vector<at::Tensor>& inputs,
                            std::vector<at::Tensor>& outputs) {
  const Joint& joint = state->joint;
  std::vector<at::Tensor> made = state->forward.run(inputs);
  const std::vector<std::size_t>& returned = state->programs.returned;
  std::vector<at::Tensor> kept(made.begin() + static_cast<long>(returned.size()), made.end());
  std::vector<at::Tensor> results(joint.results.size());
  for (std::size_t n = 0; n < returned.size(); ++n) results[returned[n]] = std::move(made[n]);
  {
    const at::NoGradGuard no_grad;
    separate(results, inputs);
  }
  for (const StageRunner& stage : state->backward) {
    for (const std::size_t view : stage.traced.views)
      outputs[view] = make_output(joint.outputs[view], inputs, results);
    record(state, stage, inputs, kept, results, outputs);
  }
  return results;
}

}  // namespace

Captured::~Captured() = default;

Captured::Captured(Ref forward, const Ref& examples, std::vector<bool> held)
    : forward_(std::move(forward)) {
  const Ref items = Ref::checked(PySequence_Fast(examples.get(), "example inputs are a list"));
  std::vector<at::Tensor> inputs;
  for (Py_ssize_t n = 0; n < PySequence_Fast_GET_SIZE(items.get()); ++n) {
    PyObject* item = PySequence_Fast_GET_ITEM(items.get(), n);
    if (!THPVariable_Check(item)) {
      reason_ = "an input that is no tensor";
      return;
    }
    inputs.push_back(THPVariable_Unpack(item));
    // Whose history nobody may ask for, nor begin.
    if (inputs.back().is_inference() && !c10::InferenceMode::is_enabled()) {
      reason_ = "an inference tensor outside of inference mode";
      return;
    }
  }
  try {
    Joint joint = trace_joint(forward_.get(), inputs);
    Programs programs = partition(joint);
    // With a backward pass they are about to change, and autograd has to see them.
    const bool trains = std::any_of(joint.results.begin(), joint.results.end(),
                                    [](const Result& result) { return result.requires_grad; });
    if (trains) held.clear();
    if (!held.empty()) held.resize(inputs.size());
    for (const Write& write : joint.writes)
      if (!held.empty()) held[write.input] = false;
    auto state = std::make_shared<State>(std::move(joint), std::move(programs), std::move(held));
    state->grad_mode = at::GradMode::is_enabled();
    for (const at::Tensor& input : inputs)
      state->inputs.push_back({input.scalar_type(), input.sizes().vec(), input.strides().vec(),
                               input.requires_grad(), input.is_inference()});
    state_ = std::move(state);
  } catch (const Untraceable& error) {
    reason_ = error.what();
  }
}

bool Captured::fits(const std::vector<at::Tensor>& inputs) const {
  if (inputs.size() != state_->inputs.size() || at::GradMode::is_enabled() != state_->grad_mode)
    return false;
  for (std::size_t n = 0; n < inputs.size(); ++n) {
    const InputForm& form = state_->inputs[n];
    const at::Tensor& input = inputs[n];
    if (input.scalar_type() != form.dtype || input.requires_grad() != form.requires_grad ||
        input.is_inference() != form.inference || input.sizes() != at::IntArrayRef(form.sizes) ||
        !input.device().is_cpu() || input.strides() != at::IntArrayRef(form.strides))
      return false;
  }
  return true;
}

// Tracing refuses it, and guards do not see it.
bool Captured::written_input_shares_memory(const std::vector<at::Tensor>& inputs) const {
  const std::vector<Write>& writes = state_->joint.writes;
  if (writes.empty()) return false;
  const auto memory = [](const at::Tensor& t) -> const void* {
    return t.has_storage() ? t.storage().unsafeGetStorageImpl() : nullptr;
  };
  std::vector<const void*> all;
  all.reserve(inputs.size());
  for (const at::Tensor& input : inputs) all.push_back(memory(input));
  std::sort(all.begin(), all.end());
  return std::any_of(writes.begin(), writes.end(), [&](const Write& write) {
    const auto [first, last] =
        std::equal_range(all.begin(), all.end(), memory(inputs[write.input]));
    return last - first > 1;
  });
}

Ref Captured::call(PyObject* const* args, std::size_t count) const {
  std::vector<at::Tensor> inputs;
  for (std::size_t n = 0; state_ && n < count && THPVariable_Check(args[n]); ++n)
    inputs.push_back(THPVariable_Unpack(args[n]));
  if (!state_ || inputs.size() != count || !fits(inputs) || written_input_shares_memory(inputs))
    return Ref::checked(PyObject_Vectorcall(forward_.get(), args, count, nullptr));
  const Joint& joint = state_->joint;
  std::vector<at::Tensor> results;
  std::vector<at::Tensor> tensors(joint.outputs.size());
  PyThreadState* thread = PyEval_SaveThread();
  try {
    results = run(state_, inputs, tensors);
    if (!state_->programs.writes_in_place)
      for (const Write& write : joint.writes) {
        const at::AutoGradMode mode(write.differentiable);
        inputs[write.input].copy_(results[write.result]);
      }
    for (std::size_t n = 0; n < joint.outputs.size(); ++n) {
      const Output& output = joint.outputs[n];
      if (!tensors[n].defined() && output.kind != Output::Kind::object &&
          output.kind != Output::Kind::input)
        tensors[n] = make_output(output, inputs, results);
    }
  } catch (...) {
    PyEval_RestoreThread(thread);
    throw;
  }
  PyEval_RestoreThread(thread);
  Ref tuple = Ref::checked(PyTuple_New(static_cast<Py_ssize_t>(tensors.size())));
  for (std::size_t n = 0; n < tensors.size(); ++n) {
    const Output& output = joint.outputs[n];
    PyObject* item = nullptr;
    if (output.kind == Output::Kind::object)
      item = Py_NewRef(output.object.get());
    else if (output.kind == Output::Kind::input)
      item = Py_NewRef(args[output.index]);
    else
      item = Ref::checked(THPVariable_Wrap(tensors[n])).release();
    PyTuple_SET_ITEM(tuple.get(), static_cast<Py_ssize_t>(n), item);
  }
  return tuple;
}

std::size_t Captured::forward_ops() const {
  return state_ ? state_->programs.forward.nodes.size() : 0;
}
std::size_t Captured::backward_ops() const {
  std::size_t ops = 0;
  if (state_)
    for (const BackwardProgram& program : state_->programs.backward)
      ops += program.graph.nodes.size();
  return ops;
}
std::size_t Captured::stages() const { return state_ ? state_->backward.size() : 0; }

template <class F>
void Captured::each_runner(const F& visit) const {
  if (!state_) return;
  visit(state_->forward);
  for (const StageRunner& stage : state_->backward) visit(stage.runner);
}

std::string Captured::replayed() const {
  std::string note;
  each_runner([&](const Runner& runner) {
    if (note.empty()) note = runner.note();
  });
  return note;
}
std::size_t Captured::lowered() const {
  std::size_t all = 0;
  each_runner([&](const Runner& runner) { all += runner.summary().lowered; });
  return all;
}
std::size_t Captured::regions() const {
  std::size_t all = 0;
  each_runner([&](const Runner& runner) { all += runner.summary().regions; });
  return all;
}
std::size_t Captured::in_place() const { return state_ ? state_->forward.summary().in_place : 0; }
std::size_t Captured::constants() const { return state_ ? state_->forward.constants() : 0; }
std::map<std::string, std::size_t> Captured::opaque() const {
  std::map<std::string, std::size_t> all;
  each_runner([&](const Runner& runner) {
    for (const auto& [name, count] : runner.summary().opaque) all[name] += count;
  });
  return all;
}
std::size_t Captured::saved() const { return state_ ? state_->programs.saved : 0; }
int Captured::python_rules() const { return state_ ? state_->joint.python_rules : 0; }

}  // namespace octavo::aten
