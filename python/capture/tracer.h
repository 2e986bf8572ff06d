// The symbolic interpreter: runs a frame's bytecode on values instead of objects and records what
// the tensors go through.
//
// Tracing has no effect outside the tracer. Operators run on meta tensors, writes are kept and
// replayed at the end of the piece. What cannot be traced throws Break; `trace_piece` then starts
// over and ends the piece just before the root frame's instruction at which that happened.
#pragma once
#include <map>
#include <memory>
#include <set>
#include <unordered_map>
#include <unordered_set>
#include <vector>

#include "breaks.h"
#include "cpython_311/code.h"
#include "graph.h"
#include "source.h"
#include "value.h"

namespace octavo::capture {

struct Shape;

// What is captured of NumPy: nothing, what gives the same bits, or also what may round otherwise.
enum class Numpy : uint8_t { never, exact, all };

// Which sizes and ints become symbols: those that differed between calls, all, or none.
enum class Dynamic : uint8_t { automatic, always, never };

struct Settings {
  bool inline_modules = false;  // torch 2.13's dialect: parameters are inputs
  Dynamic dynamic = Dynamic::automatic;
  Numpy numpy = Numpy::all;
  int most_instructions = 400000;
  int most_depth = 120;
};

// The sizes and numbers that a function met, by the place where it found them; -1: several.
struct SizeHistory {
  std::unordered_map<std::string, std::vector<int64_t>> tensors;
  std::unordered_map<std::string, int64_t> integers;
  std::unordered_map<std::string, Ref> floats;  // null: several
};

// Thrown where symbols cannot be followed: the piece is traced anew without them.
struct NoSymbols {};

// A Python function being interpreted; the root frame or one inlined.
struct Frame {
  const Code* code = nullptr;
  PyObject* globals = nullptr;   // dict
  PyObject* builtins = nullptr;  // dict
  std::vector<V> slots;          // locals, cells, free variables; null: unbound
  std::vector<V> stack;
  std::vector<V> closure;
  std::vector<V> handled;  // exceptions being handled, innermost last
  int unit = 0;            // code unit of the next instruction
  int at = 0;              // code unit of the running one
  int depth = 0;
  V raised;           // the exception that last came to a handler of the root frame
  int raised_at = 0;  // root instruction whose exception the root frame handles
  Frame* caller = nullptr;
  PyObject* keyword_names = nullptr;  // what KW_NAMES left for CALL; borrowed from co_consts
  V yielded;                          // what YIELD_VALUE gave

  V pop() {
    V top = std::move(stack.back());
    stack.pop_back();
    return top;
  }
  void push(V value) { stack.push_back(std::move(value)); }
  V& top(int back = 1) { return stack[stack.size() - static_cast<size_t>(back)]; }
};

using Keywords = std::vector<std::pair<Ref, V>>;

struct Call {
  std::vector<V> args;
  Keywords keywords;
};

// A write to an object that existed before the piece: obj.name = value, or dict[name] = value.
struct Write {
  enum class Kind : uint8_t { attribute, dict_item, grad };
  Kind kind;
  V object;
  Ref key;
  V value;  // null: deleted
};

enum class Ended : uint8_t { returned, broke };

// What tracing a piece gave; `recipe.h` turns it into something that runs.
struct Trace {
  Ended ended = Ended::returned;
  int unit = 0;  // where the frame goes on, if it broke
  V result;      // if it returned
  std::vector<V> slots, stack;
  std::vector<V> first_slots;  // what the slots held when the piece began
  std::vector<Write> writes;
  std::vector<V> changed;  // containers and cells that existed and were changed
  bool grad_enabled = true, changed_grad = false;
  Graph graph;
  Sources sources;
  std::vector<std::pair<Source*, Source*>> distinct;
  SizeGuards sizes;
  std::vector<Source*> written;  // tensors that existed and that the graph writes into
  Reason reason{};
  std::string detail, where;
  int instructions = 0;
  int python_rules = 0;  // operators whose shape rule ran in Python
};

class Tracer {
 public:
  Tracer(const Settings& settings, const Code& code, PyObject* globals, PyObject* builtins,
         SizeHistory& history);

  // Interprets from `unit` with the frame's slots and `depth` stack entries, up to a return or to
  // root instruction number `stop`. Throws Break or PythonError (a bug, or an interrupt).
  Trace run(int unit, PyObject** slots, int depth, PyObject* closure, int stop);
  int instructions() const { return instructions_; }
  const std::string& where() const { return where_; }  // of the Break: "file:line"

