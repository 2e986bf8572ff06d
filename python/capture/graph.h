// The captured tensor program in FX's vocabulary, recorded without making a Python object per node.
#pragma once
#include <ATen/core/Tensor.h>

#include <deque>
#include <string>
#include <unordered_map>
#include <vector>

#include "object.h"
#include "source.h"

namespace octavo::capture {

struct Node;

// An argument of a node: another node, a Python constant, or a container of arguments.
struct Arg {
  enum class Kind : uint8_t { node, object, list, tuple, dict, slice };
  Kind kind = Kind::object;
  Node* node = nullptr;
  Ref object;  // a constant; for tuples the class of a named tuple
  std::vector<Arg> items;
  std::vector<Ref> keys;  // of a dict

  static Arg of(Node* node) {
    Arg arg;
    arg.kind = Kind::node;
    arg.node = node;
    return arg;
  }
  static Arg of(Ref object) {
    Arg arg;
    arg.object = std::move(object);
    return arg;
  }
};

struct Node {
  enum class Op : uint8_t {
    placeholder,
    get_attr,
    call_function,
    call_method,
    call_module,
    output
  };
  Op op;
  Ref target;  // the callable, or for the others a str
  std::vector<Arg> args;
  std::vector<std::pair<Ref, Arg>> kwargs;
  at::Tensor meta;  // what it makes, on the meta device; undefined for what is no tensor
  c10::Device device = c10::kCPU;
  Source* source = nullptr;  // of a placeholder that is no symbol
  int symbol = -1;           // of a placeholder that is one
  bool array = false;        // a placeholder that the frame has as an array
  Ref attribute;             // the module or tensor behind get_attr and call_module
  int line = 0;
  PyObject* file = nullptr;  // the code object's, which the piece outlives
  bool impure = false;       // must run though nothing reads it: it writes
  bool sure = false;         // its shape rule refuses all that its kernel does
  int users = 0;
  bool part = false;  // takes one result of an operator that gives several
  bool dead = false;  // nothing needs it
};

class Graph {
 public:
  Node* add(Node::Op op, Ref target) {
    nodes_.push_back({});
    nodes_.back().op = op;
    nodes_.back().target = std::move(target);
    return &nodes_.back();
  }
  void drop_last() { nodes_.pop_back(); }
  std::deque<Node>& nodes() { return nodes_; }
  const std::deque<Node>& nodes() const { return nodes_; }
  std::vector<Node*> placeholders;
  std::vector<Node*> outputs;
  // Nodes that compute: neither placeholders nor attributes.
  int ops() const;
  // Marks inputs, attributes and parts of results that nothing reads; counts users.
  void remove_unread();

 private:
  std::deque<Node> nodes_;
};

// torch.fx.GraphModule of the graph.
Ref make_graph_module(const Graph& graph);

}  // namespace octavo::capture
