// The instructions that call, build containers, and raise.
#include <fmt/format.h>

#include "generator.h"
#include "tracer.h"

namespace octavo::capture {

namespace {

// Each place words the error for what cannot be iterated in its own way: the real instruction does.
V must_iterate(Tracer& tracer, const V& given) {
  const V value = tracer.real(given);
  if (value->kind == Kind::constant && !Py_TYPE(value->object.get())->tp_iter &&
      !PySequence_Check(value->object.get()))
    give_up(Reason::wrong_call, "iterating over " + tracer.describe(value));
  return value;
}

}  // namespace

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
      else if (exception->kind == Kind::object)
        give_up(Reason::exception, "raising " + describe(exception));
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
      const V enter = special(manager, "__enter__"), leave = special(manager, "__exit__");
      const V entered = call(enter, {});
      frame.push(leave);
      frame.push(entered);
      return true;
    }
    case Op::WITH_EXCEPT_START: {
      const V exception = real(frame.top());
      frame.push(call(frame.top(4),
                      {{type_value(exception), exception, make<Value>(Kind::traceback)}, {}}));
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
        call.keywords.emplace_back(Ref::borrow(PyTuple_GET_ITEM(names, static_cast<Py_ssize_t>(n))),
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
        if (keywords->kind != Kind::dict)
          give_up(Reason::unknown_object, "** of " + describe(keywords));
        for (const auto& [key, value] : static_cast<Dict&>(*keywords).items)
          call.keywords.emplace_back(python_constant(key), value);
      }
      call.args = items_of(must_iterate(*this, frame.pop()));
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
    function->closure = static_cast<Sequence&>(*real(cells)).items;
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
      const auto set = new_set(&PySet_Type);
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
      const Ref parts = Ref::checked(PyList_New(0)), empty = text("");
      for (const V& part : take(i.arg)) check(PyList_Append(parts.get(), real(part)->object.get()));
      frame.push(constant(Ref::checked(PyUnicode_Join(empty.get(), parts.get()))));
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
    // The container may be one that the frame had when the piece began.
    case Op::LIST_APPEND: {
      const V item = frame.pop();
      const V list = real(frame.top(i.arg));
      static_cast<Sequence&>(*list).items.push_back(item);
      changed(list);
      return true;
    }
    case Op::LIST_EXTEND: {
      const std::vector<V> items = items_of(must_iterate(*this, frame.pop()));
      const V list = real(frame.top(i.arg));
      auto& into = static_cast<Sequence&>(*list).items;
      into.insert(into.end(), items.begin(), items.end());
      changed(list);
      return true;
    }
    case Op::SET_ADD:
    case Op::SET_UPDATE: {
      const V given = frame.pop();
      const V target = real(frame.top(i.arg));
      if (target->kind != Kind::dict) give_up(Reason::unknown_object, "a set of objects");
      const auto set = std::static_pointer_cast<Dict>(target);
      if (i.op == Op::SET_ADD) {
        dict_set(set, given, nullptr);
      } else {
        update_set(set, given);
      }
      return true;
    }
    case Op::MAP_ADD: {
      const V value = frame.pop();
      const V key = frame.pop();
      dict_set(std::static_pointer_cast<Dict>(real(frame.top(i.arg))), key, value);
      return true;
    }
    case Op::DICT_UPDATE:
    case Op::DICT_MERGE: {
      const V given = real(frame.pop());
      const auto dict = std::static_pointer_cast<Dict>(real(frame.top(i.arg)));
      if (given->kind != Kind::dict || static_cast<Dict&>(*given).is_set())
        give_up(Reason::unknown_object, "** of " + describe(given));
      for (const auto& [key, value] : std::vector(static_cast<Dict&>(*given).items)) {
        if (i.op == Op::DICT_MERGE && dict_get(*dict, key))
          give_up(Reason::wrong_call,
                  "two values for the argument " + repr(python_constant(key).get()));
        dict_set(dict, key, value);
      }
      return true;
    }
    case Op::UNPACK_SEQUENCE: {
      const std::vector<V> items = items_of(must_iterate(*this, frame.pop()));
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
      const std::vector<V> items = items_of(must_iterate(*this, frame.pop()));
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