  // --- values -----------------------------------------------------------------------------------
  V lazy(PyObject* object, Source* source);
  // Likewise, of a place that may be empty: a name that is read must be there, used or not.
  V loaded(PyObject* object, Source* source);
  V constant(Ref object);
  V constant(PyObject* object) { return constant(Ref::borrow(object)); }
  V none() { return constant(Py_None); }
  V boolean(bool value) { return constant(value ? Py_True : Py_False); }
  V integer(int64_t value) { return constant(Ref::checked(PyLong_FromLongLong(value))); }
  V string(std::string_view value) { return constant(text(value)); }
  V sequence(PyTypeObject* type, std::vector<V> items);
  V tuple(std::vector<V> items) { return sequence(&PyTuple_Type, std::move(items)); }
  V list(std::vector<V> items) { return sequence(&PyList_Type, std::move(items)); }
  template <class T, class... Args>
  std::shared_ptr<T> make(Args... args) {
    auto value = std::make_shared<T>(args...);
    value->born = instructions_;
    return value;
  }
  // Looks into a lazy value: chooses its model and guards what that relies on.
  V look(const V& value);
  // The same, but a symbol is specialised to the number it is in this call.
  V real(const V& value);
  // The Python object of a constant made of constants (also tuples, slices of them), or null.
  Ref python_constant(const V& value);
  bool is_none(const V& value) { return look(value)->object.get() == Py_None; }
  bool truth(const V& value);
  int64_t index(const V& value);
  PyTypeObject* type_of(const V& value);
  V type_value(const V& value);
  bool same_object(const V& a, const V& b);
  std::string describe(const V& value);
  void changed(const V& container);

  // --- symbols (symbols.cpp)
  // ----------------------------------------------------------------------
  V number(const Number& hint, const Expr& expr);  // a constant where the expression is one
  V size(const Dim& dim) { return number(Number::of(dim.hint), dim.expr); }
  // The expression and hint of a symbol or a constant number (no bool); null for anything else.
  Expr expression(const V& value, Number& hint);
  bool is_symbol(const V& value) { return look(value)->kind == Kind::symbol; }
  bool holds_symbol(const V& value, int depth = 0);  // also tensors with such sizes
  // Arithmetic and comparisons with a symbol among the operands; null where it has no expression.
  V symbol_arithmetic(Expression::Op op, const V& left, const V& right);
  V symbol_binary(int operation, const V& left, const V& right);
  V symbol_compare(int operation, const V& left, const V& right);
  // Comparisons of sizes while a shape rule runs; a guard where symbols do not tell.
  bool compare(int comparison, const Dim& left, const Dim& right);
  bool equal(const Dim& left, const Dim& right) { return compare(2, left, right); }
  V specialise(const V& symbol);
  V call_on_symbols(PyObject* callable, const Call& call);  // int(), float(), math.sqrt, ...

  // --- operations (operators.cpp, attributes.cpp)
  // -------------------------------------------------
  V unary(Op op, const V& operand);
  V binary(int operation, const V& left, const V& right);
  V compare(int operation, const V& left, const V& right);
  bool contains(const V& container, const V& item);
  bool equal(const V& a, const V& b);
  V subscript(const V& container, const V& key);
  void set_subscript(const V& container, const V& key, const V& value);
  void delete_subscript(const V& container, const V& key);
  // The dict within an instance of a dict's subclass, unless its class answers `method` itself;
  // else the value.
  V stored(const V& value, const char* method);
  V as_set(const V& value);
  std::shared_ptr<Dict> new_set(PyTypeObject* type);
  Ref table_of(const Dict& set);
  void update_set(const std::shared_ptr<Dict>& set, const V& items);
  V iterate(const V& iterable);
  std::vector<V> items_of(const V& iterable);  // all of them, as `list(iterable)`
  V attribute(const V& object, PyObject* name);
  V attribute_or_null(const V& object, PyObject* name);
  void set_attribute(const V& object, PyObject* name, const V& value);  // null deletes
  // As object.__setattr__ does, past the class's own __setattr__.
  void set_own_attribute(const V& object, PyObject* name, const V& value);
  std::pair<V, V>* dict_find(Dict& dict, const V& key);
  V dict_get(Dict& dict, const V& key);  // null where it is not
  void dict_set(const std::shared_ptr<Dict>& dict, const V& key, const V& value);
  bool dict_remove(const std::shared_ptr<Dict>& dict, const V& key);
  V format(const V& value, const V& spec, int conversion);
  V format_exception(const V& value, bool repr);

