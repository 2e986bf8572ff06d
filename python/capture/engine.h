// The frame hook, the cache of captured pieces, and what runs them.
//
// A function under capture runs as pieces. A piece begins at an instruction with the frame's
// variables and stack as they are, and ends at a return or before an instruction that cannot be
// traced; what it computes is put back into the same frame. That instruction then runs on real
// objects, and the next piece begins behind it. No bytecode is made: the interpreter's own frame is
// the state, so tracebacks, `with`, `try`, loops and debuggers see what they always see.
#pragma once
#include <memory>

#include "piece.h"

namespace octavo::capture {

// The class of captured functions.
PyTypeObject* captured_type();

// Calls `callable` with its frames captured as the region says; vectorcall convention.
PyObject* call_captured(const std::shared_ptr<const Region>& region, PyObject* callable,
                        PyObject* const* args, size_t count, PyObject* names);
// Calls it with capture off, whatever region is around.
PyObject* call_uncaptured(PyObject* callable, PyObject* args, PyObject* keywords);

// Forgets every piece; frames that run keep theirs until they end.
void forget_everything();

constexpr size_t most_pieces = 8;  // at one place of one function

}  // namespace octavo::capture
