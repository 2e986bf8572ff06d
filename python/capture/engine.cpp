#include "engine.h"

#include <ATen/core/grad_mode.h>
#include <c10/util/Logging.h>
#include <fmt/format.h>
#include <torch/csrc/autograd/python_variable.h>

#include <atomic>
#include <chrono>
#include <optional>
#include <set>
#include <unordered_map>

#include "arrays.h"
#include "code_state.h"
#include "dynamo_marks.h"
#include "library_code.h"
#include "python_types.h"
#include "report.h"
#include "vmap.h"

namespace octavo::capture {
namespace {

struct CodeState {
  explicit CodeState(PyCodeObject* object) : code(object) {}
  Code code;
  bool never = false;     // its frames are not captured
  bool disables = false;  // nor what they call, which is stock Dynamo's
  bool imports = false;   // a module's own code, or the import system's: nothing within is
  std::unordered_map<int, std::vector<std::shared_ptr<const Piece>>> pieces;  // by code unit
  std::set<const Region*> plain;  // regions in which it had no operators, whatever the arguments
  std::unordered_map<int, int> full;
  std::map<int64_t, SizeHistory> sizes;  // by region
};

thread_local std::shared_ptr<const Region> current;
// While capture itself runs Python (shape rules, backends), frames run as always.
thread_local bool busy = false;
std::atomic<int> regions{0};
std::atomic<int64_t> generation{0};
_PyFrameEvalFunction before = nullptr;
Py_ssize_t extra_index = -1;
std::set<CodeState*>& states() {
  static auto* all = new std::set<CodeState*>;
  return *all;
}

void free_state(void* pointer) {
  auto* state = static_cast<CodeState*>(pointer);
  states().erase(state);
  delete state;
}

CodeState& state_of(PyCodeObject* code) {
  void* found = nullptr;
  auto* object = reinterpret_cast<PyObject*>(code);
  if (_PyCode_GetExtra(object, extra_index, &found) < 0) throw PythonError{};
  if (found) return *static_cast<CodeState*>(found);
  auto* state = new CodeState(code);
  states().insert(state);
  const int wanted = CO_OPTIMIZED | CO_NEWLOCALS;
  state->never = (code->co_flags & wanted) != wanted ||
                 (code->co_flags & (CO_GENERATOR | CO_COROUTINE | CO_ASYNC_GENERATOR)) != 0 ||
                 is_library(code);
  state->disables = state->never && is_dynamos_own(code);
  state->imports = ((code->co_flags & wanted) == 0 && utf8(code->co_name) == "<module>") ||
                   utf8(code->co_filename).rfind("<frozen importlib", 0) == 0;
  if (_PyCode_SetExtra(object, extra_index, state) < 0) throw PythonError{};
  return *state;
}

class Busy {
 public:
  Busy() : before_(std::exchange(busy, true)) {}
  Busy(const Busy&) = delete;
  Busy& operator=(const Busy&) = delete;
  ~Busy() { busy = before_; }

