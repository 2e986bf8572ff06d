// The main loop, and the instructions that move values, jump, build and raise.
#include <ATen/core/grad_mode.h>
#include <fmt/format.h>

#include "generator.h"
#include "tracer.h"
#include "vmap.h"

namespace octavo::capture {

Tracer::Tracer(const Settings& settings, const Code& code, PyObject* globals, PyObject* builtins,
               SizeHistory& history)
    : settings_(settings),
      code_(code),
      globals_(globals),
      builtins_(builtins),
      history_(history),
      began_in_vmap_(vmap_depth() > 0) {}

Trace Tracer::run(int unit, PyObject** slots, int depth, PyObject* closure, int stop) {
  stop_ = stop;
  first_unit_ = unit;
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
    // Where it came into this frame, not where a handler passes it on or raises another: that one
    // has the first as its context.
    const bool goes_on = raised.exception == root.raised || !root.handled.empty() ||
                         root.code->at(root.at).op == Op::RERAISE;
    give_up(Reason::exception, describe(raised.exception), goes_on ? root.raised_at : -1);
  }
  if (trace_.ended == Ended::broke && !root.handled.empty())
    give_up(Reason::exception, "the piece would end while an exception is handled", root.raised_at);
  if (modes_ > 0)
    give_up(Reason::side_effect, "the piece would end within a mode that capture follows",
            modes_begun_);
  // Python closes a generator that is dropped: its `finally` and `with` run.
  for (const V& made : generators_) {
    const auto& generator = static_cast<GeneratorIterator&>(*made);
    if (generator.started && !generator.finished &&
        generator.frame->code->handler(generator.frame->at))
      give_up(Reason::generator, "a generator that is dropped while it runs",
              std::max(0, made->born - 1));
  }
  trace_.instructions = instructions_;
  trace_.unit = root.unit;
  trace_.slots = std::move(root.slots);
  trace_.stack = std::move(root.stack);
  finish_writes();
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
  raised_.try_emplace(exception.get(), exception, instructions_ - 1);
  if (&frame == root_ && frame.raised != exception) {
    frame.raised = exception;
    if (frame.handled.empty() && frame.code->at(frame.at).op != Op::RERAISE)
      frame.raised_at = instructions_ - 1;
  }
  return true;
}

void Tracer::step(Frame& frame, const Instruction& i) {
  if (step_stack(frame, i) || step_names(frame, i) || step_calls(frame, i) || step_jump(frame, i) ||
      step_build(frame, i) || step_exceptions(frame, i))
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
      guard_bound(frame, i.arg);
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
      guard_bound(frame, i.arg);
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
      return loaded(found, trace_.sources.of(SourceKind::dict_item, globals, name));
    trace_.sources.guard(globals, GuardKind::lacks_key, name);
  }
  PyObject* found = PyDict_GetItemWithError(frame.builtins, name);
  if (!found) raise(PyExc_NameError, fmt::format("name '{}' is not defined", utf8(name)));
  Source* builtins = trace_.sources.fixed(frame.builtins);
  return loaded(found, trace_.sources.of(SourceKind::dict_item, builtins, name));
}

// Whether a variable that was there when the piece began, or was not, is there again.
void Tracer::guard_bound(const Frame& frame, int slot) {
  if (&frame != root_) return;
  const V& value = frame.slots[static_cast<size_t>(slot)];
  const V& first = trace_.first_slots[static_cast<size_t>(slot)];
  if (value != first) return;
  trace_.sources.guard(trace_.sources.slot(slot), value ? GuardKind::there : GuardKind::lacks_item);
}

void Tracer::unbound_cell(const Frame& frame, int slot) {
  const PyCodeObject* code = frame.code->object();
  const bool own = slot < code->co_nlocalsplus - code->co_nfreevars;
  raise(own ? PyExc_UnboundLocalError : PyExc_NameError,
        "unbound " + utf8(frame.code->slot_name(slot)));
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
      ++effects_;
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
      if (!content) unbound_cell(frame, i.arg);
      if (content->source && content->source->base == cell->source)
        trace_.sources.guard(content->source, GuardKind::there);
      frame.push(content);
      return true;
    }
    case Op::STORE_DEREF:
    case Op::DELETE_DEREF: {
      const V cell = real(frame.slots[static_cast<size_t>(i.arg)]);
      if (i.op == Op::DELETE_DEREF && !static_cast<Cell&>(*cell).content)
        unbound_cell(frame, i.arg);
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

}  // namespace octavo::capture
