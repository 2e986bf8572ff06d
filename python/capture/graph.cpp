#include "graph.h"

#include <functional>

#include "python_types.h"

namespace octavo::capture {
namespace {

void for_each_node(const Arg& arg, const std::function<void(Node*)>& visit) {
  if (arg.kind == Arg::Kind::node) visit(arg.node);
  for (const Arg& item : arg.items) for_each_node(item, visit);
}

void for_each_input(const Node& node, const std::function<void(Node*)>& visit) {
  for (const Arg& arg : node.args) for_each_node(arg, visit);
  for (const auto& [name, arg] : node.kwargs) for_each_node(arg, visit);
}

// The Python nodes of the graph being made.
using Made = std::unordered_map<const Node*, Ref>;

Ref python_arg(const Arg& arg, const Made& made) {
  switch (arg.kind) {
    case Arg::Kind::node:
      return made.at(arg.node);
    case Arg::Kind::object:
      return arg.object;
    case Arg::Kind::list:
    case Arg::Kind::tuple: {
      const auto size = static_cast<Py_ssize_t>(arg.items.size());
      const bool list = arg.kind == Arg::Kind::list;
      Ref items = Ref::checked(list ? PyList_New(size) : PyTuple_New(size));
      for (Py_ssize_t n = 0; n < size; ++n) {
        PyObject* item = python_arg(arg.items[static_cast<size_t>(n)], made).release();
        if (list)
          PyList_SET_ITEM(items.get(), n, item);
        else
          PyTuple_SET_ITEM(items.get(), n, item);
      }
      if (arg.object)
        return make_named_tuple(reinterpret_cast<PyTypeObject*>(arg.object.get()), items);
      return items;
    }
    case Arg::Kind::dict: {
      Ref dict = Ref::checked(PyDict_New());
      for (size_t n = 0; n < arg.items.size(); ++n)
        check(PyDict_SetItem(dict.get(), arg.keys[n].get(), python_arg(arg.items[n], made).get()));
      return dict;
    }
    case Arg::Kind::slice:
      return Ref::checked(PySlice_New(python_arg(arg.items[0], made).get(),
                                      python_arg(arg.items[1], made).get(),
                                      python_arg(arg.items[2], made).get()));
  }
  return {};
}

const char* op_name(Node::Op op) {
  static constexpr const char* names[] = {"placeholder", "get_attr",    "call_function",
                                          "call_method", "call_module", "output"};
  return names[static_cast<size_t>(op)];
}

}  // namespace

int Graph::ops() const {
  int count = 0;
  for (const Node& node : nodes_)
    count += node.op == Node::Op::call_function || node.op == Node::Op::call_method ||
             node.op == Node::Op::call_module;
  return count;
}

// Operators stay: one that nothing reads may still raise, or draw random numbers.
void Graph::remove_unread() {
  for (Node* node : outputs) ++node->users;
  for (const Node& node : nodes_) for_each_input(node, [](Node* input) { ++input->users; });
  for (auto node = nodes_.rbegin(); node != nodes_.rend(); ++node) {
    const bool part = node->op == Node::Op::call_function && !node->args.empty() &&
                      node->target.get() == well_known("operator", "getitem") && node->part;
    if (node->users > 0 || node->symbol >= 0 ||
        !(part || node->op == Node::Op::placeholder || node->op == Node::Op::get_attr))
      continue;
    node->dead = true;
    for_each_input(*node, [](Node* input) { --input->users; });
  }
  std::erase_if(placeholders, [](const Node* node) { return node->dead; });
}

Ref make_graph_module(const Graph& graph) {
  const Ref fx_graph = Ref::checked(PyObject_CallNoArgs(well_known("torch.fx", "Graph")));
  const Ref create = attribute(fx_graph.get(), "create_node");
  const Ref root = Ref::checked(PyDict_New());
  Made made;
  const auto add = [&](const Node& node) {
    const Ref args = Ref::checked(PyTuple_New(static_cast<Py_ssize_t>(node.args.size())));
    for (size_t n = 0; n < node.args.size(); ++n)
      PyTuple_SET_ITEM(args.get(), static_cast<Py_ssize_t>(n),
                       python_arg(node.args[n], made).release());
    const Ref kwargs = Ref::checked(PyDict_New());
    for (const auto& [name, arg] : node.kwargs)
      check(PyDict_SetItem(kwargs.get(), name.get(), python_arg(arg, made).get()));
    const Ref op = interned(op_name(node.op));
    made[&node] = Ref::checked(PyObject_CallFunctionObjArgs(
        create.get(), op.get(), node.target.get(), args.get(), kwargs.get(), nullptr));
    if (node.attribute) check(PyDict_SetItem(root.get(), node.target.get(), node.attribute.get()));
    if (node.line) {
      const Ref meta = attribute(made[&node].get(), "meta");
      const Ref trace =
          text("  File \"" + utf8(node.file) + "\", line " + std::to_string(node.line) + "\n");
      check(PyDict_SetItemString(meta.get(), "stack_trace", trace.get()));
    }
  };
  for (const Node* node : graph.placeholders) add(*node);
  for (const Node& node : graph.nodes())
    if (node.op != Node::Op::placeholder && !node.dead) add(node);
  const Ref outputs = Ref::checked(PyTuple_New(static_cast<Py_ssize_t>(graph.outputs.size())));
  for (size_t n = 0; n < graph.outputs.size(); ++n)
    PyTuple_SET_ITEM(outputs.get(), static_cast<Py_ssize_t>(n),
                     Py_NewRef(made.at(graph.outputs[n]).get()));
  const Ref output = attribute(fx_graph.get(), "output");
  Ref::checked(PyObject_CallOneArg(output.get(), outputs.get()));
  return Ref::checked(PyObject_CallFunctionObjArgs(well_known("torch.fx", "GraphModule"),
                                                   root.get(), fx_graph.get(), nullptr));
}

}  // namespace octavo::capture
