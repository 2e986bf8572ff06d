#include "joint.h"

#include <ATen/FunctionalTensorWrapper.h>
#include <ATen/MemoryOverlap.h>
#include <fmt/format.h>
#include <torch/csrc/autograd/engine.h>
#include <torch/csrc/autograd/function.h>
#include <torch/csrc/autograd/python_variable.h>
#include <torch/csrc/autograd/variable.h>

#include <algorithm>
#include <deque>
#include <unordered_map>
#include <utility>

#include "stages.h"
#include "trace.h"

namespace octavo::aten {
namespace {

using at::functionalization::impl::from_functional_tensor;
using at::functionalization::impl::isFunctionalTensor;
using at::functionalization::impl::sync;
using at::functionalization::impl::to_functional_tensor;
using at::functionalization::impl::unsafeGetFunctionalWrapper;
using capture::Ref;
using torch::autograd::impl::gradient_edge;

// Stands for the history of an input that is no leaf. Its gradient is asked for; it never runs.
struct Given : torch::autograd::Node {
  torch::autograd::variable_list apply(torch::autograd::variable_list&& gradients) override {
    return std::move(gradients);
  }
};

const c10::StorageImpl* storage_of(const at::Tensor& tensor) {
  return tensor.unsafeGetTensorImpl()->unsafe_storage().unsafeGetStorageImpl();
}

class JointTracer {
 public:
  explicit JointTracer(const std::vector<at::Tensor>& inputs) : examples_(inputs) {}

  Joint run(PyObject* forward) {
    joint_.primals = examples_.size();
    for (const at::Tensor& example : examples_) give(example);
    // The graph may leave another mode than it was given; who runs it sets that one itself.
    const at::AutoGradMode as_before(at::GradMode::is_enabled());
    const bool enabled = at::GradMode::is_enabled();
    const Ref returned = call(forward);
    at::GradMode::set_enabled(enabled);
    find_writes();
    read_outputs(returned.get());
    joint_.forward_nodes = tracing_.graph().nodes.size();
    differentiate();
    joint_.python_rules = tracing_.python_rules();
    joint_.graph = std::move(tracing_.graph());
    return std::move(joint_);
  }

 private:
  void give(const at::Tensor& example) {
    at::Tensor given = to_functional_tensor(tracing_.input(example));
    Edge edge;
    if (example.requires_grad()) {
      if (example.is_leaf()) {
        given.set_requires_grad(true);
      } else {
        const auto history = c10::make_intrusive<Given>();
        torch::autograd::create_gradient_edge(given, history);
      }
      edge = gradient_edge(given);
    }
    inputs_by_storage_[storage_of(given)] = edges_.size();
    versions_.push_back(given._version());
    edges_.push_back(std::move(edge));
    given_.push_back(std::move(given));
  }

  Ref call(PyObject* forward) {
    std::vector<Ref> held;
    std::vector<PyObject*> args;
    for (const at::Tensor& given : given_) {
      held.push_back(Ref::checked(THPVariable_Wrap(given)));
      args.push_back(held.back().get());
    }
    const c10::impl::IncludeDispatchKeyGuard functional(c10::DispatchKey::Functionalize);
    PyObject* returned = PyObject_Vectorcall(forward, args.data(), args.size(), nullptr);
    if (!returned) throw Untraceable(capture::take_error());
    return Ref::steal(returned);
  }

  // The value that a functional tensor holds after all writes.
  ValueId value(const at::Tensor& tensor) {
    sync(tensor);
    return tracing_.value(from_functional_tensor(tensor));
  }

  std::size_t result(const at::Tensor& tensor) {
    const auto [at, fresh] =
        results_.try_emplace(tensor.unsafeGetTensorImpl(), joint_.results.size());
    if (fresh) {
      joint_.results.push_back({value(tensor), tensor.requires_grad(), std::nullopt});
      result_tensors_.push_back(tensor);
    }
    return at->second;
  }

  void find_writes() {
    for (std::size_t n = 0; n < given_.size(); ++n) {
      const at::Tensor& given = given_[n];
      const auto* wrapper = unsafeGetFunctionalWrapper(given);
      auto* changed = unsafeGetFunctionalWrapper(given);
      if (wrapper->has_metadata_mutation() || changed->was_storage_changed())
        throw Untraceable("an input whose sizes, strides or storage change");
      if (value(given) == tracing_.graph().inputs[n]) {
        if (given.requires_grad() != examples_[n].requires_grad())
          throw Untraceable("an input whose requires_grad changes");
        continue;
      }
      if (given.requires_grad() && given.is_leaf() && !examples_[n].requires_grad())
        throw Untraceable("an input whose requires_grad changes");
      if (at::has_internal_overlap(examples_[n]) != at::MemOverlap::No)
        throw Untraceable("a write to an input whose elements share memory");
      for (std::size_t other = 0; other < given_.size(); ++other)
        if (other != n && examples_[other].has_storage() &&
            examples_[other].storage().is_alias_of(examples_[n].storage()))
          throw Untraceable("a write to an input that shares memory with another");
      const bool differentiable =
          given.requires_grad() && !wrapper->are_all_mutations_under_no_grad_or_inference_mode();
      if (!differentiable && given.requires_grad() != examples_[n].requires_grad())
        throw Untraceable("an input whose requires_grad changes");
      joint_.writes.push_back({n, result(given), differentiable});
      joint_.results.back().requires_grad = differentiable;
    }
  }

