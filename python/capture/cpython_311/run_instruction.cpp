// The instructions at which a piece may end, on real objects. Semantics: Python/ceval.c of 3.11.
#include "cpython_311/interpreter_frame.h"

namespace octavo::capture {
namespace {

class Stack {
 public:
  explicit Stack(InterpreterFrame* frame) : frame_(frame) {}
  Ref pop() { return Ref::steal(_PyFrame_StackPop(frame_)); }
  PyObject* peek(int back = 1) { return frame_->localsplus[frame_->stacktop - back]; }
  void push(Ref value) { _PyFrame_StackPush(frame_, value.release()); }
  void drop(int count) {
    for (int n = 0; n < count; ++n) Py_XDECREF(_PyFrame_StackPop(frame_));
  }

 private:
  InterpreterFrame* frame_;
};

// The names of a call's keyword arguments stand in the KW_NAMES two instructions before it.
PyObject* keyword_names(const Code& code, const Instruction& call) {
  const auto& all = code.instructions();
  const auto here = static_cast<size_t>(&call - all.data());
  return here >= 2 && all[here - 2].op == Op::KW_NAMES ? code.constant(all[here - 2].arg) : nullptr;
}

PyObject* binary(int operation, PyObject* a, PyObject* b) {
  switch (operation) {
    case 0:
      return PyNumber_Add(a, b);
    case 1:
      return PyNumber_And(a, b);
    case 2:
      return PyNumber_FloorDivide(a, b);
    case 3:
      return PyNumber_Lshift(a, b);
    case 4:
      return PyNumber_MatrixMultiply(a, b);
    case 5:
      return PyNumber_Multiply(a, b);
    case 6:
      return PyUnicode_CheckExact(a) && (!PyUnicode_Check(b) || PyUnicode_CheckExact(b))
                 ? PyUnicode_Format(a, b)
                 : PyNumber_Remainder(a, b);
    case 7:
      return PyNumber_Or(a, b);
    case 8:
      return PyNumber_Power(a, b, Py_None);
    case 9:
      return PyNumber_Rshift(a, b);
    case 10:
      return PyNumber_Subtract(a, b);
    case 11:
      return PyNumber_TrueDivide(a, b);
    case 12:
      return PyNumber_Xor(a, b);
    case 13:
      return PyNumber_InPlaceAdd(a, b);
    case 14:
      return PyNumber_InPlaceAnd(a, b);
    case 15:
      return PyNumber_InPlaceFloorDivide(a, b);
    case 16:
      return PyNumber_InPlaceLshift(a, b);
    case 17:
      return PyNumber_InPlaceMatrixMultiply(a, b);
    case 18:
      return PyNumber_InPlaceMultiply(a, b);
    case 19:
      return PyNumber_InPlaceRemainder(a, b);
    case 20:
      return PyNumber_InPlaceOr(a, b);
    case 21:
      return PyNumber_InPlacePower(a, b, Py_None);
    case 22:
      return PyNumber_InPlaceRshift(a, b);
    case 23:
      return PyNumber_InPlaceSubtract(a, b);
    case 24:
      return PyNumber_InPlaceTrueDivide(a, b);
    case 25:
      return PyNumber_InPlaceXor(a, b);
    default:
      PyErr_SetString(PyExc_SystemError, "unknown binary operation");
      return nullptr;
  }
}

// __enter__ and __exit__ are looked up on the type, as `with` does.
Ref special(PyObject* object, const char* name) {
  const Ref key = interned(name);
  PyObject* found = _PyType_Lookup(Py_TYPE(object), key.get());
  if (!found) {
    PyErr_Format(PyExc_TypeError, "'%.200s' object does not support the context manager protocol",
                 Py_TYPE(object)->tp_name);
    throw PythonError{};
  }
  descrgetfunc get = Py_TYPE(found)->tp_descr_get;
  if (!get) return Ref::borrow(found);
  return Ref::checked(get(found, object, reinterpret_cast<PyObject*>(Py_TYPE(object))));
}

bool can_iterate(PyObject* object) { return Py_TYPE(object)->tp_iter || PySequence_Check(object); }

int run(InterpreterFrame* frame, const Code& code, const Instruction& i) {
  Stack stack(frame);
  switch (i.op) {
    case Op::CALL: {
      const bool method = stack.peek(i.arg + 2) != nullptr;
      const int total = i.arg + (method ? 1 : 0);
      PyObject* names = keyword_names(code, i);
      const Py_ssize_t keywords = names ? PyTuple_GET_SIZE(names) : 0;
      PyObject* callee = stack.peek(total + 1);
      PyObject** args = frame->localsplus + frame->stacktop - total;
      Ref result = Ref::steal(PyObject_Vectorcall(
          callee, args, static_cast<size_t>(total - keywords) | PY_VECTORCALL_ARGUMENTS_OFFSET,
          names));
      stack.drop(i.arg + 2);
      if (!result) throw PythonError{};
      stack.push(std::move(result));
      return i.next;
    }
    case Op::CALL_FUNCTION_EX: {
      // Errors of * and ** are worded by the interpreter.
      const int top = i.arg & 1;
      if (!can_iterate(stack.peek(top + 1)) || (top && !PyDict_Check(stack.peek()))) return -1;
      Ref keywords = i.arg & 1 ? stack.pop() : Ref();
      Ref args = stack.pop();
      const Ref callee = stack.pop();
      stack.drop(1);
      if (keywords && !PyDict_CheckExact(keywords.get())) {
        const Ref dict = Ref::checked(PyDict_New());
        check(PyDict_Update(dict.get(), keywords.get()));
        keywords = dict;
      }
      if (!PyTuple_CheckExact(args.get())) args = Ref::checked(PySequence_Tuple(args.get()));
      stack.push(Ref::checked(PyObject_Call(callee.get(), args.get(), keywords.get())));
      return i.next;
    }
    case Op::BINARY_OP: {
      const Ref right = stack.pop(), left = stack.pop();
      stack.push(Ref::checked(binary(i.arg, left.get(), right.get())));
      return i.next;
    }
    case Op::COMPARE_OP: {
      const Ref right = stack.pop(), left = stack.pop();
      stack.push(Ref::checked(PyObject_RichCompare(left.get(), right.get(), i.arg)));
      return i.next;
    }
    case Op::CONTAINS_OP: {
      const Ref right = stack.pop(), left = stack.pop();
      const int found = PySequence_Contains(right.get(), left.get());
      check(found);
      stack.push(Ref::borrow((found != 0) != (i.arg != 0) ? Py_True : Py_False));
      return i.next;
    }
    case Op::IS_OP: {
      const Ref right = stack.pop(), left = stack.pop();
      stack.push(Ref::borrow((left.get() == right.get()) != (i.arg != 0) ? Py_True : Py_False));
      return i.next;
    }
    case Op::BINARY_SUBSCR: {
      const Ref key = stack.pop(), container = stack.pop();
      stack.push(Ref::checked(PyObject_GetItem(container.get(), key.get())));
      return i.next;
    }
    case Op::STORE_SUBSCR: {
      const Ref key = stack.pop(), container = stack.pop(), value = stack.pop();
      check(PyObject_SetItem(container.get(), key.get(), value.get()));
      return i.next;
    }
    case Op::DELETE_SUBSCR: {
      const Ref key = stack.pop(), container = stack.pop();
      check(PyObject_DelItem(container.get(), key.get()));
      return i.next;
    }
    case Op::UNARY_NEGATIVE:
    case Op::UNARY_POSITIVE:
    case Op::UNARY_INVERT: {
      const Ref value = stack.pop();
      stack.push(Ref::checked(i.op == Op::UNARY_NEGATIVE   ? PyNumber_Negative(value.get())
                              : i.op == Op::UNARY_POSITIVE ? PyNumber_Positive(value.get())
                                                           : PyNumber_Invert(value.get())));
      return i.next;
    }
    case Op::UNARY_NOT: {
      const Ref value = stack.pop();
      const int truth = PyObject_IsTrue(value.get());
      check(truth);
      stack.push(Ref::borrow(truth ? Py_False : Py_True));
      return i.next;
    }
    case Op::LOAD_ATTR: {
      const Ref owner = stack.pop();
      stack.push(Ref::checked(PyObject_GetAttr(owner.get(), code.name(i.arg))));
      return i.next;
    }
    case Op::LOAD_METHOD: {
      const Ref owner = stack.pop();
      Ref found = Ref::checked(PyObject_GetAttr(owner.get(), code.name(i.arg)));
      stack.push(Ref());
      stack.push(std::move(found));
      return i.next;
    }
    case Op::STORE_ATTR: {
      const Ref owner = stack.pop(), value = stack.pop();
      check(PyObject_SetAttr(owner.get(), code.name(i.arg), value.get()));
      return i.next;
    }
    case Op::DELETE_ATTR: {
      const Ref owner = stack.pop();
      check(PyObject_SetAttr(owner.get(), code.name(i.arg), nullptr));
      return i.next;
    }
    case Op::STORE_GLOBAL:
      check(PyDict_SetItem(frame->f_globals, code.name(i.arg), stack.pop().get()));
      return i.next;
    case Op::IMPORT_NAME: {
      const Ref fromlist = stack.pop(), level = stack.pop();
      PyObject* function = PyDict_GetItemString(frame->f_builtins, "__import__");
      if (!function) {
        PyErr_SetString(PyExc_ImportError, "__import__ not found");
        throw PythonError{};
      }
      PyObject* locals = frame->f_locals ? frame->f_locals : Py_None;
      stack.push(
          Ref::checked(PyObject_CallFunctionObjArgs(function, code.name(i.arg), frame->f_globals,
                                                    locals, fromlist.get(), level.get(), nullptr)));
      return i.next;
    }
    case Op::GET_ITER: {
      const Ref iterable = stack.pop();
      stack.push(Ref::checked(PyObject_GetIter(iterable.get())));
      return i.next;
    }
    case Op::FOR_ITER: {
      PyObject* iterator = stack.peek();
      Ref item = Ref::steal(Py_TYPE(iterator)->tp_iternext(iterator));
      if (item) {
        stack.push(std::move(item));
        return i.next;
      }
      if (PyErr_Occurred()) {
        if (!PyErr_ExceptionMatches(PyExc_StopIteration)) throw PythonError{};
        PyErr_Clear();
      }
      stack.drop(1);
      return i.target;
    }
    case Op::POP_JUMP_FORWARD_IF_FALSE:
    case Op::POP_JUMP_BACKWARD_IF_FALSE:
    case Op::POP_JUMP_FORWARD_IF_TRUE:
    case Op::POP_JUMP_BACKWARD_IF_TRUE: {
      const Ref value = stack.pop();
      const int truth = PyObject_IsTrue(value.get());
      check(truth);
      const bool wanted =
          i.op == Op::POP_JUMP_FORWARD_IF_TRUE || i.op == Op::POP_JUMP_BACKWARD_IF_TRUE;
      return (truth != 0) == wanted ? i.target : i.next;
    }
    case Op::JUMP_IF_FALSE_OR_POP:
    case Op::JUMP_IF_TRUE_OR_POP: {
      const int truth = PyObject_IsTrue(stack.peek());
      check(truth);
      if ((truth != 0) == (i.op == Op::JUMP_IF_TRUE_OR_POP)) return i.target;
      stack.drop(1);
      return i.next;
    }
    case Op::UNPACK_SEQUENCE: {
      if (!can_iterate(stack.peek()) || PyIter_Check(stack.peek())) return -1;
      const Ref value = stack.pop();
      const Ref items = Ref::checked(PySequence_Tuple(value.get()));
      const Py_ssize_t size = PyTuple_GET_SIZE(items.get());
      if (size != i.arg) {
        if (size < i.arg)
          PyErr_Format(PyExc_ValueError, "not enough values to unpack (expected %d, got %zd)",
                       i.arg, size);
        else
          PyErr_Format(PyExc_ValueError, "too many values to unpack (expected %d)", i.arg);
        throw PythonError{};
      }
      for (Py_ssize_t n = size; n-- > 0;) stack.push(Ref::borrow(PyTuple_GET_ITEM(items.get(), n)));
      return i.next;
    }
    case Op::FORMAT_VALUE: {
      const Ref spec = i.arg & 4 ? stack.pop() : Ref();
      Ref value = stack.pop();
      if ((i.arg & 3) == 1) value = Ref::checked(PyObject_Str(value.get()));
      if ((i.arg & 3) == 2) value = Ref::checked(PyObject_Repr(value.get()));
      if ((i.arg & 3) == 3) value = Ref::checked(PyObject_ASCII(value.get()));
      stack.push(Ref::checked(PyObject_Format(value.get(), spec.get())));
      return i.next;
    }
    case Op::LIST_EXTEND: {
      if (!can_iterate(stack.peek())) return -1;
      const Ref items = stack.pop();
      PyObject* list = stack.peek(i.arg);
      check(PyList_SetSlice(list, PyList_GET_SIZE(list), PyList_GET_SIZE(list),
                            Ref::checked(PySequence_List(items.get())).get()));
      return i.next;
    }
    case Op::DICT_UPDATE: {
      if (!PyDict_Check(stack.peek())) return -1;
      const Ref items = stack.pop();
      check(PyDict_Update(stack.peek(i.arg), items.get()));
      return i.next;
    }
    case Op::LIST_APPEND:
      check(PyList_Append(stack.peek(i.arg + 1), stack.peek()));
      stack.drop(1);
      return i.next;
    case Op::MAP_ADD: {
      const Ref value = stack.pop(), key = stack.pop();
      check(PyDict_SetItem(stack.peek(i.arg), key.get(), value.get()));
      return i.next;
    }
    case Op::BEFORE_WITH: {
      const Ref manager = stack.pop();
      const Ref enter = special(manager.get(), "__enter__");
      Ref exit = special(manager.get(), "__exit__");
      Ref entered = Ref::checked(PyObject_CallNoArgs(enter.get()));
      stack.push(std::move(exit));
      stack.push(std::move(entered));
      return i.next;
    }
    default:
      return -1;
  }
}

}  // namespace

Stepped run_instruction(InterpreterFrame* frame, const Code& code, int unit, int& next) {
  const Instruction& i = code.at(unit);
  set_running(frame, i.unit);
  try {
    next = run(frame, code, i);
  } catch (const PythonError&) {
    return Stepped::raised;
  }
  if (next < 0) {
    set_next(frame, i.offset);
    return Stepped::cannot;
  }
  set_next(frame, next);
  return Stepped::next;
}

}  // namespace octavo::capture