  // --- calls (calls.cpp, objects.cpp, builtins.cpp, methods.cpp, classes.cpp)
  // -----------------------------------
  V call(const V& callee, Call call);
  V call_method(const V& object, const char* name, std::vector<V> args);
  V special(const V& object, const char* name);
  V inline_function(const V& function, Call call);
  V call_type(const V& type, Call call);
  V make_object(const V& type, Call call);  // as type.__call__ does
  V call_new(PyTypeObject* base, Call& call);
  V call_descriptor(const V& callee, Call& call);
  // A method of a builtin container or constant; `known` says whether it is modelled.
  V call_builtin_method(const V& self, PyObject* name, Call& call, bool& known);
  V call_iterator_method(const V& self, const std::string& name, Call& call);
  V enum_member(PyTypeObject* type, const Call& call);
  V fold_bound(PyObject* bound, const Call& call);  // of a constant's own method
  Ref intern(const V& name);
  V fold(PyObject* callee, const Call& call);  // null unless pure and all constant
  [[noreturn]] void raise(PyObject* type, const std::string& message);
  [[noreturn]] void raise_python_error();  // what the error indicator holds, within the program
  bool matches_exception(const V& exception, const V& type);
  int raised_at(const V& exception) const {  // -1 where it was not raised
    const auto found = raised_.find(exception.get());
    return found == raised_.end() ? -1 : found->second.second;
  }
  V run_frame(Frame& frame);

  // --- tensors (tensors.cpp)
  // ----------------------------------------------------------------------
  bool is_tensor(const V& value) { return real(value)->kind == Kind::tensor; }
  bool holds_tensor(const V& value, int depth = 0);
  V lift_tensor(PyObject* object, Source* source);
  V call_tensor_function(const V& callee, const Call& call);
  V call_tensor_method(const V& self, PyObject* name, const Call& call);
  V legacy_method(const V& self, PyObject* name, const Call& call);
  V tensor_attribute(const std::shared_ptr<Tensor>& tensor, PyObject* name);
  V sizes_of(const Tensor& tensor);  // torch.Size
  bool records(PyObject* callable);  // it becomes a node
  V call_module(const V& module, Call call, bool& known);

  // --- NumPy's arrays (arrays.cpp)
  // ------------------------------------------------------------------
  V lift_array(PyObject* object, Source* source);
  bool holds_array(const V& value, int depth = 0);
  V array_attribute(const V& array, PyObject* name);
  V call_array(const char* kind, const std::string& name, const Call& call);
  V call_array_method(const V& array, const std::string& name, Call call);
  V call_numpy(const V& callee, Call& call, bool& known);
  V array_of_tensor(const V& tensor);
  V tensor_of_array(const V& array);

  Sources& sources() { return trace_.sources; }
  Trace& trace() { return trace_; }
  Frame* frame() { return frame_; }
  const Settings& settings() const { return settings_; }
  // A function of octavo.capture.rewritten, which is traced in the place of torch's.
  V rewritten(const char* name);
  // A mode that the trace alone knows of begins or ends: no piece ends within one.
  void count_mode(int& mode, bool begin);
  void index_by_tensors(bool begin) { count_mode(index_by_tensors_, begin); }
  int autocast_nesting(bool begin);  // what torch's counter would be
  bool began_in_vmap() const { return began_in_vmap_; }
  bool grad_enabled() const { return trace_.grad_enabled; }
  void set_grad_enabled(bool enabled);

 private:
  // interpreter.cpp
  void step(Frame& frame, const Instruction& i);
  bool step_stack(Frame& frame, const Instruction& i);
  bool step_names(Frame& frame, const Instruction& i);
  bool step_build(Frame& frame, const Instruction& i);
  bool step_jump(Frame& frame, const Instruction& i);
  bool step_exceptions(Frame& frame, const Instruction& i);
  bool step_calls(Frame& frame, const Instruction& i);
  bool handle(Frame& frame, const V& exception);
  V load_global(Frame& frame, PyObject* name);
  void guard_bound(const Frame& frame, int slot);
  [[noreturn]] void unbound_cell(const Frame& frame, int slot);
  V make_function(Frame& frame, int flags);
  V import_name(Frame& frame, PyObject* name, const V& fromlist, const V& level);
  void bind(Frame& frame, PyCodeObject* code, const V& name, const V& defaults, const V& kwdefaults,
            Call& call);

  // attributes.cpp
  V overridden_attribute(const V& object, PyTypeObject* type, PyObject* name);
  V object_attribute(const V& object, PyObject* name);
  V class_attribute(const V& object, PyTypeObject* type, PyObject* name, PyObject* found,
                    const V& self);
  PyObject* lookup(PyTypeObject* type, PyObject* name);
  V instance_attribute(const V& object, PyObject* name);
  void needs_words(const V& exception);
  V exception_field(const V& exception, PyObject* descriptor, PyObject* name);
  V type_attribute(const V& object, PyObject* name);
  V function_attribute(const V& function, PyObject* name);

