// The frame hook, the cache of captured pieces, and what runs them.
//
// A function under capture runs as pieces. A piece begins at an instruction with the frame's
// variables and stack as they are, and ends at a return or before an instruction that cannot be
// traced; what it computes is put back into the same frame. That instruction then runs on real
// objects, and the next piece begins behind it. No bytecode is made: the interpreter's own frame is
// the state, so tracebacks, `with`, `try`, loops and debuggers see what they always see.
#pragma once
#include <atomic>
#include <memory>
#include <string>
#include <vector>

#include "cpython_311/interpreter_frame.h"
#include "guards.h"
#include "recipe.h"
#include "rollback.h"

namespace octavo::capture {

// How a region is captured: one per octavo.compile or octavo.optimize.
struct Region {
  int64_t id = 0;  // of all regions there were
  Ref backend;     // (GraphModule, example_inputs) -> callable
  Settings settings;
  bool full_graph = false;
  Ref stats;  // a list that gets a dict per piece, or null
};

struct GlobalState {
  bool grad, inference, autocast, autocast_cache, deterministic, deterministic_warns, in_vmap,
      function_mode;
  at::ScalarType dtype, autocast_cpu, autocast_gpu;
  bool operator==(const GlobalState&) const = default;
  static GlobalState now();
};

struct Piece {
  std::shared_ptr<const Region> region;
  GlobalState state;
  GuardProgram guards;
  Ref compiled;                // null without a graph
  std::vector<int> inputs;     // source ids
  std::vector<size_t> arrays;  // inputs that the frame has as NumPy's arrays
  size_t outputs = 0;
  Recipe recipe;
  Ended ended;
  int unit;  // where the frame goes on
  int ops = 0;
  bool writes = false;       // the graph writes into tensors that existed
  std::vector<int> written;  // source ids of those that are kept while it may fail
  Risk risk;
  mutable std::atomic<bool> ran = false;     // once without an error
  mutable std::atomic<bool> random = false;  // it drew random numbers
};

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
