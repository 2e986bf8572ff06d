// The functions and classes that capture knows by name.
#pragma once
#include "tracer.h"

namespace octavo::capture {

// Answers a call to a builtin, or to a function of Python's or torch's library whose meaning the
// tracer models itself; `known` says whether it is one.
V call_known(Tracer& tracer, const V& callee, Call& call, bool& known);

// A function without effects whose result on constants is a constant.
bool is_pure(PyObject* callable);

// A Python function written outside torch, so that a tensor's method of that kind is inlined.
bool is_user_function(PyObject* function);

// Why a function of that code is called and not looked into; null if it may be inlined.
const char* never_inlined(PyCodeObject* code);
// The parameters of an inspect.Signature, which cannot change.
V signature_parameters(Tracer& tracer, PyObject* signature);
// itertools.chain.from_iterable.
V chain(Tracer& tracer, const V& iterables);
// A call of an operator.itemgetter, attrgetter or methodcaller; else `known` is false.
V call_getter(Tracer& tracer, const V& getter, Call& call, bool& known);

}  // namespace octavo::capture
