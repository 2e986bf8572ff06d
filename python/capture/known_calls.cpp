#include "known_calls.h"

#include <fmt/format.h>

#include <cstring>
#include <functional>
#include <unordered_map>
#include <unordered_set>

#include "arrays.h"
#include "call_table.h"
#include "dynamo_marks.h"
#include "generator.h"
#include "python_types.h"

namespace octavo::capture {
namespace {

// torch.tensor(array) copies, torch.as_tensor(array) shares; both take a dtype.
V tensor_from_array(Tracer& tracer, const V& array, const Call& call, bool copies) {
  if (static_cast<Array&>(*array).scalar || call.args.size() != 1)
    give_up(Reason::numpy, "a tensor of such an array");
  Keywords keywords;
  for (const auto& [name, value] : call.keywords) {
    const std::string text = utf8(name.get());
    if (tracer.is_none(value)) continue;
    if (text != "dtype" && text != "device") give_up(Reason::numpy, "a tensor with " + text);
    keywords.emplace_back(name, value);
  }
  // A copy shares nothing, so the array may be read-only, or written later.
  const V& held = static_cast<Array&>(*array).tensor;
  V tensor = copies ? tracer.call_method(held, "clone", {}) : tracer.tensor_of_array(array);
  if (keywords.empty()) return tensor;
  const Ref to = interned("to");
  return tracer.call(tracer.attribute(tensor, to.get()), {{}, keywords});
}

void add_torch(CallTable& table) {
  const auto on = [&](const char* module, const char* name,
                      std::function<V(Tracer&, Call&)> handler) {
    table.handlers[well_known(module, name)] = std::move(handler);
  };
  const auto answers = [&](const char* module, const char* name, PyObject* answer) {
    on(module, name, [answer](Tracer& t, Call&) { return t.constant(answer); });
  };
  on("torch", "is_grad_enabled", [](Tracer& t, Call&) { return t.boolean(t.grad_enabled()); });
  on("torch._C", "_set_grad_enabled", [](Tracer& t, Call& c) -> V {
    const V given = t.real(c.args.at(0));
    const bool enabled = given->object.get() == Py_True;
    if (!enabled && given->object.get() != Py_False)
      give_up(Reason::wrong_call, "set_grad_enabled() of " + t.describe(given));
    // Switching to what is on already does nothing, and back again undoes the node before.
    const bool needless = enabled == t.grad_enabled();
    t.set_grad_enabled(enabled);
    if (needless) return t.none();
    Graph& graph = t.trace().graph;
    PyObject* setter = well_known("torch._C", "_set_grad_enabled");
    if (!graph.nodes().empty() && graph.nodes().back().target.get() == setter) {
      graph.drop_last();
      return t.none();
    }
    Node* node = graph.add(Node::Op::call_function, Ref::borrow(setter));
    node->args.push_back(Arg::of(Ref::borrow(enabled ? Py_True : Py_False)));
    node->impure = true;
    return t.none();
  });
  // State that GlobalState guards; read as it is.
  for (const char* name :
       {"is_autocast_enabled", "is_autocast_cpu_enabled", "get_autocast_dtype",
        "is_autocast_cache_enabled", "is_inference_mode_enabled", "get_default_dtype",
        "get_autocast_cpu_dtype", "get_autocast_gpu_dtype", "are_deterministic_algorithms_enabled",
        "is_deterministic_algorithms_warn_only_enabled"})
    table.pure.insert(well_known("torch", name));
  for (const char* name : {"is_compiling", "is_dynamo_compiling"})
    answers("torch.compiler", name, Py_True);
  answers("torch._utils", "is_compiling", Py_True);
  answers("torch.jit", "is_scripting", Py_False);
  answers("torch.jit", "is_tracing", Py_False);
  answers("torch._jit_internal", "is_scripting", Py_False);
  answers("torch.fx._symbolic_trace", "is_fx_tracing", Py_False);
  on("torch.jit", "_unwrap_optional", [](Tracer& t, Call& c) {
    if (t.is_none(c.args.at(0))) t.raise(PyExc_AssertionError, "Unwrapping null optional");
    return c.args[0];
  });
  answers("torch._C", "_get_tracing_state", Py_None);
  answers("torch._C", "_is_tracing", Py_False);
  answers("torch._C", "_log_api_usage_once", Py_None);
  answers("torch._C", "_has_torch_function", Py_False);
  answers("torch._C", "_has_torch_function_unary", Py_False);
  answers("torch._C", "_has_torch_function_variadic", Py_False);
  answers("torch.overrides", "has_torch_function", Py_False);
  on("torch.overrides", "is_tensor_like",
     [](Tracer& t, Call& c) { return t.boolean(t.is_tensor(c.args.at(0))); });
  on("torch", "is_tensor", [](Tracer& t, Call& c) { return t.boolean(t.is_tensor(c.args.at(0))); });
  on("torch", "from_numpy", [](Tracer& t, Call& c) -> V {
    if (c.args.size() != 1 || t.real(c.args[0])->kind != Kind::array)
      give_up(Reason::unknown_call, "torch.from_numpy()");
    return t.tensor_of_array(c.args[0]);
  });
  for (const char* name : {"tensor", "as_tensor"})
    on("torch", name, [name](Tracer& t, Call& c) {
      PyObject* function = well_known("torch", name);
      if (c.args.empty()) give_up(Reason::wrong_call, name);
      const V given = t.real(c.args[0]);
      if (given->kind == Kind::constant && is_array_number(given->object.get()))
        give_up(Reason::numpy, "a tensor of one of NumPy's numbers");
      if (given->kind != Kind::array) return t.call_tensor_function(t.constant(function), c);
      return tensor_from_array(t, given, c, name[0] == 't');
    });
  on("torch", "numel", [](Tracer& t, Call& c) { return t.call_method(c.args.at(0), "numel", {}); });
  // Marks for the profiler; the operators within are marked by torch itself.
  on("torch.autograd.profiler", "record_function", [](Tracer& t, Call&) {
    return t.call(t.constant(well_known("contextlib", "nullcontext")), {});
  });
  on("torch.jit", "annotate", [](Tracer&, Call& c) { return c.args.at(1); });
  on("octavo.capture.marks", "graph_break",
     [](Tracer&, Call&) -> V { give_up(Reason::requested, ""); });
  answers("octavo.capture.marks", "is_compiling", Py_True);
  on("torch", "Size", [](Tracer& t, Call& c) {
    return t.sequence(reinterpret_cast<PyTypeObject*>(well_known("torch", "Size")),
                      c.args.empty() ? std::vector<V>() : t.items_of(c.args[0]));
  });
  for (const char* name : {"device", "finfo", "iinfo"})
    table.pure.insert(well_known("torch", name));
  for (const char* name : {"_is_torch_function_mode_enabled", "_get_privateuse1_backend_name",
                           "_is_autocast_available", "_get_deterministic_algorithms",
                           "_get_deterministic_algorithms_warn_only"})
    table.pure.insert(well_known("torch._C", name));
  for (const char* name : {"promote_types", "can_cast", "get_default_dtype"})
    table.pure.insert(well_known("torch", name));
}

const CallTable& table() {
  static const CallTable* made = [] {
    auto* table = new CallTable;
    add_builtins(*table);
    add_library(*table);
    add_itertools(*table);
    add_torch(*table);
    add_vmap(*table);
    add_signature(*table);
    add_autocast(*table);
    return table;
  }();
  return *made;
}

bool ends_with(std::string_view text, std::string_view end) {
  return text.size() >= end.size() && text.substr(text.size() - end.size()) == end;
}

}  // namespace

V call_known(Tracer& tracer, const V& callee, Call& call, bool& known) {
  PyObject* object = callee->object.get();
  known = true;
  switch (dynamo_mark(object)) {
    case DynamoMark::ignored:
      return tracer.none();
    case DynamoMark::compiling:
      return tracer.boolean(true);
    case DynamoMark::breaks:
      // torch's own functions ask for breaks that Dynamo needs.
      if (utf8(tracer.frame()->code->object()->co_filename).find("/torch/optim/") !=
          std::string::npos)
        return tracer.none();
      give_up(Reason::requested, "");
    case DynamoMark::none:
      break;
  }
  if (is_index_by_tensors(object))
    return tracer.call(tracer.rewritten("TransformGetItemToIndex"), {});
  if (dynamo_disallows(object)) give_up(Reason::disabled_call, tracer.describe(callee));
  const auto found = table().handlers.find(object);
  known = found != table().handlers.end();
  if (!known) return nullptr;
  try {
    return found->second(tracer, call);
  } catch (const std::out_of_range&) {
    give_up(Reason::wrong_call, tracer.describe(callee));
  }
}

bool is_pure(PyObject* callable) { return table().pure.count(callable) > 0; }

bool is_user_function(PyObject* function) {
  if (!PyFunction_Check(function)) return false;
  const auto* code = reinterpret_cast<PyCodeObject*>(PyFunction_GET_CODE(function));
  const std::string file = utf8(code->co_filename);
  return !ends_with(file, "torch/_tensor.py") && !ends_with(file, "torch/_C/__init__.py");
}

const char* never_inlined(PyCodeObject* code) {
  const std::string file = utf8(code->co_filename);
  if (ends_with(file, "/warnings.py")) return "a warning";
  if (file.find("/logging/") != std::string::npos) return "logging";
  if (file.find("/torch/_dynamo/") != std::string::npos ||
      file.find("/torch/_inductor/") != std::string::npos ||
      file.find("/torch/_functorch/") != std::string::npos ||
      file.find("/torch/fx/") != std::string::npos || file.find("/torch/jit/") != std::string::npos)
    return "torch's own compiler";
  if (ends_with(file, "/torch/random.py") ||
      file.find("/torch/autograd/function.py") != std::string::npos)
    return "torch's state";
  if (file.find("/importlib/") != std::string::npos || file.rfind("<frozen importlib", 0) == 0)
    return "imports";
  if (ends_with(file, "/threading.py") || file.find("/multiprocessing/") != std::string::npos)
    return "threads";
  if (ends_with(file, "/copy.py")) return "copies";
  return nullptr;
}

}  // namespace octavo::capture
