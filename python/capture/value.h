// What the symbolic interpreter keeps on its stack and in its variables.
//
// A value that the frame already had is `lazy` until something looks into it: only then do guards
// arise (Tracer::real). Containers and objects made or changed while tracing are modelled here and
// made real at the end of the piece.
#pragma once
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "expression.h"
#include "graph.h"

namespace octavo::capture {

class Tracer;
struct Frame;
struct Value;
using V = std::shared_ptr<Value>;

enum class Kind : uint8_t {
  null,      // the NULL that PUSH_NULL and LOAD_METHOD push
  lazy,      // something the frame had and nobody looked at
  constant,  // an immutable Python object, specialised upon
  object,    // an existing Python object, used through its attributes
  tensor,
  sequence,  // tuple, list, torch.Size, named tuple, deque
  dict,      // dict, OrderedDict, defaultdict, set, frozenset
  slice,
  function,  // made by MAKE_FUNCTION
  method,
  cell,
  iterator,
  instance,  // an object of a Python class, made by the trace
  super,
  view,       // keys(), values(), items() of a dict
  array,      // np.ndarray, or one of NumPy's numbers that the graph computes
  traceback,  // of an exception that the trace raised: there, and not None
  symbol,     // a number that differs from call to call; Tracer::look gives it, Tracer::real never
};

struct Value {
  explicit Value(Kind which) : kind(which) {}
  virtual ~Value() = default;
  Value(const Value&) = delete;
  Value& operator=(const Value&) = delete;

  Kind kind;
  Source* source = nullptr;  // where the frame has it; null for what the trace made
  Ref object;                // the Python object itself, where there is one
  int born = 0;              // root instruction at which the trace made it
};

struct Lazy : Value {
  Lazy() : Value(Kind::lazy) {}
  V resolved;
};

// A number computed from sizes. What needs to know it specialises: Tracer::real.
struct Symbol : Value {
  Symbol() : Value(Kind::symbol) {}
  Expr expr;
  Number hint;
  V resolved;  // the constant that it was specialised to
};

struct Tensor : Value {
  Tensor() : Value(Kind::tensor) {}
  at::Tensor meta;        // has the sizes of the call that is traced
  std::vector<Dim> dims;  // where some of them are symbols; else empty
  at::Tensor symbolic;    // the same with torch's symbols, for its shape rules; made when needed
  std::vector<Dim> sizes() const {
    if (!dims.empty()) return dims;
    return {meta.sizes().begin(), meta.sizes().end()};
  }
  Node* node = nullptr;  // null for an input that no operator has read
  c10::Device device = c10::kCPU;
  PyTypeObject* type = nullptr;  // torch.Tensor or Parameter
  bool of_array = false;         // an input that the frame has as an array
  bool attribute_of_module = false;
  Ref module_path;  // "L__self___weight" where it is a parameter or buffer of a module
};

// In the graph an array is a tensor.
struct Array : Value {
  Array() : Value(Kind::array) {}
  std::shared_ptr<Tensor> tensor;
  bool scalar = false;  // a number, np.float64 and the like, and no array of no dimensions
  bool writable = true;
};

PyTypeObject* deque_type();

struct Sequence : Value {
  Sequence() : Value(Kind::sequence) {}
  PyTypeObject* type = nullptr;
  std::vector<V> items;
  bool changed = false;
  V most;           // maxlen of a deque: a number or None
  int changes = 0;  // of a deque: an iterator over it notices them
  bool is_deque() const { return type == deque_type(); }
  bool is_list() const { return PyType_IsSubtype(type, &PyList_Type); }
};

struct Instance;

struct Dict : Value {
  Dict() : Value(Kind::dict) {}
  PyTypeObject* type = nullptr;
  std::vector<std::pair<V, V>> items;  // in order; sets leave the second null
  V factory;                           // of a defaultdict
  int removals = 0;                    // items that were taken out
  // Of a set of constants that the trace made: a set to which the program did the same. The order
  // of iteration is that of its hash table. Null where it is not known.
  Ref table;
  bool changed = false;
  std::weak_ptr<Instance> owner;  // the instance whose __dict__ it is
  bool is_set() const {
    return PyType_IsSubtype(type, &PySet_Type) || PyType_IsSubtype(type, &PyFrozenSet_Type);
  }
};

struct Slice : Value {
  Slice() : Value(Kind::slice) {}
  V start, stop, step;
};

struct Cell : Value {
  Cell() : Value(Kind::cell) {}
  V content;  // null: empty
  bool changed = false;
};

struct Function : Value {
  Function() : Value(Kind::function) {}
  Ref code, globals, name;
  V defaults, kwdefaults, annotations;  // null where there are none
  std::vector<V> closure;
  std::vector<std::pair<Ref, V>> attributes;
};

struct Method : Value {
  Method() : Value(Kind::method) {}
  V self, function;
};

// `next` gives null at the end.
struct Iterator : Value {
  Iterator() : Value(Kind::iterator) {}
  virtual V next(Tracer& tracer) = 0;
  // The values still to come, taken without running user code; false where it cannot be known.
  virtual bool rest(std::vector<V>& items) = 0;
};

struct Instance : Value {
  Instance() : Value(Kind::instance) {}
  PyTypeObject* type = nullptr;
  std::vector<std::pair<Ref, V>> attributes;
  V args;                        // of an exception or a partial: the tuple it was made with
  bool paraphrased = false;      // an exception whose message is the tracer's, not Python's
  V keywords, function;          // of a partial
  std::shared_ptr<Dict> items;   // what an instance of a dict's subclass holds as a dict
  std::weak_ptr<Dict> own_dict;  // its __dict__, where the program looked at it
};

struct Super : Value {
  Super() : Value(Kind::super) {}
  PyTypeObject* after = nullptr;
  V self;
};

struct View : Value {
  View() : Value(Kind::view) {}
  enum class What : uint8_t { keys, values, items } what = What::keys;
  std::shared_ptr<Dict> dict;
};

// The traced program raised; `exception` is an instance or an existing exception object.
struct Raised {
  V exception;
};

}  // namespace octavo::capture
