// Calls: who answers, binding of arguments, inlining of Python functions.
#include <fmt/format.h>
#include <torch/csrc/autograd/function.h>

#include "code_state.h"
#include "dynamo_marks.h"
#include "engine.h"
#include "generator.h"
#include "known_calls.h"
#include "python_types.h"
#include "tracer.h"

namespace octavo::capture {

namespace {
bool ends_with(const PyCodeObject* code, std::string_view end) {
  const std::string file = utf8(code->co_filename);
  return file.size() > end.size() && file.compare(file.size() - end.size(), end.size(), end) == 0;
}

// Class methods written in C, which are made anew whenever they are looked up.
V call_class_method(Tracer& tracer, PyObject* method, Call& call) {
  PyObject* self = PyCFunction_GET_SELF(method);
  if (!self || !call.keywords.empty()) return nullptr;
  const std::string name = utf8(attribute(method, "__name__").get());
  if (name == "from_iterable" && self == well_known("itertools", "chain") && call.args.size() == 1)
    return chain(tracer, call.args[0]);
  auto* type = reinterpret_cast<PyTypeObject*>(self);
  if (name == "fromkeys" && (type == &PyDict_Type || type == &PyODict_Type) &&
      (call.args.size() == 1 || call.args.size() == 2)) {
    auto dict = tracer.make<Dict>();
    dict->type = type;
    for (const V& key : tracer.items_of(call.args[0]))
      tracer.dict_set(dict, key, call.args.size() > 1 ? call.args[1] : tracer.none());
    return dict;
  }
  return nullptr;
}
}  // namespace

void Tracer::raise(PyObject* type, const std::string& message) {
  auto error = make<Instance>();
  error->type = reinterpret_cast<PyTypeObject*>(type);
  error->args = tuple({string(message)});
  error->paraphrased = true;
  throw Raised{error};
}

void Tracer::raise_python_error() {
  PyObject *type = nullptr, *value = nullptr, *traceback = nullptr;
  PyErr_Fetch(&type, &value, &traceback);
  PyErr_NormalizeException(&type, &value, &traceback);
  const Ref owned_type = Ref::steal(type), owned_value = Ref::steal(value),
            owned_traceback = Ref::steal(traceback);
  if (PyErr_GivenExceptionMatches(type, PyExc_KeyboardInterrupt)) {
    PyErr_Restore(Py_NewRef(type), Py_NewRef(value), nullptr);
    throw PythonError{};
  }
  // Python may have the memory when it comes to that line, or none.
  if (PyErr_GivenExceptionMatches(type, PyExc_MemoryError))
    give_up(Reason::exception, "MemoryError");
  auto error = make<Instance>();
  error->type = Py_TYPE(value);
  const Ref args = octavo::capture::attribute(value, "args");
  error->args = constant(args);
  throw Raised{error};
}

bool Tracer::matches_exception(const V& given, const V& type) {
  const V exception = real(given), wanted = real(type);
  if (wanted->kind == Kind::sequence) {
    for (const V& one : static_cast<Sequence&>(*wanted).items)
      if (matches_exception(exception, one)) return true;
    return false;
  }
  if (wanted->kind != Kind::object || !PyExceptionClass_Check(wanted->object.get()))
    give_up(Reason::exception, "except " + describe(wanted));
  return PyType_IsSubtype(type_of(exception),
                          reinterpret_cast<PyTypeObject*>(wanted->object.get()));
}

V Tracer::call_method(const V& object, const char* name, std::vector<V> args) {
  const Ref key = interned(name);
  return call(attribute(object, key.get()), {std::move(args), {}});
}

// A method that Python's protocols look up on the type; where that is no Python function, Python
// itself runs or refuses.
V Tracer::special(const V& given, const char* name) {
  const Ref key = interned(name);
  const V object = real(given);
  if (object->kind != Kind::instance && object->kind != Kind::object)
    return attribute(object, key.get());
  PyTypeObject* type = type_of(object);
  PyObject* found = lookup(type, key.get());
  if (!found || !PyFunction_Check(found))
    give_up(Reason::wrong_call, fmt::format("{} of {}", name, describe(object)));
  return class_attribute(object, type, key.get(), found, object);
}

V Tracer::fold(PyObject* callee, const Call& call) {
  if (!is_pure(callee)) return nullptr;
  const Ref args = Ref::checked(PyTuple_New(static_cast<Py_ssize_t>(call.args.size())));
  for (size_t n = 0; n < call.args.size(); ++n) {
    Ref arg = python_constant(call.args[n]);
    if (!arg) return nullptr;
    PyTuple_SET_ITEM(args.get(), static_cast<Py_ssize_t>(n), arg.release());
  }
  Ref keywords;
  if (!call.keywords.empty()) {
    keywords = Ref::checked(PyDict_New());
    for (const auto& [name, value] : call.keywords) {
      const Ref constant = python_constant(value);
      if (!constant) return nullptr;
      check(PyDict_SetItem(keywords.get(), name.get(), constant.get()));
    }
  }
  const Ref result = Ref::steal(PyObject_Call(callee, args.get(), keywords.get()));
  if (!result) raise_python_error();
  PyObject* made = result.get();
  if (PyList_CheckExact(made)) {
    std::vector<V> items;
    for (Py_ssize_t n = 0; n < PyList_GET_SIZE(made); ++n)
      items.push_back(constant(PyList_GET_ITEM(made, n)));
    return list(std::move(items));
  }
  return constant(result);
}

V Tracer::call(const V& given, Call call) {
  const V callee = real(given);
  switch (callee->kind) {
    case Kind::method: {
      auto& method = static_cast<Method&>(*callee);
      const V self = real(method.self);
      const V function = real(method.function);
      if (self->kind == Kind::iterator && function->kind == Kind::constant)
        return call_iterator_method(self, utf8(function->object.get()), call);
      if (self->kind == Kind::array && function->kind == Kind::object &&
          !PyFunction_Check(function->object.get()))
        return call_array_method(
            self, utf8(octavo::capture::attribute(function->object.get(), "__name__").get()), call);
      if (self->kind == Kind::tensor && function->kind == Kind::object &&
          !is_user_function(function->object.get()))
        return call_tensor_method(
            self, octavo::capture::attribute(function->object.get(), "__name__").get(), call);
      call.args.insert(call.args.begin(), method.self);
      return this->call(function, std::move(call));
    }
    case Kind::function:
      return inline_function(callee, std::move(call));
    case Kind::instance: {
      auto& instance = static_cast<Instance&>(*callee);
      if (instance.function) {
        Call all;
        all.args = items_of(instance.args);
        all.args.insert(all.args.end(), call.args.begin(), call.args.end());
        for (const auto& [key, value] : static_cast<Dict&>(*instance.keywords).items) {
          bool overridden = false;
          for (const auto& [name, given_value] : call.keywords)
            if (PyUnicode_Compare(name.get(), real(key)->object.get()) == 0) overridden = true;
          if (!overridden) all.keywords.emplace_back(real(key)->object, value);
        }
        all.keywords.insert(all.keywords.end(), call.keywords.begin(), call.keywords.end());
        return this->call(instance.function, std::move(all));
      }
      break;
    }
    case Kind::object: {
      PyObject* object = callee->object.get();
      bool known = false;
      if (V result = call_on_symbols(object, call)) return result;
      if (V result = call_known(*this, callee, call, known); known) return result;
      if (V result = call_numpy(callee, call, known); known) return result;
      if (PyType_Check(object)) return call_type(callee, std::move(call));
      if (records(object)) return call_tensor_function(callee, call);
      if (PyFunction_Check(object)) return inline_function(callee, std::move(call));
      if (PyCFunction_Check(object)) {
        PyObject* self = PyCFunction_GET_SELF(object);
        if (self && PyType_Check(self) &&
            octavo::capture::utf8(octavo::capture::attribute(object, "__name__").get()) ==
                "__new__")
          return call_new(reinterpret_cast<PyTypeObject*>(self), call);
        if (V result = call_class_method(*this, object, call)) return result;
        if (V result = fold(object, call)) return result;
        give_up(Reason::unknown_call, describe(callee));
      }
      if (Py_TYPE(object) == &PyMethodDescr_Type || Py_TYPE(object) == &PyWrapperDescr_Type) {
        if (call.args.empty()) give_up(Reason::wrong_call, describe(callee));
        return call_descriptor(callee, call);
      }
      if (PyWeakref_CheckRef(object)) {
        PyObject* held = PyWeakref_GetObject(object);
        if (callee->source) trace_.sources.guard(callee->source, GuardKind::is, object);
        if (held == Py_None) return none();
        return lazy(held, trace_.sources.fixed(held));
      }
      if (is_module(object)) {
        if (V result = call_module(callee, call, known); known) return result;
      }
      if (V result = call_getter(*this, callee, call, known); known) return result;
      if (Py_TYPE(object) == partial_type()) {
        Call all;
        Source* source = callee->source ? callee->source : trace_.sources.fixed(object);
        const auto part = [&](const char* name) {
          return real(lazy(octavo::capture::attribute(object, name).get(),
                           trace_.sources.of(SourceKind::attribute, source, interned(name).get())));
        };
        all.args = items_of(part("args"));
        all.args.insert(all.args.end(), call.args.begin(), call.args.end());
        const V keywords = part("keywords");
        for (const auto& [key, value] : static_cast<Dict&>(*keywords).items)
          all.keywords.emplace_back(real(key)->object, value);
        for (auto& [name, value] : call.keywords) {
          bool replaced = false;
          for (auto& [key, held] : all.keywords)
            if (PyUnicode_Compare(key.get(), name.get()) == 0) {
              held = value;
              replaced = true;
            }
          if (!replaced) all.keywords.emplace_back(name, value);
        }
        return this->call(part("func"), std::move(all));
      }
      break;
    }
    default:
      break;
  }
  static PyObject* cached =
      reinterpret_cast<PyObject*>(known_type("functools", "_lru_cache_wrapper"));
  if (callee->kind == Kind::object &&
      reinterpret_cast<PyObject*>(Py_TYPE(callee->object.get())) == cached) {
    // What a cache holds is what the function gives; what it does besides happens once.
    if (callee->source) trace_.sources.guard(callee->source, GuardKind::is, callee->object.get());
    const int effects = effects_;
    const Ref inner = octavo::capture::attribute(callee->object.get(), "__wrapped__");
    const V result = this->call(lazy(inner.get(), trace_.sources.fixed(inner.get())), call);
    if (effects_ != effects) give_up(Reason::side_effect, "a cached function with effects");
    const Ref plain = python_constant(result);
    if (!plain && !real(result)->source)
      give_up(Reason::unknown_call, "a cached function that makes an object");
    // Its cache may be of a time when what the function reads was something else.
    if (const V held = plain ? fold_bound(callee->object.get(), call) : nullptr;
        held && !equal(held, result))
      give_up(Reason::unknown_call, "a cached function that would give something else now");
    return result;
  }
  // A captured function within another: the outer piece has it.
  if (callee->kind == Kind::object && Py_TYPE(callee->object.get()) == captured_type()) {
    if (callee->source) trace_.sources.guard(callee->source, GuardKind::is, callee->object.get());
    const Ref inner = octavo::capture::attribute(callee->object.get(), "__wrapped__");
    return this->call(lazy(inner.get(), trace_.sources.fixed(inner.get())), std::move(call));
  }
  static PyObject* name = interned("__call__").release();
  if (callee->kind == Kind::instance || callee->kind == Kind::object) {
    PyTypeObject* type = type_of(callee);
    PyObject* found = lookup(type, name);
    if (found && (PyFunction_Check(found) || Py_TYPE(found) == &PyStaticMethod_Type))
      return this->call(class_attribute(callee, type, name, found, callee), std::move(call));
    give_up(Reason::unknown_call, describe(callee));
  }
  give_up(Reason::wrong_call, describe(callee) + " is called");
}

// --- Python functions
// -------------------------------------------------------------------------------

V Tracer::inline_function(const V& callee, Call call) {
  PyCodeObject* code = nullptr;
  PyObject* globals = nullptr;
  V defaults, kwdefaults;
  std::vector<V> closure;
  Ref name;
  if (callee->kind == Kind::function) {
    auto& function = static_cast<Function&>(*callee);
    code = reinterpret_cast<PyCodeObject*>(function.code.get());
    globals = function.globals.get();
    defaults = function.defaults;
    kwdefaults = function.kwdefaults;
    closure = function.closure;
  } else {
    PyObject* function = callee->object.get();
    code = reinterpret_cast<PyCodeObject*>(PyFunction_GET_CODE(function));
    globals = PyFunction_GET_GLOBALS(function);
    Source* source = callee->source ? callee->source : trace_.sources.fixed(function);
    if (PyObject* held = PyFunction_GET_DEFAULTS(function)) {
      std::vector<V> values;
      for (Py_ssize_t n = 0; n < PyTuple_GET_SIZE(held); ++n)
        values.push_back(
            lazy(PyTuple_GET_ITEM(held, n),
                 trace_.sources.of(SourceKind::function_default, source, static_cast<int>(n))));
      defaults = tuple(std::move(values));
    }
    if (PyObject* held = PyFunction_GET_KW_DEFAULTS(function))
      kwdefaults = lazy(held, trace_.sources.of(SourceKind::function_kwdefaults, source));
    if (PyObject* held = PyFunction_GET_CLOSURE(function))
      for (Py_ssize_t n = 0; n < PyTuple_GET_SIZE(held); ++n)
        closure.push_back(
            lazy(PyTuple_GET_ITEM(held, n),
                 trace_.sources.of(SourceKind::function_cell, source, static_cast<int>(n))));
    static PyObject* marker = interned("_octavo_disabled").release();
    if (own_attribute(function, marker)) give_up(Reason::disabled_call, describe(callee));
    static PyObject* constant_marker = interned("_octavo_constant_result").release();
    if (own_attribute(function, constant_marker) || dynamo_constant(function)) {
      const V result = fold_bound(function, call);
      if (!result) give_up(Reason::unknown_call, "a constant result of arguments that are not");
      return result;
    }
  }
  if (callee->kind == Kind::object)
    if (PyObject* inner = disabled_optimizer(callee->object.get()))
      return this->call(lazy(inner, trace_.sources.fixed(inner)), std::move(call));
  // torch.jit.script_if_tracing(fn): nothing is traced by TorchScript.
  if (callee->kind == Kind::object) {
    static PyObject* original = interned("__original_fn").release();
    static PyObject* scripted = interned("__script_if_tracing_wrapper").release();
    PyObject* inner = own_attribute(callee->object.get(), original);
    if (inner && PyFunction_Check(inner) && own_attribute(callee->object.get(), scripted))
      return this->call(lazy(inner, trace_.sources.fixed(inner)), std::move(call));
  }
  // torch._disable_dynamo(fn): torch's own functions, which Dynamo does not read; we do. And what
  // Dynamo puts in the place of Module.__init__, to count modules.
  static PyObject* undisabled = interned("fn").release();
  static PyObject* counted = interned("init").release();
  const bool counts = ends_with(code, "torch/_dynamo/mutation_guard.py");
  if (counts || ends_with(code, "torch/_compile.py"))
    for (Py_ssize_t n = 0; n < code->co_nfreevars; ++n)
      if (PyTuple_GET_ITEM(code->co_localsplusnames, code->co_nlocalsplus - code->co_nfreevars +
                                                         n) == (counts ? counted : undisabled)) {
        const V cell = real(closure.at(static_cast<size_t>(n)));
        return this->call(static_cast<Cell&>(*cell).content, std::move(call));
      }
  if (const char* why = never_inlined(code))
    give_up(Reason::disabled_call, fmt::format("{} ({})", describe(callee), why));
  if (code->co_flags & (CO_COROUTINE | CO_ASYNC_GENERATOR)) give_up(Reason::opcode, "a coroutine");

  auto frame = std::make_unique<Frame>();
  frame->code = &code_of(code);
  frame->globals = globals;
  PyObject* builtins = PyDict_GetItemString(globals, "__builtins__");
  frame->builtins = builtins && PyModule_Check(builtins) ? PyModule_GetDict(builtins)
                    : builtins                           ? builtins
                                                         : builtins_;
  frame->slots.resize(static_cast<size_t>(code->co_nlocalsplus));
  frame->closure = std::move(closure);
  frame->caller = frame_;
  frame->depth = frame_ ? frame_->depth + 1 : 1;
  if (frame->depth > settings_.most_depth) give_up(Reason::recursion, describe(callee));
  bind(*frame, code, callee, defaults, kwdefaults, call);
  if (code->co_flags & CO_GENERATOR) {
    auto generator = make<GeneratorIterator>();
    generator->code = Ref::borrow(reinterpret_cast<PyObject*>(code));
    generator->frame = std::move(frame);
    generators_.push_back(generator);
    return generator;
  }
  return run_frame(*frame);
}

void Tracer::bind(Frame& frame, PyCodeObject* code, const V& callee, const V& defaults,
                  const V& kwdefaults, Call& call) {
  const auto positional = static_cast<size_t>(code->co_argcount);
  const auto keyword_only = static_cast<size_t>(code->co_kwonlyargcount);
  const auto positional_only = static_cast<size_t>(code->co_posonlyargcount);
  const size_t named = positional + keyword_only;
  const auto complain = [&](const std::string& what) {
    raise(PyExc_TypeError, utf8(code->co_qualname) + "() " + what);
  };
  size_t next = named;
  for (size_t n = 0; n < std::min(positional, call.args.size()); ++n) frame.slots[n] = call.args[n];
  if (code->co_flags & CO_VARARGS) {
    std::vector<V> rest;
    for (size_t n = positional; n < call.args.size(); ++n) rest.push_back(call.args[n]);
    frame.slots[next++] = tuple(std::move(rest));
  } else if (call.args.size() > positional) {
    complain(fmt::format("takes {} positional arguments but {} were given", positional,
                         call.args.size()));
  }
  std::shared_ptr<Dict> rest;
  if (code->co_flags & CO_VARKEYWORDS) {
    rest = make<Dict>();
    rest->type = &PyDict_Type;
    frame.slots[next] = rest;
  }
  for (auto& [name, value] : call.keywords) {
    bool found = false;
    for (size_t n = positional_only; n < named && !found; ++n) {
      PyObject* parameter = PyTuple_GET_ITEM(code->co_localsplusnames, static_cast<Py_ssize_t>(n));
      if (parameter != name.get() && PyUnicode_Compare(parameter, name.get()) != 0) continue;
      if (frame.slots[n])
        complain(fmt::format("got multiple values for argument '{}'", utf8(name.get())));
      frame.slots[n] = value;
      found = true;
    }
    if (found) continue;
    if (!rest) complain(fmt::format("got an unexpected keyword argument '{}'", utf8(name.get())));
    dict_set(rest, constant(name), value);
  }
  const size_t given = defaults ? static_cast<Sequence&>(*real(defaults)).items.size() : 0;
  for (size_t n = 0; n < positional; ++n) {
    if (frame.slots[n]) continue;
    if (n + given < positional)
      complain(fmt::format(
          "missing 1 required positional argument: '{}'",
          utf8(PyTuple_GET_ITEM(code->co_localsplusnames, static_cast<Py_ssize_t>(n)))));
    frame.slots[n] = static_cast<Sequence&>(*real(defaults)).items[n + given - positional];
  }
  for (size_t n = positional; n < named; ++n) {
    if (frame.slots[n]) continue;
    PyObject* name = PyTuple_GET_ITEM(code->co_localsplusnames, static_cast<Py_ssize_t>(n));
    V value = kwdefaults && !is_none(kwdefaults)
                  ? dict_get(static_cast<Dict&>(*real(kwdefaults)), constant(name))
                  : nullptr;
    if (!value) complain(fmt::format("missing 1 required keyword-only argument: '{}'", utf8(name)));
    frame.slots[n] = value;
  }
  (void)callee;
}

Ref Tracer::intern(const V& name) {
  const V value = real(name);
  if (value->kind != Kind::constant || !PyUnicode_CheckExact(value->object.get()))
    raise(PyExc_TypeError, "attribute name must be string");
  PyObject* text = Py_NewRef(value->object.get());
  PyUnicode_InternInPlace(&text);
  Ref interned = Ref::steal(text);
  keep_.push_back(interned);
  return interned;
}

}  // namespace octavo::capture
