// octavo._capture: the extension module. The Python side is octavo/capture/.
#include <Python.h>
#include <structmember.h>
#include <torch/csrc/autograd/function.h>

#include <atomic>

#include "engine.h"
#include "python_types.h"
#include "report.h"

namespace octavo::capture {
namespace {

// A function whose frames are captured when it is called through this.
struct Captured {
  PyObject_HEAD vectorcallfunc vectorcall;
  PyObject* function;
  PyObject* dict;
  PyObject* weak;
  std::shared_ptr<const Region>* region;
};

PyObject* captured_call(PyObject* self, PyObject* const* args, size_t count, PyObject* names) {
  const auto* captured = reinterpret_cast<Captured*>(self);
  return call_captured(*captured->region, captured->function, args, count, names);
}

PyObject* captured_get(PyObject* self, PyObject* object, PyObject*) {
  return object && object != Py_None ? PyMethod_New(self, object) : Py_NewRef(self);
}

int captured_traverse(PyObject* self, visitproc visit, void* arg) {
  const auto* captured = reinterpret_cast<Captured*>(self);
  Py_VISIT(captured->function);
  Py_VISIT(captured->dict);
  Py_VISIT(Py_TYPE(self));
  return 0;
}

int captured_clear(PyObject* self) {
  auto* captured = reinterpret_cast<Captured*>(self);
  Py_CLEAR(captured->function);
  Py_CLEAR(captured->dict);
  return 0;
}

void captured_free(PyObject* self) {
  auto* captured = reinterpret_cast<Captured*>(self);
  PyObject_GC_UnTrack(self);
  if (captured->weak) PyObject_ClearWeakRefs(self);
  captured_clear(self);
  delete captured->region;
  PyTypeObject* type = Py_TYPE(self);
  type->tp_free(self);
  Py_DECREF(type);
}

}  // namespace

PyTypeObject* captured_type() {
  static PyMemberDef members[] = {
      {"__dictoffset__", T_PYSSIZET, offsetof(Captured, dict), READONLY, nullptr},
      {"__weaklistoffset__", T_PYSSIZET, offsetof(Captured, weak), READONLY, nullptr},
      {"__vectorcalloffset__", T_PYSSIZET, offsetof(Captured, vectorcall), READONLY, nullptr},
      {"__wrapped__", T_OBJECT, offsetof(Captured, function), READONLY, nullptr},
      {nullptr, 0, 0, 0, nullptr}};
  static PyGetSetDef properties[] = {
      {"__dict__", PyObject_GenericGetDict, PyObject_GenericSetDict, nullptr, nullptr},
      {nullptr, nullptr, nullptr, nullptr, nullptr}};
  static PyType_Slot slots[] = {
      {Py_tp_call, reinterpret_cast<void*>(PyVectorcall_Call)},
      {Py_tp_descr_get, reinterpret_cast<void*>(captured_get)},
      {Py_tp_traverse, reinterpret_cast<void*>(captured_traverse)},
      {Py_tp_clear, reinterpret_cast<void*>(captured_clear)},
      {Py_tp_dealloc, reinterpret_cast<void*>(captured_free)},
      {Py_tp_members, members},
      {Py_tp_getset, properties},
      {Py_tp_doc, const_cast<char*>("A function whose tensor programs are captured as it runs.")},
      {0, nullptr}};
  static PyType_Spec spec = {"octavo._capture.Captured", sizeof(Captured), 0,
                             Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_HAVE_VECTORCALL |
                                 Py_TPFLAGS_DISALLOW_INSTANTIATION,
                             slots};
  static auto* type =
      reinterpret_cast<PyTypeObject*>(Ref::checked(PyType_FromSpec(&spec)).release());
  return type;
}

namespace {

template <class F>
PyObject* guarded(F body) {
  try {
    return body();
  } catch (const PythonError&) {
    return nullptr;
  } catch (const std::exception& error) {
    PyErr_SetString(PyExc_RuntimeError, error.what());
    return nullptr;
  }
}

PyObject* wrap(PyObject*, PyObject* args, PyObject* keywords) {
  return guarded([&]() -> PyObject* {
    static const char* names[] = {"function", "backend", "fullgraph", "inline_modules",
                                  "stats",    "dynamic", "numpy",     nullptr};
    PyObject *function = nullptr, *backend = nullptr, *stats = nullptr;
    PyObject *dynamic = Py_None, *numpy = Py_True;
    int full_graph = 0, inline_modules = 0;
    if (!PyArg_ParseTupleAndKeywords(args, keywords, "OO|ppOOO", const_cast<char**>(names),
                                     &function, &backend, &full_graph, &inline_modules, &stats,
                                     &dynamic, &numpy))
      throw PythonError{};
    auto region = std::make_shared<Region>();
    region->backend = Ref::borrow(backend);
    region->full_graph = full_graph != 0;
    region->settings.inline_modules = inline_modules != 0;
    static std::atomic<int64_t> regions{0};
    region->id = ++regions;
    if (dynamic != Py_None) {
      const int always = PyObject_IsTrue(dynamic);
      if (always < 0) throw PythonError{};
      region->settings.dynamic = always ? Dynamic::always : Dynamic::never;
    }
    region->settings.numpy = PyUnicode_Check(numpy)   ? Numpy::exact
                             : PyObject_IsTrue(numpy) ? Numpy::all
                                                      : Numpy::never;
    if (stats && stats != Py_None) region->stats = Ref::borrow(stats);
    PyTypeObject* type = captured_type();
    auto* made = reinterpret_cast<Captured*>(type->tp_alloc(type, 0));
    if (!made) throw PythonError{};
    made->vectorcall = captured_call;
    made->function = Py_NewRef(function);
    made->region = new std::shared_ptr<const Region>(std::move(region));
    return reinterpret_cast<PyObject*>(made);
  });
}

PyObject* uncaptured(PyObject*, PyObject* args, PyObject* keywords) {
  return guarded([&]() -> PyObject* {
    if (PyTuple_GET_SIZE(args) < 1) {
      PyErr_SetString(PyExc_TypeError, "uncaptured() needs a function");
      throw PythonError{};
    }
    const Ref rest = Ref::checked(PyTuple_GetSlice(args, 1, PyTuple_GET_SIZE(args)));
    return call_uncaptured(PyTuple_GET_ITEM(args, 0), rest.get(), keywords);
  });
}

PyObject* reset(PyObject*, PyObject*) {
  return guarded([]() -> PyObject* {
    forget_everything();
    return Py_NewRef(Py_None);
  });
}

PyObject* listen(PyObject*, PyObject* callable) {
  return guarded([&]() -> PyObject* {
    set_listener(callable == Py_None ? Ref() : Ref::borrow(callable));
    return Py_NewRef(Py_None);
  });
}

PyObject* opcodes(PyObject*, PyObject*) {
  return guarded([]() -> PyObject* {
    const Ref list = Ref::checked(PyList_New(0));
#define OCTAVO_OPCODE(name, number, caches, handling) \
  check(PyList_Append(list.get(),                     \
                      Ref::checked(Py_BuildValue("(sis)", #name, number, #handling)).get()));
#include "cpython_311/opcodes.def"
#undef OCTAVO_OPCODE
    return Py_NewRef(list.get());
  });
}

PyObject* reasons(PyObject*, PyObject*) {
  return guarded([]() -> PyObject* {
    const Ref list = Ref::checked(PyList_New(0));
#define OCTAVO_BREAK(name, explanation, hint) \
  check(PyList_Append(list.get(),             \
                      Ref::checked(Py_BuildValue("(sss)", #name, explanation, hint)).get()));
#include "break_reasons.def"
#undef OCTAVO_BREAK
    return Py_NewRef(list.get());
  });
}

template <class F>
PyCFunction as_function(F function) {
  return reinterpret_cast<PyCFunction>(reinterpret_cast<void (*)()>(function));
}

PyMethodDef methods[] = {
    {"wrap", as_function(wrap), METH_VARARGS | METH_KEYWORDS,
     "wrap(function, backend, fullgraph=False, inline_modules=False, stats=None, "
     "dynamic=None, numpy=True): captured when called"},
    {"uncaptured", as_function(uncaptured), METH_VARARGS | METH_KEYWORDS,
     "uncaptured(function, *args, **kwargs): calls it with capture off"},
    {"reset", reset, METH_NOARGS, "Forgets every captured piece."},
    {"listen", listen, METH_O, "listen(callable): it gets a dict of each piece; None ends that"},
    {"opcodes", opcodes, METH_NOARGS, "[(name, number, handling)] of the interpreter's opcodes"},
    {"break_reasons", reasons, METH_NOARGS, "[(name, explanation, hint)]"},
    {nullptr, nullptr, 0, nullptr}};

PyModuleDef definition = {PyModuleDef_HEAD_INIT,
                          "octavo._capture",
                          "Captures PyTorch programs as they run.",
                          -1,
                          methods,
                          nullptr,
                          nullptr,
                          nullptr,
                          nullptr};

}  // namespace
}  // namespace octavo::capture

PyMODINIT_FUNC PyInit__capture() { return PyModule_Create(&octavo::capture::definition); }
