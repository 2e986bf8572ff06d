// A compiled graph for one set of shapes: steps, memory, constants. Built by codegen, run by
// Program; immutable and shared between threads. Nothing in it points into the graph.
#pragma once
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "graph/tensor.h"
#include "runtime/step.h"

namespace octavo {

// Where a value lives during a call.
struct Slot {
  enum class Kind { input, output, arena, constant, absent } kind = Kind::absent;
  size_t index = 0;   // of the input, output or constant
  size_t offset = 0;  // in the arena
};

struct Step {
  std::string node;  // the name of the graph's node
  std::string op;
  std::vector<std::string> declined;  // "kernel: reason", best first
  std::unique_ptr<const StepKernel> kernel;
  std::vector<int> inputs, outputs;  // slots; -1 where an input is left out
  size_t bytes = 0;                  // read and written, weights included
  int64_t macs = 0;
  bool flushes = false;  // denormal numbers are zero to it, and zero where it would make one
};

class Program;

// What comes after a plan whose results decide the shapes of the rest.
struct Continuation {
  // Of the plan's outputs, the values that have a shape of their own choice; may be empty.
  std::function<std::vector<Tensor>(std::span<const Tensor>)> between;
  // Takes the plan's outputs and those of `between`; its outputs are the call's.
  std::shared_ptr<Program> rest;
};

struct Plan {
  std::vector<TensorType> input_types, output_types;  // static shapes
  std::vector<Slot> slots;
  std::vector<Tensor> constants;
  std::vector<Step> steps;
  size_t arena_bytes = 0;        // activations
  size_t scratch_bytes = 0;      // the most any step needs, for the pool it was planned for
  size_t least_arena_bytes = 0;  // the most that is alive at once: no plan can need less
  std::optional<Continuation> then;
};

}  // namespace octavo
