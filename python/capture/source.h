// Where the frame finds a value when the captured piece runs again, and what must hold of it.
//
// Sources form a tree whose roots are the frame's slots and fixed objects. Guards hang on sources;
// guards.h checks them.
#pragma once
#include <ATen/core/Tensor.h>

#include <cstdint>
#include <deque>
#include <map>
#include <memory>
#include <string>
#include <unordered_map>
#include <vector>

#include "expression.h"
#include "object.h"

namespace octavo::capture {

enum class SourceKind : uint8_t {
  slot,                 // localsplus[index]: a local, a cell, or a place on the value stack
  closure,              // cell `index` of the frame's function
  fixed,                // `key` itself, held by the piece
  attribute,            // what the base's own dictionary or slots hold under the name `key`
  tensor_grad,          // base.grad
  item,                 // list or tuple item `index`
  dict_item,            // dict item `key`
  type,                 // type(base)
  cell_contents,        // what a cell holds
  function_cell,        // cell `index` of a function's closure
  function_default,     // default `index` of a function
  function_kwdefaults,  // __kwdefaults__ of a function
  method_self,
  method_function,
  dictionary,        // base.__dict__
  exception_args,    // of a builtin exception
  context_variable,  // what the contextvars.ContextVar that base is holds
};

struct TensorGuard {
  at::ScalarType dtype;
  c10::Device device;
  bool requires_grad;
  uint64_t keys;
  std::vector<int64_t> sizes, strides;  // a size of -1: any from 2 on
  PyTypeObject* type;
  // The dimensions from the outermost in memory to the innermost: the tensor is dense in this
  // order, whatever its sizes. Empty: the strides are those above.
  std::vector<int> order;
};

enum class GuardKind : uint8_t {
  is,               // the object `object`
  type,             // exactly of the type `object`
  equals,           // of `object`'s type and equal to it
  set_order,        // set that is iterated over in the order of the tuple `object`
  length,           // list, tuple, dict or deque (of maxlen `object`) of `number` items
  keys,             // dict whose keys are the tuple `object`, in order
  lacks_key,        // dict without the key `object`
  lacks_attribute,  // object whose own dictionary has no `object`
  there,            // something: a variable that is bound
  lacks_item,       // no such variable, cell contents, closure, defaults: null
  c_method,         // bound to something, the C method that `object` is
  code,             // function with the code `object` and the globals `other`
  type_lookup,      // the type finds `other` (or nothing) under the name `object`
  tensor,
  array,            // np.ndarray; the tensor guard's requires_grad says whether it is writable
  not_tensor_grad,  // base.grad is None
  no_leaf,          // tensor that, where it wants gradients, is no leaf and no view of one
};

struct Guard {
  GuardKind kind;
  Ref object, other;
  int64_t number = 0;
  std::unique_ptr<TensorGuard> tensor;
};

struct Source {
  int id;
  SourceKind kind;
  Source* base;
  Ref key;
  int index;
  bool wanted = false;  // the piece uses the value itself
  int place = -1;       // of a wanted value, in what check() gives
  std::vector<Guard> guards;
};

// Where a symbol is read: size `dim` of the tensor at `source`, or the int itself (-1).
struct SymbolPlace {
  Source* source;
  int dim;
};

// Sizes that a piece leaves open, and what must hold of them.
struct SizeGuards {
  std::vector<std::vector<SymbolPlace>> symbols;  // where several: all equal
  std::vector<Condition> conditions;
};

// What the object's own dictionary holds under a name; borrowed, null where it does not. Runs no
// code.
PyObject* own_attribute(PyObject* object, PyObject* name);

// "L['x'].weight", as Dynamo writes it.
std::string source_name(const Source& source, PyCodeObject* code);

// Owns the sources of one trace; the same place is the same Source.
class Sources {
 public:
  Source* slot(int index) { return make(SourceKind::slot, nullptr, {}, index); }
  Source* closure(int index) { return make(SourceKind::closure, nullptr, {}, index); }
  Source* fixed(PyObject* object) {
    return make(SourceKind::fixed, nullptr, Ref::borrow(object), 0);
  }
  Source* of(SourceKind kind, Source* base, int index = 0) { return make(kind, base, {}, index); }
  Source* of(SourceKind kind, Source* base, PyObject* key) {
    return make(kind, base, Ref::borrow(key), 0);
  }
  const std::deque<Source>& all() const { return sources_; }
  std::deque<Source>& all() { return sources_; }

  // The two places hold one object.
  void same(Source* a, Source* b) { same_.emplace_back(a, b); }
  // The places hold tensors, all different objects.
  void tensor(Source* source) { tensors_.push_back(source); }
  const std::vector<std::pair<Source*, Source*>>& same() const { return same_; }
  const std::vector<Source*>& tensors() const { return tensors_; }

  // Adds the guard unless the source has it.
  void guard(Source* source, GuardKind kind, PyObject* object = nullptr, int64_t number = 0,
             PyObject* other = nullptr);

 private:
  Source* make(SourceKind kind, Source* base, Ref key, int index);

  std::deque<Source> sources_;
  std::map<std::tuple<int, int, PyObject*, int>, Source*> known_;
  std::vector<std::pair<Source*, Source*>> same_;
  std::vector<Source*> tensors_;
};

}  // namespace octavo::capture
