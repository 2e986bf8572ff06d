// CPython 3.11's interpreter frames: the only place that includes its internal headers.
#pragma once
#ifndef Py_BUILD_CORE
#define Py_BUILD_CORE 1
#endif
#include <Python.h>
#include <internal/pycore_frame.h>

#include "cpython_311/code.h"

namespace octavo::capture {

using InterpreterFrame = _PyInterpreterFrame;

inline PyObject** slots_of(InterpreterFrame* frame) { return frame->localsplus; }
inline int stack_depth(const InterpreterFrame* frame) {
  return frame->stacktop - frame->f_code->co_nlocalsplus;
}

// Puts the frame on the thread's stack of frames while capture runs code for it, so that tracebacks
// and sys._getframe() see it.
class Linked {
 public:
  Linked(PyThreadState* state, InterpreterFrame* frame) : state_(state) {
    link_.use_tracing = state->cframe->use_tracing;
    link_.previous = state->cframe;
    link_.current_frame = frame;
    frame->previous = state->cframe->current_frame;
    frame->is_entry = true;
    state->cframe = &link_;
  }
  Linked(const Linked&) = delete;
  Linked& operator=(const Linked&) = delete;
  ~Linked() { state_->cframe = link_.previous; }

 private:
  PyThreadState* state_;
  _PyCFrame link_;
};

// The instruction at a code unit is the one that runs.
inline void set_running(InterpreterFrame* frame, int unit) {
  frame->prev_instr = _PyCode_CODE(frame->f_code) + unit;
}
// The interpreter goes on with the instruction at a code unit.
inline void set_next(InterpreterFrame* frame, int unit) {
  frame->prev_instr = _PyCode_CODE(frame->f_code) + unit - 1;
}

enum class Stepped : uint8_t {
  next,    // the frame stands before the instruction at `unit`
  raised,  // Python's error indicator is set; the frame's stack is that of the instruction
  cannot,  // the interpreter itself must run it, and what follows
};

// Runs one instruction on the frame's objects, as the interpreter would. The frame is linked.
Stepped run_instruction(InterpreterFrame* frame, const Code& code, int unit, int& next);

}  // namespace octavo::capture