  // symbols.cpp
  bool dynamic_sizes(PyObject* object, const at::Tensor& tensor, Source* source, TensorGuard& guard,
                     std::vector<Dim>& dims);
  V dynamic_integer(PyObject* object, Source* source);
  bool differs_between_calls(PyObject* number, Source* source);
  int symbol_at(Source* source, int dim, int64_t hint);
  Node* node_of(const Expr& expr);
  Node* node_of_symbol(int symbol);
  void place_symbols(const Tensor& tensor);
  Ref torch_symbols();
  Ref torch_number(const Expr& expr);
  const at::Tensor& symbolic(const std::shared_ptr<Tensor>& tensor);
  Expr expression_of_torch(PyObject* terms);
  V number_of_torch(PyObject* given);
  void take_conditions();
  void take_sizes(PyObject* tensor, Tensor& into);
  void match_gradients();

  // tensors.cpp
  V record(Node::Op op, Ref target, const Call& call,
           const std::function<Ref(PyObject*, PyObject*)>& meta, PyObject* callable);
  Node* add_node(Node::Op op, Ref target, const Call& call, bool impure);
  V record_by_rule(Node::Op op, Ref target, const Call& call, const Shape& shape);
  Ref meta_object(const V& value);
  Arg node_arg(const V& value);
  Node* node_of(const std::shared_ptr<Tensor>& tensor);
  void writes_into(const at::Tensor& meta);
  // Which of the frame's tensors the graph writes, and what that asks of them.
  void finish_writes();
  V wrap_result(PyObject* result, Node* node, bool& made);
  V wrap_tensor(PyObject* result, Node* node);
  V call_leaf_module(const V& module, Call& call);

  // arrays.cpp
  Ref array_argument(const V& value, std::vector<std::shared_ptr<Array>>& arrays);
  V array_node_argument(const V& value, bool floating);
  V take_outcome(PyObject* outcome, Node* node, const std::vector<std::shared_ptr<Array>>& arrays);
  V make_array(const at::Tensor& meta, Node* node, bool scalar, bool writable, int64_t copy);
  void guard_array_errors();

  Settings settings_;
  const Code& code_;
  PyObject* globals_;
  PyObject* builtins_;
  Trace trace_;
  Frame* frame_ = nullptr;
  Frame* root_ = nullptr;
  std::string where_;
  int instructions_ = 0;  // of the root frame
  int total_ = 0;
  int stop_ = 0;
  int first_unit_ = 0;         // where the piece begins
  std::vector<V> generators_;  // all that were made
  SizeHistory& history_;
  std::vector<int64_t> hints_;       // of the symbols
  std::vector<Node*> symbol_nodes_;  // placeholders, null until one is needed
  std::vector<std::pair<Expr, Node*>> expression_nodes_;
  Ref torch_symbols_;  // octavo.capture.symbolic.Symbols, made when a rule of torch needs it
  std::vector<Ref> torch_symbol_objects_;
  bool symbolic_ = false;  // arguments are made with torch's symbols
  bool began_in_vmap_;
  int index_by_tensors_ = 0;  // within TransformGetItemToIndex
  int autocast_nesting_ = 0;  // torch.autocast that changes nothing
  int modes_ = 0;             // all of these
  int modes_begun_ = 0;       // at this instruction of the root frame
  int quiet_ = 0;             // inside a leaf module: operators are not recorded
  std::unordered_map<PyObject*, V> lifted_;
  std::unordered_map<const at::TensorImpl*, std::weak_ptr<Tensor>> by_meta_;
  std::map<std::pair<const void*, PyObject*>, size_t> written_;  // into trace_.writes
  std::unordered_set<const c10::StorageImpl*> written_storages_;
  int tensor_writes_ = 0;
  int effects_ = 0;  // these, and changes of anything else
  // Memory that arrays and tensors of the program share.
  std::unordered_set<const c10::StorageImpl*> shared_storages_;
  bool guards_array_errors_ = false;
  // Exceptions that a handler got, and the root instruction at which they came.
  std::unordered_map<const Value*, std::pair<V, int>> raised_;
  std::vector<Ref> keep_;

  friend struct GeneratorIterator;
};

// "L__self___fc1", as Dynamo names what a module holds.
std::string module_key(const Source& source, PyCodeObject* code);

}  // namespace octavo::capture