  void read_outputs(PyObject* returned) {
    if (!PyTuple_Check(returned) && !PyList_Check(returned))
      throw Untraceable("a graph that does not return a tuple");
    // How many tensors share a storage: views of one another come from one result.
    std::unordered_map<const c10::StorageImpl*, std::vector<at::Tensor>> sharing;
    const auto count = static_cast<std::size_t>(PySequence_Fast_GET_SIZE(returned));
    PyObject** items = PySequence_Fast_ITEMS(returned);
    for (std::size_t n = 0; n < count; ++n) {
      if (!THPVariable_Check(items[n])) continue;
      const at::Tensor& tensor = THPVariable_Unpack(items[n]);
      if (!isFunctionalTensor(tensor)) continue;
      auto& group = sharing[storage_of(tensor)];
      const auto same = [&](const at::Tensor& other) { return other.is_same(tensor); };
      if (std::none_of(group.begin(), group.end(), same)) group.push_back(tensor);
    }
    for (std::size_t n = 0; n < count; ++n) {
      Output output;
      if (!THPVariable_Check(items[n]) || !isFunctionalTensor(THPVariable_Unpack(items[n]))) {
        output.kind = Output::Kind::object;
        output.object = Ref::borrow(items[n]);
        if (THPVariable_Check(items[n]) && THPVariable_Unpack(items[n]).is_meta())
          throw Untraceable("an output without values");
      } else {
        const at::Tensor& tensor = THPVariable_Unpack(items[n]);
        output = describe(tensor, sharing[storage_of(tensor)]);
        if (tensor.requires_grad() && (output.kind == Output::Kind::view_of_input ||
                                       output.kind == Output::Kind::view_of_result))
          view_tensors_.emplace_back(n, tensor);
      }
      joint_.outputs.push_back(std::move(output));
    }
  }

  Output describe(const at::Tensor& tensor, const std::vector<at::Tensor>& group) {
    auto* wrapper = unsafeGetFunctionalWrapper(tensor);
    if (wrapper->was_storage_changed()) throw Untraceable("an output whose storage was set");
    Output output;
    output.requires_grad = tensor.requires_grad();
    const auto refuse_leaf = [&](const at::TensorBase& made) {
      const auto same = [&](const at::Tensor& given) { return given.is_same(made); };
      if (made.requires_grad() && made.is_leaf() &&
          std::none_of(given_.begin(), given_.end(), same))
        throw Untraceable("a leaf that wants gradients is made");
    };
    refuse_leaf(tensor);
    if (tensor.is_view()) refuse_leaf(tensor._base());
    const auto input = inputs_by_storage_.find(storage_of(tensor));
    if (input != inputs_by_storage_.end()) {
      output.index = input->second;
      output.kind =
          tensor.is_same(given_[output.index]) ? Output::Kind::input : Output::Kind::view_of_input;
      output.views = wrapper->view_metas();
      if (output.requires_grad && !given_[output.index].requires_grad())
        throw Untraceable("a leaf that wants gradients is made");
      return output;
    }
    if (group.size() == 1) {
      output.index = result(tensor);
      // A view still, of a tensor that does not come out: torch lets less be done to it.
      if (tensor.is_view()) output.kind = Output::Kind::view_of_result;
      return output;
    }
    at::Tensor base = tensor;
    for (const at::Tensor& other : group)  // `.data` is as much of a base, but without the history
      if (unsafeGetFunctionalWrapper(other)->view_metas().empty()) {
        base = other;
        if (base.requires_grad()) break;
      }
    if (!unsafeGetFunctionalWrapper(base)->view_metas().empty()) {
      base = tensor.is_view() ? tensor._base() : at::Tensor();
      if (!base.defined() || !isFunctionalTensor(base) ||
          !unsafeGetFunctionalWrapper(base)->view_metas().empty() ||
          storage_of(base) != storage_of(tensor))
        throw Untraceable("outputs that are views of a tensor which is not kept");
    }
    refuse_leaf(base);
    output.index = result(base);
    if (!base.is_same(tensor)) {
      output.kind = Output::Kind::view_of_result;
      output.views = wrapper->view_metas();
    }
    return output;
  }

