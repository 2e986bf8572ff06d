// The main loop, and the instructions that move values, jump, build and raise.
#include <fmt/format.h>

#include "generator.h"
#include "tracer.h"

namespace octavo::capture {

Tracer::Tracer(const Settings& settings, const Code& code, PyObject* globals, PyObject* builtins)
    : settings_(settings), code_(code), globals_(globals), builtins_(builtins) {}

Trace Tracer::run(int unit, PyObject** slots, int depth, PyObject* closure, int stop) {
  stop_ = stop;
  Frame root;
  root.code = &code_;
  root.globals = globals_;
  root.builtins = builtins_;
  root.unit = unit;
  const int places = code_.object()->co_nlocalsplus;
  for (int n = 0; n < places + depth; ++n) {
    V value;
    if (slots[n]) value = lazy(slots[n], trace_.sources.slot(n));
    if (n < places) {
      root.slots.push_back(value);
    } else {
      // The NULLs of PUSH_NULL and LOAD_METHOD are places like any other.
      root.stack.push_back(value ? value : std::make_shared<Value>(Kind::null));
    }
  }
  if (closure)
    for (Py_ssize_t n = 0; n < PyTuple_GET_SIZE(closure); ++n)
      root.closure.push_back(
          lazy(PyTuple_GET_ITEM(closure, n), trace_.sources.closure(static_cast<int>(n))));
  trace_.first_slots = root.slots;
  trace_.grad_enabled = at::GradMode::is_enabled();
  root_ = &root;
  try {
    trace_.result = run_frame(root);
  } catch (const Raised& raised) {
    give_up(Reason::exception, describe(raised.exception));
  }
  if (trace_.ended == Ended::broke && !root.handled.empty())
    give_up(Reason::exception, "the piece would end while an exception is handled",
            root.raised_at);
  trace_.instructions = instructions_;
  trace_.unit = root.unit;
  trace_.slots = std::move(root.slots);
  trace_.stack = std::move(root.stack);
  root_ = nullptr;
  return std::move(trace_);
}

V Tracer::run_frame(Frame& frame) {
  struct Scope {
    Tracer& tracer;
    Frame* before;
    int exceptions = std::uncaught_exceptions();
    ~Scope() {
      // The innermost frame that an exception leaves is where it happened.
      if (std::uncaught_exceptions() > exceptions && tracer.where_.empty())
        tracer.where_ = tracer.frame_->code->location(tracer.frame_->at);
      tracer.frame_ = before;
    }
  };
  Scope scope{*this, frame_};
  frame_ = &frame;
  const bool root = &frame == root_;
  while (true) {
    if (root) {
      if (instructions_ == stop_) {
        trace_.ended = Ended::broke;
        return nullptr;
      }
      ++instructions_;
    }
    if (++total_ > settings_.most_instructions) give_up(Reason::too_long, "");
    const Instruction& i = frame.code->at(frame.unit);
    frame.at = i.unit;
    frame.unit = i.next;
    try {
      if (i.op == Op::RETURN_VALUE) return frame.pop();
      if (i.op == Op::YIELD_VALUE) {
        frame.yielded = frame.pop();
        return nullptr;
      }
      step(frame, i);
    } catch (const Raised& raised) {
      where_.clear();
      if (!handle(frame, raised.exception)) throw;
    }
  }
}

bool Tracer::handle(Frame& frame, const V& exception) {
  const Handler* handler = frame.code->handler(frame.at);
  if (!handler) return false;
  frame.keyword_names = nullptr;
  frame.stack.resize(static_cast<size_t>(handler->depth));
  if (handler->push_offset) frame.push(integer(frame.at));
  frame.push(exception);
  frame.unit = handler->target;
  if (&frame == root_ && frame.handled.empty()) frame.raised_at = instructions_ - 1;
  return true;
}

void Tracer::step(Frame& frame, const Instruction& i) {
  if (step_stack(frame, i) || step_names(frame, i) || step_calls(frame, i) ||
      step_jump(frame, i) || step_build(frame, i) || step_exceptions(frame, i))
    return;
  const bool class_body = i.op == Op::LOAD_BUILD_CLASS;
  give_up(class_body ? Reason::class_body : Reason::opcode, opcode_name(i.op));
}

bool Tracer::step_stack(Frame& frame, const Instruction& i) {
  switch (i.op) {
    case Op::NOP:
    case Op::RESUME:
    case Op::PRECALL:
    case Op::CACHE:
      return true;
    case Op::RETURN_GENERATOR:
      frame.push(none());
      return true;
    case Op::POP_TOP:
      frame.pop();
      return true;
    case Op::PUSH_NULL:
      frame.push(std::make_shared<Value>(Kind::null));
      return true;
    case Op::SWAP:
      std::swap(frame.top(), frame.top(i.arg));
      return true;
    case Op::COPY:
      frame.push(frame.top(i.arg));
      return true;
    case Op::LOAD_CONST:
      frame.push(constant(frame.code->constant(i.arg)));
      return true;
    case Op::LOAD_FAST: {
      const V& value = frame.slots[static_cast<size_t>(i.arg)];
      if (!value)
        raise(PyExc_UnboundLocalError,
              fmt::format("cannot access local variable '{}' where it is not associated with a "
                          "value",
                          utf8(frame.code->slot_name(i.arg))));
      frame.push(value);
      return true;
    }
    case Op::STORE_FAST:
      frame.slots[static_cast<size_t>(i.arg)] = frame.pop();
      return true;
    case Op::DELETE_FAST:
      if (!frame.slots[static_cast<size_t>(i.arg)])
        raise(PyExc_UnboundLocalError, utf8(frame.code->slot_name(i.arg)));
      frame.slots[static_cast<size_t>(i.arg)] = nullptr;
      return true;
    case Op::UNARY_NEGATIVE:
    case Op::UNARY_POSITIVE:
    case Op::UNARY_INVERT:
    case Op::UNARY_NOT:
      frame.push(unary(i.op, frame.pop()));
      return true;
    case Op::BINARY_OP: {
      const V right = frame.pop();
      const V left = frame.pop();
      frame.push(binary(i.arg, left, right));
      return true;
    }
    case Op::COMPARE_OP: {
      const V right = frame.pop();
      const V left = frame.pop();
      frame.push(compare(i.arg, left, right));
      return true;
    }
    case Op::IS_OP: {
      const V right = frame.pop();
      const V left = frame.pop();
      frame.push(boolean(same_object(left, right) != (i.arg != 0)));
      return true;
    }
    case Op::CONTAINS_OP: {
      const V container = frame.pop();
      const V item = frame.pop();
      frame.push(boolean(contains(container, item) != (i.arg != 0)));
      return true;
    }
    case Op::BINARY_SUBSCR: {
      const V key = frame.pop();
      const V container = frame.pop();
      frame.push(subscript(container, key));
      return true;
    }
    case Op::STORE_SUBSCR: {
      const V key = frame.pop();
      const V container = frame.pop();
      set_subscript(container, key, frame.pop());
      return true;
    }
    case Op::DELETE_SUBSCR: {
      const V key = frame.pop();
      delete_subscript(frame.pop(), key);
      return true;
    }
    default:
      return false;
  }
}

V Tracer::load_global(Frame& frame, PyObject* name) {
  const auto written = written_.find({frame.globals, name});
  if (written != written_.end() && trace_.writes[written->second].value)
    return trace_.writes[written->second].value;
  Source* globals = trace_.sources.fixed(frame.globals);
  if (written == written_.end()) {
    if (PyObject* found = PyDict_GetItemWithError(frame.globals, name))
      return lazy(found, trace_.sources.of(SourceKind::dict_item, globals, name));
    trace_.sources.guard(globals, GuardKind::lacks_key, name);
  }
  PyObject* found = PyDict_GetItemWithError(frame.builtins, name);
  if (!found) raise(PyExc_NameError, fmt::format("name '{}' is not defined", utf8(name)));
  Source* builtins = trace_.sources.fixed(frame.builtins);
  return lazy(found, trace_.sources.of(SourceKind::dict_item, builtins, name));
}

bool Tracer::step_names(Frame& frame, const Instruction& i) {
  switch (i.op) {
    case Op::LOAD_GLOBAL:
      if (i.arg & 1) frame.push(std::make_shared<Value>(Kind::null));
      frame.push(load_global(frame, frame.code->name(i.arg >> 1)));
      return true;
    case Op::STORE_GLOBAL:
    case Op::DELETE_GLOBAL: {
      PyObject* name = frame.code->name(i.arg);
      const V value = i.op == Op::STORE_GLOBAL ? frame.pop() : nullptr;
      if (!value) give_up(Reason::opcode, "DELETE_GLOBAL");
      const auto key = std::make_pair(static_cast<const void*>(frame.globals), name);
      const auto found = written_.find(key);
      if (found != written_.end()) {
        trace_.writes[found->second].value = value;
      } else {
        written_[key] = trace_.writes.size();
        trace_.writes.push_back({Write::Kind::dict_item,
                                 lazy(frame.globals, trace_.sources.fixed(frame.globals)),
                                 Ref::borrow(name), value});
      }
      return true;
    }
    case Op::LOAD_ATTR:
      frame.push(attribute(frame.pop(), frame.code->name(i.arg)));
      return true;
    case Op::LOAD_METHOD: {
      V found = attribute(frame.pop(), frame.code->name(i.arg));
      frame.push(std::make_shared<Value>(Kind::null));
      frame.push(std::move(found));
      return true;
    }
    case Op::STORE_ATTR: {
      const V owner = frame.pop();
      set_attribute(owner, frame.code->name(i.arg), frame.pop());
      return true;
    }
    case Op::DELETE_ATTR:
      set_attribute(frame.pop(), frame.code->name(i.arg), nullptr);
      return true;
    case Op::MAKE_CELL: {
      auto cell = make<Cell>();
      V& slot = frame.slots[static_cast<size_t>(i.arg)];
      cell->content = slot;
      slot = cell;
      return true;
    }
    case Op::COPY_FREE_VARS: {
      const size_t first = frame.slots.size() - static_cast<size_t>(i.arg);
      for (size_t n = 0; n < static_cast<size_t>(i.arg); ++n)
        frame.slots[first + n] = frame.closure.at(n);
      return true;
    }
    case Op::LOAD_CLOSURE:
      frame.push(frame.slots[static_cast<size_t>(i.arg)]);
      return true;
    case Op::LOAD_DEREF: {
      const V cell = real(frame.slots[static_cast<size_t>(i.arg)]);
      const V& content = static_cast<Cell&>(*cell).content;
      if (!content)
        raise(PyExc_NameError,
              fmt::format("cannot access free variable '{}' where it is not associated with a "
                          "value in enclosing scope",
                          utf8(frame.code->slot_name(i.arg))));
      frame.push(content);
      return true;
    }
    case Op::STORE_DEREF:
    case Op::DELETE_DEREF: {
      const V cell = real(frame.slots[static_cast<size_t>(i.arg)]);
      static_cast<Cell&>(*cell).content = i.op == Op::STORE_DEREF ? frame.pop() : nullptr;
      changed(cell);
      return true;
    }
    case Op::IMPORT_NAME: {
      const V fromlist = frame.pop();
      const V level = frame.pop();
      frame.push(import_name(frame, frame.code->name(i.arg), fromlist, level));
      return true;
    }
    case Op::IMPORT_FROM:
      frame.push(attribute(frame.top(), frame.code->name(i.arg)));
      return true;
    case Op::LOAD_ASSERTION_ERROR:
      frame.push(constant(PyExc_AssertionError));
      return true;
    default:
      return false;
  }
}

// An import of what is imported already has no effect; another runs as it is.
V Tracer::import_name(Frame& frame, PyObject* name, const V& fromlist, const V& level) {
  const Ref from = python_constant(fromlist);
  const int64_t up = index(level);
  if (!from) give_up(Reason::imports, utf8(name));
  std::string full = utf8(name);
  if (up > 0) {
    PyObject* package = PyDict_GetItemString(frame.globals, "__package__");
    if (!package || !PyUnicode_Check(package)) give_up(Reason::imports, full);
    std::string base = utf8(package);
    for (int64_t n = 1; n < up; ++n) base = base.substr(0, base.rfind('.'));
    full = full.empty() ? base : base + "." + full;
  }
  PyObject* modules = PyImport_GetModuleDict();
  PyObject* module = PyDict_GetItemString(modules, full.c_str());
  if (!module) give_up(Reason::imports, full);
  if (PyObject_Length(from.get() == Py_None ? PyTuple_New(0) : from.get()) > 0) {
    // `from package import module` may import the module.
    for (Py_ssize_t n = 0; n < PyTuple_GET_SIZE(from.get()); ++n)
      if (!PyObject_HasAttr(module, PyTuple_GET_ITEM(from.get(), n)))
        give_up(Reason::imports, full);
  } else if (from.get() == Py_None && up == 0) {
    module = PyDict_GetItemString(modules, full.substr(0, full.find('.')).c_str());
    if (!module) give_up(Reason::imports, full);
  }
  return lazy(module, trace_.sources.fixed(module));
}

bool Tracer::step_jump(Frame& frame, const Instruction& i) {
  const auto jump_if = [&](bool condition) {
    if (condition) frame.unit = i.target;
  };
  switch (i.op) {
    case Op::JUMP_FORWARD:
    case Op::JUMP_BACKWARD:
    case Op::JUMP_BACKWARD_NO_INTERRUPT:
      frame.unit = i.target;
      return true;
    case Op::POP_JUMP_FORWARD_IF_FALSE:
    case Op::POP_JUMP_BACKWARD_IF_FALSE:
      jump_if(!truth(frame.pop()));
      return true;
    case Op::POP_JUMP_FORWARD_IF_TRUE:
    case Op::POP_JUMP_BACKWARD_IF_TRUE:
      jump_if(truth(frame.pop()));
      return true;
    case Op::POP_JUMP_FORWARD_IF_NONE:
    case Op::POP_JUMP_BACKWARD_IF_NONE:
      jump_if(is_none(frame.pop()));
      return true;
    case Op::POP_JUMP_FORWARD_IF_NOT_NONE:
    case Op::POP_JUMP_BACKWARD_IF_NOT_NONE:
      jump_if(!is_none(frame.pop()));
      return true;
    case Op::JUMP_IF_FALSE_OR_POP:
    case Op::JUMP_IF_TRUE_OR_POP:
      if (truth(frame.top()) == (i.op == Op::JUMP_IF_TRUE_OR_POP))
        frame.unit = i.target;
      else
        frame.pop();
      return true;
    case Op::GET_ITER:
    case Op::GET_YIELD_FROM_ITER:
      frame.push(iterate(frame.pop()));
      return true;
    case Op::FOR_ITER: {
      const V iterator = real(frame.top());
      V next;
      if (iterator->kind == Kind::iterator) {
        next = static_cast<Iterator&>(*iterator).next(*this);
      } else {
        next = next_or_null(*this, iterator);
      }
      if (next) {
        frame.push(std::move(next));
      } else {
        frame.pop();
        frame.unit = i.target;
      }
      return true;
    }
    case Op::SEND: {
      const V sent = frame.pop();
      const V receiver = real(frame.top());
      V given;
      const V next = send(*this, receiver, sent, given);
      if (next) {
        frame.push(next);
      } else {
        frame.top() = given;
        frame.unit = i.target;
      }
      return true;
    }
    default:
      return false;
  }
}

bool Tracer::step_exceptions(Frame& frame, const Instruction& i) {
  switch (i.op) {
    case Op::PUSH_EXC_INFO: {
      const V exception = frame.pop();
      frame.push(frame.handled.empty() ? none() : frame.handled.back());
      frame.handled.push_back(exception);
      frame.push(exception);
      return true;
    }
    case Op::POP_EXCEPT:
      frame.pop();
      frame.handled.pop_back();
      return true;
    case Op::CHECK_EXC_MATCH: {
      const V type = frame.pop();
      frame.push(boolean(matches_exception(frame.top(), type)));
      return true;
    }
    case Op::RERAISE:
      throw Raised{frame.pop()};
    case Op::RAISE_VARARGS: {
      V cause;
      if (i.arg == 2) cause = frame.pop();
      if (i.arg == 0) {
        for (Frame* f = &frame; f; f = f->caller)
          if (!f->handled.empty()) throw Raised{f->handled.back()};
        raise(PyExc_RuntimeError, "No active exception to reraise");
      }
      V exception = real(frame.pop());
      if (exception->kind == Kind::object && PyType_Check(exception->object.get()))
        exception = call(exception, {});
      if (exception->kind != Kind::instance && exception->kind != Kind::object)
        raise(PyExc_TypeError, "exceptions must derive from BaseException");
      if (cause && !is_none(cause)) {
        if (exception->kind != Kind::instance) give_up(Reason::exception, "raise from");
        set_attribute(exception, interned("__cause__").get(), cause);
      }
      throw Raised{exception};
    }
    case Op::BEFORE_WITH: {
      const V manager = frame.pop();
      const Ref enter = interned("__enter__"), exit = interned("__exit__");
      const V leave = attribute(manager, exit.get());
      const V entered = call(attribute(manager, enter.get()), {});
      frame.push(leave);
      frame.push(entered);
      return true;
    }
    case Op::WITH_EXCEPT_START: {
      const V exception = real(frame.top());
      frame.push(call(frame.top(4), {{type_value(exception), exception, none()}, {}}));
      return true;
    }
    default:
      return false;
  }
}

bool Tracer::step_calls(Frame& frame, const Instruction& i) {
  switch (i.op) {
    case Op::KW_NAMES:
      frame.keyword_names = frame.code->constant(i.arg);
      return true;
    case Op::CALL: {
      Call call;
      PyObject* names = std::exchange(frame.keyword_names, nullptr);
      const auto total = static_cast<size_t>(i.arg);
      const size_t keywords = names ? static_cast<size_t>(PyTuple_GET_SIZE(names)) : 0;
      const size_t first = frame.stack.size() - total;
      for (size_t n = 0; n < total - keywords; ++n) call.args.push_back(frame.stack[first + n]);
      for (size_t n = 0; n < keywords; ++n)
        call.keywords.emplace_back(
            Ref::borrow(PyTuple_GET_ITEM(names, static_cast<Py_ssize_t>(n))),
            frame.stack[first + total - keywords + n]);
      frame.stack.resize(first);
      V callee = frame.pop();
      const V before = frame.pop();
      if (before->kind != Kind::null) {
        call.args.insert(call.args.begin(), callee);
        callee = before;
      }
      frame.push(this->call(callee, std::move(call)));
      return true;
    }
    case Op::CALL_FUNCTION_EX: {
      Call call;
      if (i.arg & 1) {
        const V keywords = real(frame.pop());
        if (keywords->kind != Kind::dict) give_up(Reason::unknown_object, "** of " + describe(keywords));
        for (const auto& [key, value] : static_cast<Dict&>(*keywords).items)
          call.keywords.emplace_back(python_constant(key), value);
      }
      call.args = items_of(frame.pop());
      const V callee = frame.pop();
      frame.pop();
      frame.push(this->call(callee, std::move(call)));
      return true;
    }
    case Op::MAKE_FUNCTION:
      frame.push(make_function(frame, i.arg));
      return true;
    default:
      return false;
  }
}

V Tracer::make_function(Frame& frame, int flags) {
  auto function = make<Function>();
  function->code = python_constant(frame.pop());
  function->globals = Ref::borrow(frame.globals);
  const auto* code = reinterpret_cast<PyCodeObject*>(function->code.get());
  function->name = Ref::borrow(code->co_qualname);
  if (flags & 8) {
    const V cells = frame.pop();
    function->closure = static_cast<Sequence&>(*cells).items;
  }
  if (flags & 4) function->annotations = frame.pop();
  if (flags & 2) function->kwdefaults = frame.pop();
  if (flags & 1) function->defaults = real(frame.pop());
  return function;
}

bool Tracer::step_build(Frame& frame, const Instruction& i) {
  const auto take = [&](int count) {
    const auto first = frame.stack.end() - count;
    std::vector<V> items(first, frame.stack.end());
    frame.stack.erase(first, frame.stack.end());
    return items;
  };
  switch (i.op) {
    case Op::BUILD_TUPLE:
      frame.push(tuple(take(i.arg)));
      return true;
    case Op::BUILD_LIST:
      frame.push(list(take(i.arg)));
      return true;
    case Op::BUILD_SET: {
      auto set = make<Dict>();
      set->type = &PySet_Type;
      for (const V& item : take(i.arg)) dict_set(set, item, nullptr);
      frame.push(set);
      return true;
    }
    case Op::BUILD_MAP: {
      auto dict = make<Dict>();
      dict->type = &PyDict_Type;
      const std::vector<V> items = take(2 * i.arg);
      for (size_t n = 0; n < items.size(); n += 2) dict_set(dict, items[n], items[n + 1]);
      frame.push(dict);
      return true;
    }
    case Op::BUILD_CONST_KEY_MAP: {
      auto dict = make<Dict>();
      dict->type = &PyDict_Type;
      const Ref keys = python_constant(frame.pop());
      const std::vector<V> values = take(i.arg);
      for (size_t n = 0; n < values.size(); ++n)
        dict_set(dict, constant(PyTuple_GET_ITEM(keys.get(), static_cast<Py_ssize_t>(n))),
                 values[n]);
      frame.push(dict);
      return true;
    }
    case Op::BUILD_SLICE: {
      auto slice = make<Slice>();
      slice->step = i.arg == 3 ? frame.pop() : none();
      slice->stop = frame.pop();
      slice->start = frame.pop();
      frame.push(slice);
      return true;
    }
    case Op::BUILD_STRING: {
      std::string all;
      for (const V& part : take(i.arg)) all += utf8(real(part)->object.get());
      frame.push(string(all));
      return true;
    }
    case Op::FORMAT_VALUE: {
      const V spec = i.arg & 4 ? frame.pop() : nullptr;
      frame.push(format(frame.pop(), spec, i.arg & 3));
      return true;
    }
    case Op::LIST_TO_TUPLE:
      frame.push(tuple(items_of(frame.pop())));
      return true;
    case Op::LIST_APPEND: {
      const V item = frame.pop();
      static_cast<Sequence&>(*frame.top(i.arg)).items.push_back(item);
      return true;
    }
    case Op::LIST_EXTEND: {
      const std::vector<V> items = items_of(frame.pop());
      auto& list = static_cast<Sequence&>(*frame.top(i.arg)).items;
      list.insert(list.end(), items.begin(), items.end());
      return true;
    }
    case Op::SET_ADD:
    case Op::SET_UPDATE: {
      const V given = frame.pop();
      const auto set = std::static_pointer_cast<Dict>(frame.top(i.arg));
      if (i.op == Op::SET_ADD) {
        dict_set(set, given, nullptr);
      } else {
        for (const V& item : items_of(given)) dict_set(set, item, nullptr);
      }
      return true;
    }
    case Op::MAP_ADD: {
      const V value = frame.pop();
      const V key = frame.pop();
      dict_set(std::static_pointer_cast<Dict>(frame.top(i.arg)), key, value);
      return true;
    }
    case Op::DICT_UPDATE:
    case Op::DICT_MERGE: {
      const V given = real(frame.pop());
      const auto dict = std::static_pointer_cast<Dict>(frame.top(i.arg));
      if (given->kind != Kind::dict || static_cast<Dict&>(*given).is_set())
        give_up(Reason::unknown_object, "** of " + describe(given));
      for (const auto& [key, value] : static_cast<Dict&>(*given).items) {
        if (i.op == Op::DICT_MERGE && dict_get(*dict, key))
          raise(PyExc_TypeError, "got multiple values for keyword argument " +
                                     repr(python_constant(key).get()));
        dict_set(dict, key, value);
      }
      return true;
    }
    case Op::UNPACK_SEQUENCE: {
      const std::vector<V> items = items_of(frame.pop());
      if (items.size() != static_cast<size_t>(i.arg))
        raise(PyExc_ValueError,
              items.size() < static_cast<size_t>(i.arg)
                  ? fmt::format("not enough values to unpack (expected {}, got {})", i.arg,
                                items.size())
                  : fmt::format("too many values to unpack (expected {})", i.arg));
      for (size_t n = items.size(); n-- > 0;) frame.push(items[n]);
      return true;
    }
    case Op::UNPACK_EX: {
      const std::vector<V> items = items_of(frame.pop());
      const auto before = static_cast<size_t>(i.arg & 255), after = static_cast<size_t>(i.arg >> 8);
      if (items.size() < before + after)
        raise(PyExc_ValueError,
              fmt::format("not enough values to unpack (expected at least {}, got {})",
                          before + after, items.size()));
      for (size_t n = 0; n < after; ++n) frame.push(items[items.size() - 1 - n]);
      const auto middle = items.begin() + static_cast<ptrdiff_t>(before);
      frame.push(list({middle, items.end() - static_cast<ptrdiff_t>(after)}));
      for (size_t n = before; n-- > 0;) frame.push(items[n]);
      return true;
    }
    case Op::GET_LEN:
      frame.push(call(constant(PyDict_GetItemString(builtins_, "len")), {{frame.top()}, {}}));
      return true;
    case Op::MATCH_SEQUENCE: {
      const V subject = real(frame.top());
      frame.push(boolean(subject->kind == Kind::sequence));
      return true;
    }
    case Op::MATCH_MAPPING: {
      const V subject = real(frame.top());
      frame.push(boolean(subject->kind == Kind::dict && !static_cast<Dict&>(*subject).is_set()));
      return true;
    }
    default:
      return false;
  }
}

}  // namespace octavo::capture
