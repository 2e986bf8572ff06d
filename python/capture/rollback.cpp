#include "rollback.h"

#include <ATen/CPUGeneratorImpl.h>
#include <ATen/core/LegacyTypeDispatch.h>
#include <torch/csrc/autograd/python_variable.h>
#include <torch/csrc/autograd/variable.h>

#include <algorithm>
#include <cstring>
#include <mutex>

#include "python_types.h"
#include "tensor_meta.h"
#include "tracer.h"

namespace octavo::capture {
namespace {

// Parts of the names of operators and modules, in small letters, that raise for some values.
constexpr const char* value_words[] = {
    "index",        "gather",       "scatter",     "take",      "embedding",    "cross_entropy",
    "crossentropy", "nll",          "one_hot",     "bce",       "adaptive",     "multinomial",
    "bernoulli",    "binomial",     "normal",      "poisson",   "cholesky",     "inv",
    "solve",        "linalg",       "lu_factor",   "lu_unpack", "svd",          "eig",
    "geqrf",        "orgqr",        "ormqr",       "lstsq",     "logdet",       "bincount",
    "repeat",       "put_",         "hist",        "unpool",    "binary_cross", "multi_label",
    "multilabel",   "multi_margin", "multimargin", "ctc",       "assert",       "floordiv",
    "floor_div",    "remainder",    "fmod",        "__mod__",   "matrix_power", "segment",
    "split",        "rank"};

bool has_node(const Arg& arg) {
  return arg.kind == Arg::Kind::node || std::any_of(arg.items.begin(), arg.items.end(), has_node);
}

bool looks_at_values(const Node& node) {
  if (node.op == Node::Op::placeholder || node.op == Node::Op::get_attr || node.part) return false;
  std::string name;
  if (node.op == Node::Op::call_module) {
    name = Py_TYPE(node.attribute.get())->tp_name;
  } else if (node.op == Node::Op::call_method) {
    name = utf8(node.target.get());
  } else {
    const Ref own = Ref::steal(PyObject_GetAttrString(node.target.get(), "__name__"));
    if (!own) PyErr_Clear();
    name = own ? utf8(own.get()) : repr(node.target.get());
  }
  std::transform(name.begin(), name.end(), name.begin(),
                 [](unsigned char letter) { return static_cast<char>(std::tolower(letter)); });
  if (name == "mod" || name == "qr") return true;  // parts of other names: of sqrt
  // A subscript by numbers and slices fits the sizes or does not.
  if (name.find("item") != std::string::npos) return node.args.size() > 1 && has_node(node.args[1]);
  return std::any_of(std::begin(value_words), std::end(value_words),
                     [&](const char* word) { return name.find(word) != std::string::npos; });
}

}  // namespace

void Tracer::writes_into(const at::Tensor& meta) {
  ++tensor_writes_;
  ++effects_;
  if (meta.has_storage()) written_storages_.insert(meta.storage().unsafeGetStorageImpl());
}

void Tracer::finish_writes() {
  if (written_storages_.empty()) return;
  for (const auto& [object, value] : lifted_) {
    if ((value->kind != Kind::tensor && value->kind != Kind::array) || !value->source) continue;
    const auto& tensor = value->kind == Kind::array ? *static_cast<Array&>(*value).tensor
                                                    : static_cast<Tensor&>(*value);
    // Views of a tensor, and its `.data`, share its meta tensor's storage.
    bool written = false;
    for (const at::Tensor* meta : {&tensor.meta, &tensor.symbolic})
      written = written || (meta->defined() && meta->has_storage() &&
                            written_storages_.count(meta->storage().unsafeGetStorageImpl()) > 0);
    if (!written) continue;
    trace_.written.push_back(value->source);
    if (value->kind == Kind::array) continue;
    // torch refuses to write a leaf, and the graph would have written others by then.
    const at::Tensor& now = THPVariable_Unpack(object);
    if (now.requires_grad() && !is_leaf_or_view_of_one(now))
      trace_.sources.guard(value->source, GuardKind::no_leaf);
  }
}

Risk risk_of(const Graph& graph, bool in_order) {
  Risk risk;
  bool written = !in_order && std::any_of(graph.nodes().begin(), graph.nodes().end(),
                                          [](const Node& n) { return n.impure && !n.dead; });
  for (const Node& node : graph.nodes()) {
    if (node.dead || node.part || node.op == Node::Op::placeholder || node.op == Node::Op::get_attr)
      continue;
    written = written || node.impure;
    const bool values = looks_at_values(node);
    risk.looks_at_values = risk.looks_at_values || values;
    risk.by_value = risk.by_value || (written && values);
    risk.by_type = risk.by_type || (written && !node.sure);
  }
  return risk;
}

bool reads_inference_tensors(const Sources& sources) {
  const auto is_inference = [](const Guard& guard) {
    return guard.kind == GuardKind::tensor &&
           !c10::DispatchKeySet(c10::DispatchKeySet::RAW, guard.tensor->keys)
                .has(c10::DispatchKey::ADInplaceOrView);
  };
  return std::any_of(sources.tensors().begin(), sources.tensors().end(), [&](const Source* source) {
    return std::any_of(source->guards.begin(), source->guards.end(), is_inference);
  });
}

void Before::keep_history(const at::Tensor& tensor, Kept& kept) {
  kept.tensor = tensor;
  kept.version = tensor.is_inference() ? -1 : static_cast<int64_t>(tensor._version());
  kept.requires_grad = tensor.requires_grad();
  if (history_is_known(tensor) && tensor.grad_fn())
    kept.edge = torch::autograd::impl::gradient_edge(tensor);
}

void Before::keep_tensor(const at::Tensor& tensor) {
  Kept kept;
  keep_history(tensor, kept);
  kept.sizes = tensor.sizes().vec();
  kept.strides = tensor.strides().vec();
  kept.offset = tensor.storage_offset();
  {
    const at::AutoDispatchBelowADInplaceOrView below;
    kept.values = tensor.clone();
  }
  tensors_.push_back(std::move(kept));
  // Writing into a view gives its base another history.
  if (tensor.is_view() && !tensor.is_inference()) {
    Kept base;
    keep_history(at::Tensor(at::TensorBase(tensor._base())), base);
    tensors_.push_back(std::move(base));
  }
}

void Before::keep_random_state() {
  at::Generator generator = at::detail::getDefaultCPUGenerator();
  const std::lock_guard<std::mutex> lock(generator.mutex());
  random_state_ = generator.get_state();
}

bool Before::random_state_moved() const {
  at::Generator generator = at::detail::getDefaultCPUGenerator();
  const std::lock_guard<std::mutex> lock(generator.mutex());
  const at::Tensor now = generator.get_state();
  return std::memcmp(now.const_data_ptr(), random_state_.const_data_ptr(), now.nbytes()) != 0;
}

void Before::put_back() const {
  for (const Kept& kept : tensors_) {
    auto* impl = kept.tensor.unsafeGetTensorImpl();
    if (kept.values.defined()) {
      const at::AutoDispatchBelowADInplaceOrView below;
      impl->set_sizes_and_strides(kept.sizes, kept.strides, kept.offset);
      kept.tensor.copy_(kept.values);
    }
    if (kept.version < 0) continue;
    auto version = impl->version_counter();
    version.set_version(kept.version);
    const bool had_edge = kept.edge.function != nullptr;
    if (had_edge || (history_is_known(kept.tensor) && kept.tensor.grad_fn()))
      torch::autograd::impl::set_gradient_edge(kept.tensor, kept.edge);
    if (!had_edge && kept.tensor.requires_grad() != kept.requires_grad)
      kept.tensor.set_requires_grad(kept.requires_grad);
  }
  if (!random_state_.defined()) return;
  at::Generator generator = at::detail::getDefaultCPUGenerator();
  const std::lock_guard<std::mutex> lock(generator.mutex());
  generator.set_state(random_state_);
}

}  // namespace octavo::capture