 private:
  bool before_;
};

using Clock = std::chrono::steady_clock;
double milliseconds(Clock::time_point since) {
  return std::chrono::duration<double, std::milli>(Clock::now() - since).count();
}

[[noreturn]] void refuse_break(const Trace& trace) {
  const ReasonText& reason = reason_text(trace.reason);
  PyErr_Format(well_known("octavo.capture.errors", "GraphBreakError"),
               "%s: %s (%s); %s; fullgraph=True allows no break", trace.where.c_str(),
               reason.explanation, trace.detail.c_str(), reason.hint);
  throw PythonError{};
}

struct Traced {
  Trace trace;
  Recipe recipe;
};

// Traces until it is known where the piece ends: at a Break the piece is traced again up to the
// root instruction before it.
Traced trace_piece(const Region& region, CodeState& state, InterpreterFrame* frame, int unit) {
  const Code& code = state.code;
  Settings settings = region.settings;
  SizeHistory& history = state.sizes[region.id];
  int stop = -1, attempts = 0;
  Reason reason{};
  std::string detail, where;
  PyObject* closure = PyFunction_GET_CLOSURE(reinterpret_cast<PyObject*>(frame->f_func));
  while (true) {
    const KeepsVmapDepth levels;
    Tracer tracer(settings, code, frame->f_globals, frame->f_builtins, history);
    try {
      Traced made;
      made.trace = tracer.run(unit, slots_of(frame), stack_depth(frame), closure, stop);
      made.recipe = make_recipe(tracer, made.trace, code);
      made.trace.reason = reason;
      made.trace.detail = detail;
      made.trace.where = where;
      return made;
    } catch (const NoSymbols&) {
      settings.dynamic = Dynamic::never;
      stop = -1;
    } catch (const Break& end) {
      const int before_this = end.before >= 0 ? end.before : tracer.instructions() - 1;
      // A second reason is only where the piece can end; the first is why it does.
      if (stop < 0) {
        reason = end.reason;
        detail = end.detail;
        where = tracer.where();
      }
      // Each attempt is a trace: after a few, an earlier end is worth more than the latest one.
      if (stop > 0 && ++attempts > 8)
        stop = std::min(stop, std::max(0, before_this)) / 2;
      else if (stop > 0 && before_this >= stop)
        stop = stop - 1;
      else
        stop = std::max(0, before_this);
    } catch (const Raised&) {
      stop = std::max(0, tracer.instructions() - 1);
      reason = Reason::exception;
    }
  }
}

// Where the guards put an input: a source's id, or -1 less a symbol's number.
int place_of(const Piece& piece, int input) {
  return input < 0 ? piece.guards.symbol_place(-1 - input) : piece.guards.place(input);
}

// `misfits`: why the versions that there are at this place do not fit.
std::shared_ptr<const Piece> make_piece(const std::shared_ptr<const Region>& region,
                                        CodeState& state, InterpreterFrame* frame, int unit,
                                        const std::vector<std::string>& misfits) {
  const Busy guard;
  const auto begin = Clock::now();
  Traced made = trace_piece(*region, state, frame, unit);
  Trace& trace = made.trace;
  trace.graph.remove_unread();
  auto piece = std::make_shared<Piece>();
  piece->region = region;
  piece->state = GlobalState::now();
  piece->ended = trace.ended;
  piece->unit = trace.unit;
  piece->recipe = std::move(made.recipe);
  piece->outputs = trace.graph.outputs.size();
  for (const Node& node : trace.graph.nodes())
    piece->ops += !node.dead && node.op != Node::Op::placeholder && node.op != Node::Op::get_attr;
  piece->writes = !trace.written.empty();
  const bool in_order = region->backend.get() == well_known("octavo.capture.runtimes", "eager");
  piece->risk = risk_of(trace.graph, in_order);
  if (piece->writes && piece->state.grad && reads_inference_tensors(trace.sources))
    piece->risk.by_type = true;
  // Other sizes may be refused where these are taken.
  if (piece->risk.by_type && !trace.sizes.symbols.empty())
    piece->risk.by_value = piece->risk.looks_at_values = true;
  if (piece->risk.by_type || piece->risk.by_value)
    for (Source* source : trace.written) {
      source->wanted = true;
      piece->written.push_back(source->id);
    }
  for (const Node* node : trace.graph.placeholders) {
    if (node->array) piece->arrays.push_back(piece->inputs.size());
    piece->inputs.push_back(node->source ? node->source->id : -1 - node->symbol);
  }
  const double trace_ms = milliseconds(begin);
  if (region->full_graph && trace.ended == Ended::broke) refuse_break(trace);

  Ref module;
  double backend_ms = 0;
  if (piece->ops > 0) {
    module = make_graph_module(trace.graph);
    // The frame's own tensors are the example inputs.
    std::vector<Ref> values;
    const FrameView view{slots_of(frame),
                         PyFunction_GET_CLOSURE(reinterpret_cast<PyObject*>(frame->f_func))};
    piece->guards =
        GuardProgram(std::move(trace.sources), std::move(trace.distinct), std::move(trace.sizes));
    GuardFailure failure;
    if (!piece->guards.check(view, values, &failure))
      throw std::logic_error(
          fmt::format("capture made a guard that does not hold: {}; please report it",
                      GuardProgram::describe(failure, state.code.object())));
    const Ref examples = Ref::checked(PyList_New(0));
    for (const int input : piece->inputs) {
      const Ref& value = values[static_cast<size_t>(place_of(*piece, input))];
      const bool array = is_array(value.get());
      check(PyList_Append(
          examples.get(),
          array ? Ref::checked(THPVariable_Wrap(tensor_on(value.get()))).get() : value.get()));
    }
    const auto at = Clock::now();
    piece->compiled = Ref::checked(
        PyObject_CallFunctionObjArgs(region->backend.get(), module.get(), examples.get(), nullptr));
    backend_ms = milliseconds(at);
    if (!PyCallable_Check(piece->compiled.get())) {
      PyErr_Format(PyExc_TypeError, "the backend returned a %s, which cannot be called",
                   Py_TYPE(piece->compiled.get())->tp_name);
      throw PythonError{};
    }
  } else {
    piece->guards =
        GuardProgram(std::move(trace.sources), std::move(trace.distinct), std::move(trace.sizes));
  }
  piece->recipe.first_symbol = piece->guards.symbol_place(0);
  // From here on, values are at the places that the guards give them.
  for (Step& step : piece->recipe.steps)
    if (step.op == Step::Op::source) step.index = piece->guards.place(step.index);
  for (int& input : piece->inputs) input = place_of(*piece, input);
  for (int& tensor : piece->written) tensor = piece->guards.place(tensor);
  if (is_reported(*region))
    report(*region, state.code, trace, *piece, {unit, trace_ms, backend_ms, module, misfits});
  return piece;
}

void warn_full(CodeState& state, int unit, const GuardFailure& failure) {
  if (state.full[unit]++ > 0) return;
  const std::string guard = GuardProgram::describe(failure, state.code.object());
  const SavedError saved;
  if (PyErr_WarnFormat(
          PyExc_RuntimeWarning, 1,
          "octavo: %s reached %zu versions; calls that none of them fits run uncompiled. "
          "Last guard to fail: %s",
          state.code.location(state.code.at(unit).unit).c_str(), most_pieces, guard.c_str()) < 0)
    PyErr_Clear();
}

PyObject* run_default(PyThreadState* thread, InterpreterFrame* frame, int throwing) {
  return before ? before(thread, frame, throwing)
                : _PyEval_EvalFrameDefault(thread, frame, throwing);
}

// The frame's error is Python's; what the interpreter does with one at this instruction follows.
PyObject* throw_into(PyThreadState* thread, InterpreterFrame* frame) {
  return run_default(thread, frame, 1);
}

// An error of the graph or of capture, as if the instruction at `unit` had raised it.
PyObject* fail(PyThreadState* thread, InterpreterFrame* frame, const Code& code, int unit) {
  set_running(frame, code.at(unit).unit);
  if (_PyFrame_IsIncomplete(frame)) {
    set_running(frame, frame->f_code->_co_firsttraceable);
    // COPY_FREE_VARS counts as done now, and who looks at the traceback finds its cells.
    const PyCodeObject* object = frame->f_code;
    PyObject* closure = PyFunction_GET_CLOSURE(reinterpret_cast<PyObject*>(frame->f_func));
    PyObject** free = slots_of(frame) + object->co_nlocalsplus - object->co_nfreevars;
    for (int n = 0; n < object->co_nfreevars; ++n)
      if (!free[n]) free[n] = Py_NewRef(PyTuple_GET_ITEM(closure, n));
  }
  return throw_into(thread, frame);
}

// The graph raised and what it changed is put back: Python runs the piece, so that the error comes
// from the line that makes it. Where Python finds none, the backend's function is at fault, and
// that is said.
PyObject* run_again(PyThreadState* thread, InterpreterFrame* frame, bool full_graph) {
  const std::string error = take_error();
  const std::string where = utf8(frame->f_code->co_qualname);
  const bool may_catch = PyBytes_GET_SIZE(frame->f_code->co_exceptiontable) > 0;
  // The functions that it calls were part of the piece: a break in them is none of the program's.
  std::optional<Busy> uncaptured;
  if (full_graph) uncaptured.emplace();
  PyObject* result = run_default(thread, frame, 0);
  if (!result || may_catch) return result;
  if (PyErr_WarnFormat(
          PyExc_RuntimeWarning, 1,
          "octavo: the backend's function raised %s in %s; Python ran the code instead",
          error.c_str(), where.c_str()) < 0) {
    Py_DECREF(result);
    return nullptr;
  }
  return result;
}

PyObject* run_frame(PyThreadState* thread, InterpreterFrame* frame, CodeState& state) {
  const std::shared_ptr<const Region> region = current;
  int unit = static_cast<int>(frame->prev_instr - _PyCode_CODE(frame->f_code)) + 1;
  bool first = true;
  int ops = 0;
  while (true) {
    std::shared_ptr<const Piece> chosen;
    std::vector<Ref> values;
    GuardFailure failure;
    const FrameView view{slots_of(frame),
                         PyFunction_GET_CLOSURE(reinterpret_cast<PyObject*>(frame->f_func))};
    auto& pieces = state.pieces[unit];
    const GlobalState now = GlobalState::now();
    size_t own = 0;
    for (size_t n = 0; n < pieces.size(); ++n) {
      if (pieces[n]->region != region) continue;
      ++own;
      if (!(pieces[n]->state == now) || !pieces[n]->guards.check(view, values, &failure)) continue;
      chosen = pieces[n];
      // The most recent is tried first.
      if (n > 0)
        std::rotate(pieces.begin(), pieces.begin() + static_cast<ptrdiff_t>(n),
                    pieces.begin() + static_cast<ptrdiff_t>(n) + 1);
      break;
    }
    if (first && chosen && is_plain(*chosen)) return run_default(thread, frame, 0);
    if (!chosen && own >= most_pieces) {
      warn_full(state, unit, failure);
      return run_default(thread, frame, 0);
    }
    try {
      if (!chosen) {
        const Linked link(thread, frame);
        std::vector<std::string> misfits;
        if (own > 0 && is_reported(*region))
          for (const auto& piece : pieces)
            if (piece->region == region) misfits.push_back(misfit(*piece, now, view, state.code));
        chosen = make_piece(region, state, frame, unit, misfits);
        auto& again = state.pieces[unit];
        again.insert(again.begin(), chosen);
        if (!chosen->guards.check(view, values, &failure)) return run_default(thread, frame, 0);
      }
      ops += chosen->ops;
      // Other arguments may have operators; after a few have not, guards only cost time.
      constexpr size_t enough = 4;
      if (first && is_plain(*chosen) && own + 1 >= enough) {
        const auto begun = state.pieces.find(unit);
        if (std::all_of(begun->second.begin(), begun->second.end(), [&](const auto& piece) {
              return piece->region != region || is_plain(*piece);
            }))
          state.plain.insert(region.get());
      }
      first = false;
    } catch (const PythonError&) {
      return fail(thread, frame, state.code, unit);
    } catch (const std::exception& error) {
      PyErr_SetString(PyExc_RuntimeError, error.what());
      return fail(thread, frame, state.code, unit);
    }
    if (arrays_overlap(*chosen, values)) return run_default(thread, frame, 0);
    Ref results;
    bool again = false;
    if (chosen->compiled) {
      std::optional<Before> kept;
      bool fails_before_writes = false;
      const bool grad = at::GradMode::is_enabled();
      try {
        const Linked link(thread, frame);
        // Then what fails stands before the first write.
        fails_before_writes = !chosen->risk.by_value && (chosen->ran || !chosen->risk.by_type);
        kept = keep_for_failure(*chosen, values);
        const Busy guard;
        results = run_graph(*chosen, values);
        if (!chosen->ran) {
          chosen->random = kept->random_state_moved();
          chosen->ran = true;
        }
      } catch (const PythonError&) {
        at::GradMode::set_enabled(grad);
        const bool can_put_back =
            !chosen->writes || (kept && (kept->keeps_tensors() || fails_before_writes));
        if (!can_put_back || !PyErr_ExceptionMatches(PyExc_Exception))
          return fail(thread, frame, state.code, unit);
        const SavedError saved;
        if (kept) kept->put_back();
        again = true;
      } catch (const std::exception& error) {
        PyErr_SetString(PyExc_RuntimeError, error.what());
        return fail(thread, frame, state.code, unit);
      }
      if (again) return run_again(thread, frame, region->full_graph);
    }
    try {
      const Linked link(thread, frame);
      Ref result = finish_piece(*chosen, frame, values, results);
      if (chosen->ended == Ended::returned) return result.release();
    } catch (const PythonError&) {
      return fail(thread, frame, state.code, unit);
    } catch (const std::exception& error) {
      PyErr_SetString(PyExc_RuntimeError, error.what());
      return fail(thread, frame, state.code, unit);
    }
    unit = chosen->unit;
    set_next(frame, unit);
    int next = 0;
    Stepped stepped;
    {
      const Linked link(thread, frame);
      stepped = run_instruction(frame, state.code, unit, next);
    }
    if (stepped == Stepped::raised) return throw_into(thread, frame);
    if (stepped == Stepped::cannot) return run_default(thread, frame, 0);
    unit = next;
  }
}

PyObject* evaluate(PyThreadState* thread, InterpreterFrame* frame, int throwing) {
  if (!current || busy || throwing || thread->cframe->use_tracing)
    return run_default(thread, frame, throwing);
  CodeState* state = nullptr;
  try {
    state = &state_of(frame->f_code);
  } catch (const PythonError&) {
    PyErr_Clear();
    return run_default(thread, frame, throwing);
  }
  if (state->imports) {
    const Busy guard;
    return run_default(thread, frame, 0);
  }
  if (state->disables && !disabled_optimizer(reinterpret_cast<PyObject*>(frame->f_func))) {
    const Busy guard;
    return run_default(thread, frame, 0);
  }
  if (state->never || (!state->plain.empty() && state->plain.count(current.get())))
    return run_default(thread, frame, throwing);
  if (Py_EnterRecursiveCall(" in a captured function")) return nullptr;
  PyObject* result = run_frame(thread, frame, *state);
  Py_LeaveRecursiveCall();
  return result;
}

class Installed {
 public:
  Installed() {
    if (extra_index < 0) extra_index = _PyEval_RequestCodeExtraIndex(free_state);
    PyInterpreterState* interpreter = PyInterpreterState_Get();
    if (regions++ == 0) {
      before = _PyInterpreterState_GetEvalFrameFunc(interpreter);
      if (before == evaluate || before == _PyEval_EvalFrameDefault) before = nullptr;
      _PyInterpreterState_SetEvalFrameFunc(interpreter, evaluate);
    }
  }
  Installed(const Installed&) = delete;
  Installed& operator=(const Installed&) = delete;
  ~Installed() {
    PyInterpreterState* interpreter = PyInterpreterState_Get();
    if (--regions == 0 && _PyInterpreterState_GetEvalFrameFunc(interpreter) == evaluate)
      _PyInterpreterState_SetEvalFrameFunc(interpreter, before ? before : _PyEval_EvalFrameDefault);
  }
};

}  // namespace

const Code& code_of(PyCodeObject* code) { return state_of(code).code; }

PyObject* call_captured(const std::shared_ptr<const Region>& region, PyObject* callable,
                        PyObject* const* args, size_t count, PyObject* names) {
  const Installed hook;
  struct Current {
    std::shared_ptr<const Region> before;
    bool was_busy;
    explicit Current(std::shared_ptr<const Region> region)
        : before(std::exchange(current, std::move(region))), was_busy(std::exchange(busy, false)) {}
    ~Current() {
      current = std::move(before);
      busy = was_busy;
    }
  } scope(region);
  return PyObject_Vectorcall(callable, args, count, names);
}

PyObject* call_uncaptured(PyObject* callable, PyObject* args, PyObject* keywords) {
  const Busy guard;
  return PyObject_Call(callable, args, keywords);
}

void forget_everything() {
  for (CodeState* state : states()) {
    state->pieces.clear();
    state->plain.clear();
    state->full.clear();
    state->sizes.clear();
  }
}

}  // namespace octavo::capture
