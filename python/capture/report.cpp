#include "report.h"

namespace octavo::capture {
namespace {

// Held until the process ends: objects outlive static destructors no better than Python does.
Ref& listener() {
  static auto* held = new Ref;
  return *held;
}

void put(const Ref& dict, const char* key, const Ref& value) {
  check(PyDict_SetItemString(dict.get(), key, value.get()));
}

Ref number(int64_t value) { return Ref::checked(PyLong_FromLongLong(value)); }

Ref texts(const std::vector<std::string>& lines) {
  const Ref list = Ref::checked(PyList_New(0));
  for (const std::string& line : lines) check(PyList_Append(list.get(), text(line).get()));
  return list;
}

}  // namespace

void set_listener(Ref callable) { listener() = std::move(callable); }

bool is_reported(const Region& region) { return region.stats || listener(); }

void report(const Region& region, const Code& code, const Trace& trace, const Piece& piece,
            const Origin& origin) {
  const Ref entry = Ref::checked(PyDict_New());
  put(entry, "function", Ref::borrow(code.object()->co_qualname));
  put(entry, "where", text(code.location(code.at(origin.unit).unit)));
  put(entry, "code", Ref::borrow(reinterpret_cast<PyObject*>(code.object())));
  put(entry, "begin", number(2L * code.at(origin.unit).unit));  // bytes into the code
  put(entry, "end",
      piece.ended == Ended::broke ? number(2L * code.at(piece.unit).unit) : Ref::borrow(Py_None));
  put(entry, "ops", number(piece.ops));
  put(entry, "guards", text(piece.guards.describe(code.object())));
  put(entry, "guard_count", number(static_cast<int64_t>(piece.guards.guards())));
  put(entry, "misfits", texts(origin.misfits));
  put(entry, "python_rules", number(trace.python_rules));
  put(entry, "instructions", number(trace.instructions));
  put(entry, "trace_ms", Ref::checked(PyFloat_FromDouble(origin.trace_ms)));
  put(entry, "backend_ms", Ref::checked(PyFloat_FromDouble(origin.backend_ms)));
  put(entry, "graph", origin.module ? origin.module : Ref::borrow(Py_None));
  if (piece.ended == Ended::broke) {
    const ReasonText& reason = reason_text(trace.reason);
    put(entry, "reason", text(reason.name));
    put(entry, "detail", text(trace.detail));
    put(entry, "explanation", text(reason.explanation));
    put(entry, "hint", text(reason.hint));
    put(entry, "break_at", text(trace.where));
  }
  if (region.stats) check(PyList_Append(region.stats.get(), entry.get()));
  if (!listener()) return;
  const Ref told = listener();  // which may set another
  PyObject* result = PyObject_CallOneArg(told.get(), entry.get());
  if (!result) PyErr_WriteUnraisable(told.get());
  Py_XDECREF(result);
}

std::string misfit(const Piece& piece, const GlobalState& now, const FrameView& view,
                   const Code& code) {
  const GlobalState& then = piece.state;
  if (then.grad != now.grad) return "the grad mode";
  if (then.inference != now.inference) return "the inference mode";
  if (!(then == now)) return "autocast, deterministic algorithms or the default dtype";
  std::vector<Ref> values;
  GuardFailure failure;
  if (piece.guards.check(view, values, &failure)) return "nothing: it was made meanwhile";
  return GuardProgram::describe(failure, code.object());
}

}  // namespace octavo::capture
