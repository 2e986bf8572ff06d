// The graph: Octavo's one intermediate representation, from import to the compiled program.
//
// Meaning
//  * SSA. A Value is defined once: as an input of the graph, as a constant (it holds a Tensor), or
//    as an output of a Node. A Node applies an op to its inputs; an optional input that is left out
//    is a null Value*. There is no mutation, no aliasing and no control flow: computing the nodes
//    in list order, or any other order that respects the uses, gives the same outputs.
//  * Types. Every Value has an element type and a shape of known rank whose dimensions are numbers,
//    symbols or unknown. A symbol names one number throughout a graph; it is bound when a program
//    runs. An op's shape function (OpDef::infer) derives output types from inputs and attributes;
//    the verifier checks that the stored types agree.
//  * Order. Nodes form a list in which definitions come before uses.
//  * Names. Values and nodes keep the names of the file they came from, for messages and records.
//    Value names are unique in a graph; the empty name is replaced by %0, %1, … when printed.
//  * Quantization is explicit. `quantize`, `dequantize` and `fake_quantize` are nodes; an integer
//    tensor carries no hidden scale.
//  * Stages. A graph is captured (any op), canonical (only ops of ops.def of stage canonical),
//    quantized (canonical ops and quantization nodes) or lowered (fused kernels, channels last).
//    Each stage's grammar is checked by verify().
#pragma once
#include <functional>
#include <memory>
#include <set>
#include <span>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "graph/attribute.h"
#include "graph/shape.h"
#include "graph/tensor.h"

namespace octavo {

struct OpDef;  // graph/op_def.h
class Graph;
class Node;

enum class Stage { captured, canonical, quantized, lowered };
const char* stage_name(Stage stage);
Stage parse_stage(std::string_view name);

struct Use {
  Node* node;
  size_t index;  // which input
  friend bool operator==(const Use&, const Use&) = default;
};

// Counts every change of any graph that this thread makes: what was sound at the same count is
// sound still.
uint64_t graph_changes();

class Value {
 public:
  const std::string& name() const { return name_; }
  const TensorType& type() const { return type_; }
  const Shape& shape() const { return type_.shape; }
  DType dtype() const { return type_.dtype; }
  void set_type(TensorType type);
  Node* producer() const { return producer_; }  // null for inputs and constants
  size_t output_index() const { return output_index_; }
  bool is_constant() const { return static_cast<bool>(constant_); }
  bool is_input() const { return !producer_ && !is_constant(); }
  const Tensor& constant() const { return constant_; }  // InternalError-free: empty if not constant
  const std::vector<Use>& uses() const { return uses_; }
  bool has_one_use() const { return uses_.size() == 1; }  // graph outputs are not uses

 private:
  friend class Graph;
  friend class Node;
  std::string name_;
  TensorType type_;
  Node* producer_ = nullptr;
  size_t output_index_ = 0;
  Tensor constant_;
  std::vector<Use> uses_;
};

class Node {
 public:
  const OpDef& op() const { return *op_; }
  std::string_view op_name() const;
  bool is(std::string_view op) const { return op_name() == op; }
  const std::string& name() const { return name_; }
  void set_name(std::string name) { name_ = std::move(name); }
  std::string where() const;  // "conv '/blocks.0/Conv'": for messages

  std::span<Value* const> inputs() const { return inputs_; }
  // Input i, or null if it is left out or beyond the list.
  Value* input(size_t i) const { return i < inputs_.size() ? inputs_[i] : nullptr; }
  void set_input(size_t i, Value* value);
  void trim_inputs();  // drops inputs left out at the end of the list
  std::span<Value* const> outputs() const { return outputs_; }
  Value* output(size_t i = 0) const { return outputs_[i]; }

  const Attributes& attributes() const { return attributes_; }
  bool has(std::string_view name) const { return attributes_.find(name) != attributes_.end(); }
  void set(std::string name, Attribute value);
  // The attribute, or the op's default; InternalError if there is neither or the kind differs.
  int64_t integer(std::string_view name) const;
  double real(std::string_view name) const;
  const std::string& text(std::string_view name) const;
  const Ints& integers(std::string_view name) const;
  const Floats& reals(std::string_view name) const;

  Node* next() const { return next_; }
  Node* previous() const { return previous_; }

 private:
  friend class Graph;
  const Attribute& attribute(std::string_view name) const;
  const OpDef* op_ = nullptr;
  std::string name_;
  std::vector<Value*> inputs_, outputs_;
  Attributes attributes_;
  Node *previous_ = nullptr, *next_ = nullptr;
};

class Graph {
 public:
  Graph();
  ~Graph();
  Graph(Graph&&) noexcept;
  Graph& operator=(Graph&&) noexcept;
  Graph clone() const;  // constants share memory

  std::string name = "graph";
  Stage stage = Stage::captured;

  const std::vector<Value*>& inputs() const;
  const std::vector<Value*>& outputs() const;
  // Names are made unique by a suffix; "" stays unnamed.
  Value* add_input(std::string name, TensorType type);
  Value* add_constant(std::string name, Tensor tensor);
  void add_output(Value* value);
  void set_output(size_t i, Value* value);
  bool is_output(const Value* value) const;

  // Appends a node, or inserts it before `before`; infers the output types and, if every input it
  // needs is missing or mistyped, throws UserError. `op` is a name in ops.def (InternalError
  // otherwise). `name` names the node and, with ":i" for i > 0, its outputs.
  Node* add(std::string_view op, std::vector<Value*> inputs, Attributes attributes = {},
            std::string name = "", Node* before = nullptr);
  // For one-output ops.
  Value* apply(std::string_view op, std::vector<Value*> inputs, Attributes attributes = {},
               std::string name = "", Node* before = nullptr);

  void rename(Value* value, std::string name);
  // Every use and graph output of `from` becomes `to`.
  void replace_all_uses(Value* from, Value* to);
  // InternalError if an output is still used.
  void erase(Node* node);
  void move_before(Node* node, Node* before);
  // Removes nodes and constants that no output needs; returns how many nodes went.
  size_t remove_dead();
  // Recomputes all types in order (after a dimension was bound, say).
  void infer_types();

  Node* first() const;
  Node* last() const;
  size_t node_count() const;
  Value* find_value(std::string_view name) const;  // null if there is none
  // All nodes in order; the current node may be erased while iterating.
  void for_each(const std::function<void(Node&)>& f) const;
  // All constants, in no order that means anything.
  std::vector<Value*> constants() const;

 private:
  struct Storage;
  std::unique_ptr<Storage> s_;
};

}  // namespace octavo
