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

// Octavo's program of a graph. Where numbers must be drawn as an operator in place would, torch's
// operators one by one.
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
    else if (replay->draws_in_memory_order())
      note_ = "random numbers in the order of a transposed tensor";
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

struct Captured::State {
  State(Joint traced, Programs made, std::vector<bool> held)
      : joint(std::move(traced)),
        programs(std::move(made)),
        forward(programs.forward, std::move(held)),
        backward(programs.backward) {}
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
  Runner forward, backward;
  std::vector<InputForm> inputs;
  bool grad_mode = false;
  std::vector<ValueInfo> tangents;         // of results that require grad, in order
  std::vector<std::vector<bool>> reached;  // for each gradient there is: by which tangents
};

namespace {

// Which tangents each gradient depends on: without any of them it is undefined, as eager's is.
std::vector<std::vector<bool>> reached_by(const Joint& joint) {
  std::vector<std::vector<bool>> from(joint.graph.values.size());
  std::size_t count = 0;
  for (const Result& result : joint.results) count += result.tangent.has_value();
  std::size_t next = 0;
  for (const Result& result : joint.results)
    if (result.tangent) {
      auto& bits = from[static_cast<std::size_t>(*result.tangent)];
      bits.resize(count);
      bits[next++] = true;
    }
  for (const Node& node : joint.graph.nodes) {
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
  for (const auto& gradient : joint.gradients)
    if (gradient) gradients.push_back(from[static_cast<std::size_t>(*gradient)]);
  return gradients;
}

// The backward program in autograd's graph.
struct Backward : torch::autograd::Node {
  std::shared_ptr<const Captured::State> state;
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
      for (std::size_t n = 0; n < state->tangents.size(); ++n)
        inputs.push_back(as_traced(incoming.at(n), state->tangents[n]));
      gradients = spread(state->backward.run(inputs), incoming);
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

  // One for each primal; undefined where nothing defined came in.
  variable_list spread(std::vector<at::Tensor> made, const variable_list& incoming) const {
    variable_list gradients;
    std::size_t next = 0;
    for (const auto& gradient : state->joint.gradients) {
      if (!gradient) {
        gradients.emplace_back();
        continue;
      }
      const auto& reached = state->reached[next];
      bool defined = false;
      for (std::size_t n = 0; n < reached.size(); ++n)
        defined = defined || (reached[n] && incoming[n].defined());
      gradients.push_back(defined ? std::move(made[next]) : at::Tensor());
      ++next;
    }
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

std::vector<at::Tensor> run(const std::shared_ptr<const Captured::State>& state,
                            const std::vector<at::Tensor>& inputs) {
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
  if (state->tangents.empty()) return results;
  auto node = c10::make_intrusive<Backward>();
  node->state = state;
  for (std::size_t n = 0; n < inputs.size(); ++n)
    node->add_next_edge(state->inputs[n].requires_grad
                            ? torch::autograd::impl::gradient_edge(inputs[n])
                            : torch::autograd::Edge());
  for (std::size_t n = 0; n < results.size(); ++n)
    if (joint.results[n].requires_grad) torch::autograd::set_history(results[n], node);
  for (const std::size_t primal : state->programs.saved_inputs) {
    const bool written = std::any_of(joint.writes.begin(), joint.writes.end(),
                                     [&](const Write& w) { return w.input == primal; });
    node->saved.emplace_back(written ? inputs[primal].detach().clone() : inputs[primal], false);
  }
  for (const at::Tensor& tensor : kept) {
    bool is_result = false;
    for (std::size_t n = 0; n < results.size(); ++n)
      is_result = is_result || (joint.results[n].requires_grad && results[n].is_same(tensor));
    node->saved.emplace_back(tensor, is_result);
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
    for (const Result& result : state->joint.results)
      if (result.requires_grad) {
        if (!result.tangent) throw Untraceable("a result without a gradient");
        const auto& graph = state->joint.graph;
        state->tangents.push_back(graph.values[static_cast<std::size_t>(*result.tangent)]);
      }
    state->reached = reached_by(state->joint);
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
    results = run(state_, inputs);
    if (!state_->programs.writes_in_place)
      for (const Write& write : joint.writes) {
        const at::AutoGradMode mode(write.differentiable);
        inputs[write.input].copy_(results[write.result]);
      }
    for (std::size_t n = 0; n < joint.outputs.size(); ++n) {
      const Output& output = joint.outputs[n];
      const at::AutoGradMode mode(at::GradMode::is_enabled() && output.requires_grad);
      if (output.kind == Output::Kind::result)
        tensors[n] = output.view ? at::alias(results[output.index]) : results[output.index];
      else if (output.kind == Output::Kind::view_of_input)
        tensors[n] = view_of(inputs[output.index], output);
      else if (output.kind == Output::Kind::view_of_result)
        tensors[n] = view_of(results[output.index], output);
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
  return state_ ? state_->programs.backward.nodes.size() : 0;
}
std::string Captured::replayed() const {
  if (!state_) return "";
  const std::string& note = state_->forward.note();
  return note.empty() ? state_->backward.note() : note;
}
std::size_t Captured::lowered() const {
  return state_ ? state_->forward.summary().lowered + state_->backward.summary().lowered : 0;
}
std::size_t Captured::regions() const {
  return state_ ? state_->forward.summary().regions + state_->backward.summary().regions : 0;
}
std::size_t Captured::in_place() const { return state_ ? state_->forward.summary().in_place : 0; }
std::size_t Captured::constants() const { return state_ ? state_->forward.constants() : 0; }
std::map<std::string, std::size_t> Captured::opaque() const {
  std::map<std::string, std::size_t> all;
  if (state_)
    for (const Runner* runner : {&state_->forward, &state_->backward})
      for (const auto& [name, count] : runner->summary().opaque) all[name] += count;
  return all;
}
std::size_t Captured::saved() const { return state_ ? state_->programs.saved : 0; }
int Captured::python_rules() const { return state_ ? state_->joint.python_rules : 0; }

}  // namespace octavo::aten