  void differentiate() {
    result_edges_.resize(joint_.results.size());
    tangents_.resize(joint_.results.size());
    std::vector<Reached> results;
    for (std::size_t n = 0; n < joint_.results.size(); ++n) {
      Result& result = joint_.results[n];
      if (!result.requires_grad) continue;
      const ValueInfo& info = tracing_.graph().values[static_cast<std::size_t>(result.value)];
      at::Tensor like;
      {
        const c10::impl::ExcludeDispatchKeyGuard real(c10::DispatchKey::Fake);
        like = at::empty_strided(info.sizes, info.strides, at::TensorOptions(info.dtype));
      }
      tangents_[n] = tracing_.input(like);
      result.tangent = tracing_.graph().inputs.back();
      result_edges_[n] = gradient_edge(result_tensors_[n]);
      results.push_back({false, n, result_edges_[n]});
    }
    std::vector<Reached> all = results;
    for (const auto& [output, tensor] : view_tensors_)
      all.push_back({true, output, gradient_edge(tensor)});
    inner_ = find_inner(all);
    Edges ends(edges_.begin(), edges_.end());
    std::vector<std::size_t> views;  // to be made before the next stage
    for (const Inner& inner : inner_) {
      ends.insert(inner.tensor.edge);
      if (inner.tensor.view) {
        refuse_view_of_write(inner.tensor.index);
        views.push_back(inner.tensor.index);
        continue;
      }
      add_stage({inner.tensor.index}, std::exchange(views, {}));
      results.erase(std::find_if(results.begin(), results.end(), [&](const Reached& result) {
        return result.index == inner.tensor.index;
      }));
    }
    for (std::vector<std::size_t>& roots : grouped(results, ends))
      add_stage(std::move(roots), std::exchange(views, {}));
  }

  // It is made of what the input holds when the program has run.
  void refuse_view_of_write(std::size_t output) const {
    if (joint_.outputs[output].kind != Output::Kind::view_of_input) return;
    for (const Write& write : joint_.writes)
      if (write.input == joint_.outputs[output].index)
        throw Untraceable("results made of a view of an input that is written");
  }

  void add_stage(std::vector<std::size_t> roots, std::vector<std::size_t> views) {
    Stage stage{std::move(roots), std::move(views), {}, {}, 0, 0};
    stage.first_node = tracing_.graph().nodes.size();
    stage.gradients.resize(examples_.size());
    torch::autograd::edge_list from, wanted;
    torch::autograd::variable_list given;
    for (const std::size_t root : stage.roots) {
      from.push_back(result_edges_[root]);
      given.push_back(to_functional_tensor(tangents_[root]));
    }
    for (Inner& inner : inner_) {
      // A result that is a view has the view's edge: both let its own gradient through.
      inner.keeps = std::find(from.begin(), from.end(), inner.tensor.edge) == from.end();
      inner.gradient = at::Tensor();
    }
    std::vector<std::size_t> primals;
    for (std::size_t n = 0; n < edges_.size(); ++n)
      if (edges_[n].is_valid()) {
        wanted.push_back(edges_[n]);
        primals.push_back(n);
      }
    if (!wanted.empty()) {
      const auto gradients = backward(from, given, wanted);
      for (std::size_t n = 0; n < gradients.size(); ++n)
        if (gradients[n].defined()) stage.gradients[primals[n]] = gradient(gradients[n]);
      for (const Inner& inner : inner_)
        if (inner.gradient.defined())
          stage.inner.push_back({inner.tensor.view, inner.tensor.index, gradient(inner.gradient)});
    }
    stage.last_node = tracing_.graph().nodes.size();
    joint_.stages.push_back(std::move(stage));
  }

  static torch::autograd::variable_list backward(const torch::autograd::edge_list& roots,
                                                 const torch::autograd::variable_list& given,
                                                 const torch::autograd::edge_list& wanted) {
    const c10::impl::IncludeDispatchKeyGuard functional(c10::DispatchKey::Functionalize);
    PyThreadState* thread = PyEval_SaveThread();
    try {
      auto gradients = torch::autograd::Engine::get_default_engine().execute(
          roots, given, /*keep_graph=*/true, /*create_graph=*/false, /*accumulate_grad=*/false,
          wanted);
      PyEval_RestoreThread(thread);
      return gradients;
    } catch (const std::exception& error) {
      PyEval_RestoreThread(thread);
      throw Untraceable(error.what());
    }
  }

  ValueId gradient(const at::Tensor& tensor) {
    return isFunctionalTensor(tensor) ? value(tensor) : tracing_.value(tensor);
  }

  const std::vector<at::Tensor>& examples_;
  Tracing tracing_;
  const at::functionalization::impl::FunctionalizationReapplyViewsGuard views_{true};
  Joint joint_;
  std::vector<at::Tensor> given_;
  std::vector<std::uint32_t> versions_;
  std::vector<Edge> edges_;
  std::unordered_map<const c10::StorageImpl*, std::size_t> inputs_by_storage_;
  std::unordered_map<const c10::TensorImpl*, std::size_t> results_;
  std::vector<at::Tensor> result_tensors_;
  std::vector<std::pair<std::size_t, at::Tensor>> view_tensors_;  // by output, with a gradient
  std::vector<Edge> result_edges_;  // not valid for a result without a gradient
  std::vector<at::Tensor> tangents_;
  std::deque<Inner> inner_;
};

}  // namespace

Joint trace_joint(PyObject* forward, const std::vector<at::Tensor>& inputs) {
  try {
    return JointTracer(inputs).run(forward);
  } catch (const c10::Error& error) {
    throw Untraceable(error.what_without_backtrace());
  }
}

}  // namespace octavo::aten
