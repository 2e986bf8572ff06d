// Makes the values that a piece leaves, and what it did to objects that existed, real.
#include <ATen/core/grad_mode.h>
#include <torch/csrc/autograd/python_variable.h>
#include <torch/csrc/utils/tensor_numpy.h>

#include "python_types.h"
#include "recipe.h"

namespace octavo::capture {
namespace {

// Gives the dict these items, in their order, as the program did: what stays is not moved, so that
// who iterates over it goes on.
void fill_dict(PyObject* dict, const std::vector<Ref>& at, const std::vector<int>& args) {
  const bool ordered = PyODict_Check(dict);
  const auto get = [&](size_t n) { return at[static_cast<size_t>(args[n])].get(); };
  if (PyDict_GET_SIZE(dict)) {
    const Ref old = Ref::checked(ordered ? PySequence_List(dict) : PyDict_Keys(dict));
    size_t next = 0;
    for (Py_ssize_t n = 0; n < PyList_GET_SIZE(old.get()); ++n) {
      PyObject* key = PyList_GET_ITEM(old.get(), n);
      const bool plain = PyUnicode_CheckExact(key) || PyLong_CheckExact(key);
      if (next < args.size() &&
          (key == get(next) || (plain && Py_TYPE(key) == Py_TYPE(get(next)) &&
                                PyObject_RichCompareBool(key, get(next), Py_EQ) == 1)))
        next += 2;
      else
        check(ordered ? PyODict_DelItem(dict, key) : PyDict_DelItem(dict, key));
    }
  }
  for (size_t n = 0; n + 1 < args.size(); n += 2)
    check(ordered ? PyODict_SetItem(dict, get(n), get(n + 1))
                  : PyDict_SetItem(dict, get(n), get(n + 1)));
}

// The same for a set, whose order is that of its hash table.
void fill_set(PyObject* set, const std::vector<Ref>& at, const std::vector<int>& args) {
  const Ref wanted = Ref::checked(PySet_New(nullptr));
  for (const int arg : args) check(PySet_Add(wanted.get(), at[static_cast<size_t>(arg)].get()));
  const Ref old = Ref::checked(PySequence_List(set));
  for (Py_ssize_t n = 0; n < PyList_GET_SIZE(old.get()); ++n) {
    const int stays = PySet_Contains(wanted.get(), PyList_GET_ITEM(old.get(), n));
    check(stays);
    if (!stays) check(PySet_Discard(set, PyList_GET_ITEM(old.get(), n)));
  }
  for (const int arg : args) check(PySet_Add(set, at[static_cast<size_t>(arg)].get()));
}

}  // namespace

std::vector<Ref> run_recipe(const Recipe& recipe, const std::vector<Ref>& values,
                            PyObject* const* outputs) {
  std::vector<Ref> at(static_cast<size_t>(recipe.registers));
  const auto get = [&](int index) { return at[static_cast<size_t>(index)].get(); };
  const auto tuple_of = [&](const std::vector<int>& args) {
    Ref tuple = Ref::checked(PyTuple_New(static_cast<Py_ssize_t>(args.size())));
    for (size_t n = 0; n < args.size(); ++n)
      PyTuple_SET_ITEM(tuple.get(), static_cast<Py_ssize_t>(n), Py_NewRef(get(args[n])));
    return tuple;
  };
  const Ref no_args = Ref::checked(PyTuple_New(0));
  for (const Step& step : recipe.steps) {
    const auto put = [&](Ref made) { at[static_cast<size_t>(step.into)] = std::move(made); };
    PyObject* into = step.into >= 0 ? get(step.into) : nullptr;
    switch (step.op) {
      case Step::Op::constant:
        put(step.object);
        break;
      case Step::Op::source:
        put(values[static_cast<size_t>(step.index)]);
        break;
      case Step::Op::output:
        put(Ref::borrow(outputs[step.index]));
        break;
      case Step::Op::array: {
        Ref array = Ref::checked(
            torch::utils::tensor_to_numpy(THPVariable_Unpack(get(step.args[0])), true));
        if (step.index == 2) array = Ref::checked(PyObject_GetItem(array.get(), no_args.get()));
        if (step.index == 1) {
          const Ref flags = attribute(array.get(), "flags");
          check(PyObject_SetAttrString(flags.get(), "writeable", Py_False));
        }
        put(std::move(array));
        break;
      }
      case Step::Op::tuple: {
        Ref items = tuple_of(step.args);
        if (!step.object) {
          put(std::move(items));
          break;
        }
        auto* type = reinterpret_cast<PyTypeObject*>(step.object.get());
        if (type->tp_new != PyTuple_Type.tp_new && !(type->tp_flags & Py_TPFLAGS_HEAPTYPE)) {
          put(Ref::checked(PyObject_CallOneArg(step.object.get(), items.get())));
          break;
        }
        const Ref one = Ref::checked(PyTuple_Pack(1, items.get()));
        put(Ref::checked(PyTuple_Type.tp_new(type, one.get(), nullptr)));
        break;
      }
      case Step::Op::list:
        put(Ref::checked(PyList_New(0)));
        break;
      case Step::Op::dict: {
        if (step.args.empty())
          put(Ref::checked(PyObject_CallNoArgs(step.object.get())));
        else
          put(Ref::checked(PyObject_CallOneArg(step.object.get(), get(step.args[0]))));
        break;
      }
      case Step::Op::set: {
        Ref set = Ref::checked(PySet_New(nullptr));
        for (const int arg : step.args) check(PySet_Add(set.get(), get(arg)));
        if (step.object.get() != reinterpret_cast<PyObject*>(&PySet_Type))
          set = Ref::checked(PyObject_CallOneArg(step.object.get(), set.get()));
        put(std::move(set));
        break;
      }
      case Step::Op::slice:
        put(Ref::checked(PySlice_New(get(step.args[0]), get(step.args[1]), get(step.args[2]))));
        break;
      case Step::Op::cell:
        put(Ref::checked(PyCell_New(nullptr)));
        break;
      case Step::Op::function:
        put(Ref::checked(PyFunction_NewWithQualName(PyTuple_GET_ITEM(step.object.get(), 0),
                                                    PyTuple_GET_ITEM(step.object.get(), 1),
                                                    PyTuple_GET_ITEM(step.object.get(), 2))));
        break;
      case Step::Op::method:
        put(Ref::checked(PyMethod_New(get(step.args[0]), get(step.args[1]))));
        break;
      case Step::Op::bind: {
        PyObject* self = get(step.args[0]);
        put(Ref::checked(Py_TYPE(step.object.get())
                             ->tp_descr_get(step.object.get(), self,
                                            reinterpret_cast<PyObject*>(Py_TYPE(self)))));
        break;
      }
      case Step::Op::instance:
        put(Ref::checked(PyBaseObject_Type.tp_new(
            reinterpret_cast<PyTypeObject*>(step.object.get()), no_args.get(), nullptr)));
        break;
      case Step::Op::dict_instance: {
        auto* type = reinterpret_cast<PyTypeObject*>(step.object.get());
        PyTypeObject* base = PyType_IsSubtype(type, &PyODict_Type) ? &PyODict_Type : &PyDict_Type;
        Ref made = Ref::checked(base->tp_new(type, no_args.get(), nullptr));
        check(base->tp_init(made.get(), no_args.get(), nullptr));
        put(std::move(made));
        break;
      }
      case Step::Op::exception: {
        auto* type = reinterpret_cast<PyTypeObject*>(step.object.get());
        Ref made = Ref::checked(reinterpret_cast<PyTypeObject*>(PyExc_BaseException)
                                    ->tp_new(type, get(step.args[0]), nullptr));
        // What its builtin class keeps of them: StopIteration its value.
        const PyTypeObject* base = type;
        while (base->tp_flags & Py_TPFLAGS_HEAPTYPE) base = base->tp_base;
        check(base->tp_init(made.get(), get(step.args[0]), nullptr));
        put(std::move(made));
        break;
      }
      case Step::Op::partial: {
        const Ref rest = Ref::borrow(get(step.args[1]));
        const Ref first = Ref::checked(PyTuple_Pack(1, get(step.args[0])));
        const Ref all = Ref::checked(PySequence_Concat(first.get(), rest.get()));
        put(Ref::checked(PyObject_Call(step.object.get(), all.get(), get(step.args[2]))));
        break;
      }
      case Step::Op::iterator: {
        PyObject* over = get(step.args[0]);
        Ref iterator = Ref::checked(step.object ? PyObject_CallOneArg(step.object.get(), over)
                                                : PyObject_GetIter(over));
        if (step.object || PyList_Check(over) || PyTuple_Check(over)) {
          if (step.object || step.index > 0)
            Ref::checked(PyObject_CallMethod(iterator.get(), "__setstate__", "i", step.index));
        } else {
          for (int n = 0; n < step.index; ++n) Ref::checked(PyIter_Next(iterator.get()));
        }
        put(std::move(iterator));
        break;
      }
      case Step::Op::iterator_state:
        Ref::checked(PyObject_CallMethod(into, "__setstate__", "i", step.index));
        break;
      case Step::Op::call:
        put(Ref::checked(PyObject_Call(step.object.get(), tuple_of(step.args).get(), nullptr)));
        break;
      case Step::Op::number: {
        std::vector<int64_t> symbols;
        for (auto value = values.begin() + recipe.first_symbol; value != values.end(); ++value)
          symbols.push_back(PyLong_AsLongLong(value->get()));
        const auto number = evaluate(*step.expr, symbols);
        if (!number) {
          PyErr_SetString(PyExc_OverflowError, "a size computed from sizes leaves 64 bits");
          throw PythonError{};
        }
        put(Ref::checked(number->real ? PyFloat_FromDouble(number->value)
                                      : PyLong_FromLongLong(number->whole)));
        break;
      }
      case Step::Op::fill_list: {
        const Ref list = Ref::checked(PyList_New(static_cast<Py_ssize_t>(step.args.size())));
        for (size_t n = 0; n < step.args.size(); ++n)
          PyList_SET_ITEM(list.get(), static_cast<Py_ssize_t>(n), Py_NewRef(get(step.args[n])));
        check(PyList_SetSlice(into, 0, PyList_GET_SIZE(into), list.get()));
        break;
      }
      case Step::Op::fill_deque:
        Ref::checked(PyObject_CallMethod(into, "clear", nullptr));
        Ref::checked(PyObject_CallMethod(into, "extend", "(O)", tuple_of(step.args).get()));
        break;
      case Step::Op::fill_dict:
        fill_dict(into, at, step.args);
        break;
      case Step::Op::fill_set:
        fill_set(into, at, step.args);
        break;
      case Step::Op::fill_cell:
        check(PyCell_Set(into, step.args.empty() ? nullptr : get(step.args[0])));
        break;
      case Step::Op::fill_function: {
        if (step.args[0] >= 0) check(PyFunction_SetDefaults(into, get(step.args[0])));
        if (step.args[1] >= 0) check(PyFunction_SetKwDefaults(into, get(step.args[1])));
        if (step.args[2] >= 0) check(PyFunction_SetClosure(into, get(step.args[2])));
        if (step.args[3] >= 0)
          Py_XSETREF(reinterpret_cast<PyFunctionObject*>(into)->func_annotations,
                     Py_NewRef(get(step.args[3])));
        break;
      }
      case Step::Op::set_attribute:
        check(PyObject_GenericSetAttr(into, step.object.get(),
                                      step.args.empty() ? nullptr : get(step.args[0])));
        break;
      case Step::Op::set_any_attribute:
        check(PyObject_SetAttr(into, step.object.get(), get(step.args[0])));
        break;
      case Step::Op::set_item:
        if (step.args.empty())
          check(PyDict_DelItem(into, step.object.get()));
        else
          check(PyDict_SetItem(into, step.object.get(), get(step.args[0])));
        break;
      case Step::Op::set_grad:
        check(PyObject_SetAttrString(into, "grad", get(step.args[0])));
        break;
      case Step::Op::grad_mode:
        at::GradMode::set_enabled(step.index != 0);
        break;
    }
  }
  return at;
}

}  // namespace octavo::capture
