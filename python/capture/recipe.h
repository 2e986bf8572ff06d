// How a piece's end is made real: the values it leaves behind, in the order of their making.
//
// A recipe is a list of steps on registers. Making steps come first and have no effect; then the
// writes to objects that existed; then the frame's variables and stack, or the returned value.
#pragma once
#include <vector>

#include "tracer.h"

namespace octavo::capture {

struct Step {
  enum class Op : uint8_t {
    constant,       // object
    source,         // index: source id
    output,         // index: of the graph
    array,          // args: an output; index: 0 an array, 1 a read-only one, 2 a number
    tuple,          // args, object: class of a named tuple or null
    list,           // empty; filled by fill_list
    dict,           // object: class; empty
    set,            // args; object: class
    slice,          // args
    cell,           // empty
    function,       // object: (code, globals, qualname)
    method,         // args: function, self
    bind,           // object: a C method descriptor; args: self
    instance,       // object: class
    dict_instance,  // object: class, of a dict's subclass; empty
    exception,      // object: class; args: its args
    partial,        // args: function, args, keywords
    iterator,       // args: what it goes over; index: position; object: reversed, or null
    call,           // object: callable; args
    number,         // expr, of the symbols
    fill_list,      // into: list; args
    fill_deque,     // into: deque; args
    fill_dict,      // into: dict; args: key, value, key, value, ...
    fill_set,       // into: set; args
    fill_cell,      // into: cell; args: content or none
    fill_function,  // into: function; args: defaults, kwdefaults, closure, annotations (-1: none)
    set_attribute,  // into: object; object: name; args: value, or none to delete
    set_any_attribute,  // the same by PyObject_SetAttr
    set_item,           // into: dict; object: key; args: value
    set_grad,           // into: tensor; args: value
    iterator_state,     // into: iterator of a list; index: position
    grad_mode,          // index: 0 or 1
  };
  Op op;
  int into = -1;
  int index = 0;
  Ref object;
  std::vector<int> args;
  Expr expr;
};

struct Recipe {
  std::vector<Step> steps;
  int registers = 0;
  int result = -1;                         // of a return
  std::vector<std::pair<int, int>> slots;  // slot and register; -1: unbound
  std::vector<int> stack;                  // registers; -1: NULL
  int first_symbol = 0;                    // where the guard program puts the symbols' values
  bool empty() const { return steps.empty() && slots.empty(); }
};

// Builds the recipe; marks the sources and graph outputs it needs. Throws Break where a value
// cannot be made again.
Recipe make_recipe(Tracer& tracer, Trace& trace, const Code& code);

// Runs the steps. `outputs` are the graph's, `values` the guard program's. Throws PythonError.
std::vector<Ref> run_recipe(const Recipe& recipe, const std::vector<Ref>& values,
                            PyObject* const* outputs);

}  // namespace octavo::capture
