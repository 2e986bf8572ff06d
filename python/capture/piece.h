// A captured piece of a function, as engine.h says: what it holds, and how its graph and its recipe
// take the place of the frame's instructions.
#pragma once
#include <atomic>
#include <memory>
#include <optional>
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

// From the function's beginning to its return without an operator: Python does that faster.
bool is_plain(const Piece& piece);

// `values`, here and below: what the guards put at the piece's places.
// An array that overlaps another input of a graph that writes. Backends know which tensors share
// memory by their storages, of which each array gets its own.
bool arrays_overlap(const Piece& piece, const std::vector<Ref>& values);

// What must be put back if the graph raises now.
std::optional<Before> keep_for_failure(const Piece& piece, const std::vector<Ref>& values);

// What the graph gives: a tuple or a list, or null where there is no graph.
Ref run_graph(const Piece& piece, const std::vector<Ref>& values);

// Makes the graph's results real; then the frame stands at the piece's end.
// Gives the returned value, or null for a break.
Ref finish_piece(const Piece& piece, InterpreterFrame* frame, const std::vector<Ref>& values,
                 const Ref& results);

}  // namespace octavo::capture
