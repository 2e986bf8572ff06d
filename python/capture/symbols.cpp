// Sizes and ints that differ from call to call: which become symbols, arithmetic on them, the nodes
// that compute them, and torch's symbols for the shape rules that are torch's.
#include <ATen/core/grad_mode.h>
#include <ATen/ops/empty_strided.h>
#include <fmt/format.h>
#include <torch/csrc/autograd/python_variable.h>

#include <algorithm>
#include <numeric>

#include "python_types.h"
#include "tensor_meta.h"
#include "tracer.h"

namespace octavo::capture {
namespace {

using Term = Expression::Op;

// By BINARY_OP's argument; in-place forms follow 13 later.
std::optional<Term> arithmetic(int operation) {
  switch (operation % 13) {
    case 0:
      return Term::add;
    case 2:
      return Term::floordiv;
    case 5:
      return Term::mul;
    case 6:
      return Term::mod;
    case 8:
      return Term::power;
    case 10:
      return Term::sub;
    case 11:
      return Term::truediv;
    default:
      return std::nullopt;
  }
}

// The dimensions from the outermost in memory to the innermost, if the tensor is dense.
std::optional<std::vector<int>> dense_order(const at::Tensor& tensor) {
  std::vector<int> order(static_cast<size_t>(tensor.dim()));
  std::iota(order.begin(), order.end(), 0);
  std::stable_sort(order.begin(), order.end(), [&](int a, int b) {
    return tensor.stride(a) != tensor.stride(b) ? tensor.stride(a) > tensor.stride(b)
                                                : tensor.size(a) > tensor.size(b);
  });
  int64_t step = 1;
  for (auto d = order.rbegin(); d != order.rend(); ++d) {
    if (tensor.stride(*d) != step) return std::nullopt;
    step *= tensor.size(*d);
  }
  return order;
}

// Dimensions named by an attribute that mark_dynamic, mark_static or torch's own left on a tensor.
bool marked(PyObject* object, const char* attribute, int dim) {
  PyObject* set = own_attribute(object, interned(attribute).get());
  if (!set || !PyAnySet_Check(set)) return false;
  const int found = PySet_Contains(set, Ref::checked(PyLong_FromLong(dim)).get());
  if (found < 0) PyErr_Clear();
  return found == 1;
}

bool marked_dynamic(PyObject* object, int dim) {
  return marked(object, "_octavo_dynamic_dims", dim) ||
         marked(object, "_dynamo_dynamic_indices", dim) ||
         marked(object, "_dynamo_weak_dynamic_indices", dim);
}

bool marked_static(PyObject* object, int dim) {
  return marked(object, "_octavo_static_dims", dim) ||
         marked(object, "_dynamo_static_indices", dim);
}

}  // namespace

// --- which sizes are symbols
// --------------------------------------------------------------------------

bool Tracer::dynamic_sizes(PyObject* object, const at::Tensor& tensor, Source* source,
                           TensorGuard& guard, std::vector<Dim>& dims) {
  if (settings_.dynamic == Dynamic::never) return false;
  auto [entry, first] =
      history_.tensors.try_emplace(source_name(*source, code_.object()), tensor.sizes().vec());
  std::vector<int64_t>& seen = entry->second;
  if (seen.size() != static_cast<size_t>(tensor.dim())) {
    seen = tensor.sizes().vec();
    first = true;
  }
  std::vector<bool> open(seen.size());
  for (size_t d = 0; d < seen.size(); ++d) {
    const auto dim = static_cast<int>(d);
    if (!first && seen[d] != tensor.size(dim)) seen[d] = -1;
    open[d] = tensor.size(dim) >= 2 && !marked_static(object, dim) &&
              (seen[d] < 0 || settings_.dynamic == Dynamic::always || marked_dynamic(object, dim));
  }
  if (std::find(open.begin(), open.end(), true) == open.end()) return false;
  const auto order = dense_order(tensor);
  if (!order) return false;
  guard.order = *order;
  for (size_t d = 0; d < open.size(); ++d) {
    const int64_t size = tensor.size(static_cast<int64_t>(d));
    dims.emplace_back(size);
    if (!open[d]) continue;
    guard.sizes[d] = -1;
    dims.back().expr = symbol_expression(symbol_at(source, static_cast<int>(d), size));
  }
  return true;
}

// An int that the frame has: a symbol where calls differ in it, else null.
V Tracer::dynamic_integer(PyObject* object, Source* source) {
  if (!source || source->kind == SourceKind::fixed || settings_.dynamic == Dynamic::never)
    return nullptr;
  int overflow = 0;
  const int64_t value = PyLong_AsLongLongAndOverflow(object, &overflow);
  if (overflow) return nullptr;
  auto [entry, first] = history_.integers.try_emplace(source_name(*source, code_.object()), value);
  if (!first && entry->second != value) entry->second = -1;
  const bool open = entry->second == -1 && !first;
  if (value < 2 || !(open || settings_.dynamic == Dynamic::always)) return nullptr;
  return number(Number::of(value), symbol_expression(symbol_at(source, -1, value)));
}

// A float or a number of NumPy's that the frame itself computed before the piece, such as a loss in
// a loop: not the one that it was. Arguments are constants, as they are for Dynamo.
bool Tracer::differs_between_calls(PyObject* number, Source* source) {
  if (first_unit_ == 0 || !source || source->kind != SourceKind::slot) return false;
  const std::string place = fmt::format("{} {}", source_name(*source, code_.object()), first_unit_);
  const auto [entry, first] = history_.floats.try_emplace(place, Ref::borrow(number));
  PyObject* before = entry->second.get();
  if (first || before == number) return false;
  if (before && Py_TYPE(before) == Py_TYPE(number)) {
    const int same = PyObject_RichCompareBool(before, number, Py_EQ);
    if (same < 0) PyErr_Clear();
    if (same == 1) return false;
  }
  entry->second = Ref();
  return true;
}

int Tracer::symbol_at(Source* source, int dim, int64_t hint) {
  auto& symbols = trace_.sizes.symbols;
  // Equal sizes are one symbol; ints are not sizes.
  for (size_t n = 0; n < symbols.size(); ++n) {
    const SymbolPlace& place = symbols[n].front();
    if (place.source == source && place.dim == dim) return static_cast<int>(n);
    if (dim < 0 || place.dim < 0 || hints_[n] != hint) continue;
    symbols[n].push_back({source, dim});
    return static_cast<int>(n);
  }
  symbols.push_back({{source, dim}});
  hints_.push_back(hint);
  symbol_nodes_.push_back(nullptr);
  return static_cast<int>(symbols.size()) - 1;
}

// --- values
// --------------------------------------------------------------------------

V Tracer::number(const Number& hint, const Expr& expr) {
  if (!expr || expr->op == Term::constant)
    return hint.real ? constant(Ref::checked(PyFloat_FromDouble(hint.value))) : integer(hint.whole);
  auto made = make<Symbol>();
  made->expr = expr;
  made->hint = hint;
  return made;
}

V Tracer::real(const V& given) {
  V value = look(given);
  return value->kind == Kind::symbol ? specialise(value) : value;
}

V Tracer::specialise(const V& value) {
  auto& symbol = static_cast<Symbol&>(*value);
  if (!symbol.resolved) {
    trace_.sizes.conditions.push_back(
        {identical, symbol.expr, constant_expression(symbol.hint), true});
    symbol.resolved = number(symbol.hint, nullptr);
  }
  return symbol.resolved;
}

Expr Tracer::expression(const V& given, Number& hint) {
  const V value = look(given);
  if (value->kind == Kind::symbol) {
    const auto& symbol = static_cast<Symbol&>(*value);
    hint = symbol.hint;
    return symbol.resolved ? constant_expression(hint) : symbol.expr;
  }
  if (value->kind != Kind::constant) return nullptr;
  PyObject* object = value->object.get();
  if (PyFloat_CheckExact(object)) {
    hint = Number::of_real(PyFloat_AS_DOUBLE(object));
  } else if (PyLong_CheckExact(object)) {
    int overflow = 0;
    hint = Number::of(PyLong_AsLongLongAndOverflow(object, &overflow));
    if (overflow) return nullptr;
  } else {
    return nullptr;
  }
  return constant_expression(hint);
}

bool Tracer::holds_symbol(const V& given, int depth) {
  const V value = look(given);
  const auto any = [&](const std::vector<V>& items) {
    return std::any_of(items.begin(), items.end(),
                       [&](const V& item) { return item && holds_symbol(item, depth + 1); });
  };
  switch (value->kind) {
    case Kind::symbol:
      return !static_cast<Symbol&>(*value).resolved;
    case Kind::tensor:
      return !static_cast<Tensor&>(*value).dims.empty();
    case Kind::sequence:
      return depth < 5 && any(static_cast<Sequence&>(*value).items);
    case Kind::slice: {
      const auto& slice = static_cast<Slice&>(*value);
      return any({slice.start, slice.stop, slice.step});
    }
    case Kind::dict:
      for (const auto& [key, item] : static_cast<Dict&>(*value).items)
        if (item && depth < 5 && holds_symbol(item, depth + 1)) return true;
      return false;
    default:
      return false;
  }
}

V Tracer::symbol_arithmetic(Term op, const V& left, const V& right) {
  Number a, b;
  const Expr x = expression(left, a), y = right ? expression(right, b) : nullptr;
  if (!x || (right && !y)) return nullptr;
  Expr made = make_expression(op, x, y);
  if (!made) return nullptr;
  const auto hint = evaluate(*made, hints_);
  return hint ? number(*hint, made) : nullptr;
}

V Tracer::symbol_binary(int operation, const V& left, const V& right) {
  const auto op = arithmetic(operation);
  return op ? symbol_arithmetic(*op, left, right) : nullptr;
}

V Tracer::symbol_compare(int operation, const V& left, const V& right) {
  Number a, b;
  const Expr x = expression(left, a), y = expression(right, b);
  if (!x || !y) return nullptr;
  const auto answer = holds(operation, a, b);
  if (!answer) return nullptr;
  if (!is_real(*x) && !is_real(*y))
    return boolean(compare(operation, Dim(a.whole, x), Dim(b.whole, y)));
  trace_.sizes.conditions.push_back({operation, x, y, *answer});
  return boolean(*answer);
}

V Tracer::call_on_symbols(PyObject* callable, const Call& call) {
  if (call.args.empty() || call.args.size() > 2 || !call.keywords.empty()) return nullptr;
  const V& first = call.args[0];
  if (!is_symbol(first) && !is_symbol(call.args.back())) return nullptr;
  if (call.args.size() == 2) {
    if (callable == well_known("torch", "sym_max"))
      return symbol_arithmetic(Term::largest, first, call.args[1]);
    if (callable == well_known("torch", "sym_min"))
      return symbol_arithmetic(Term::smallest, first, call.args[1]);
    return nullptr;
  }
  const auto& symbol = static_cast<Symbol&>(*look(first));
  const auto is = [&](PyTypeObject& type) {
    return callable == reinterpret_cast<PyObject*>(&type);
  };
  if (is(PyLong_Type) || callable == well_known("operator", "index") ||
      callable == well_known("torch", "sym_int"))
    return symbol.hint.real ? nullptr : first;
  if (is(PyFloat_Type) || callable == well_known("torch", "sym_float"))
    return symbol.hint.real ? first : symbol_arithmetic(Term::to_float, first, nullptr);
  if (callable == well_known("math", "sqrt")) return symbol_arithmetic(Term::root, first, nullptr);
  return nullptr;
}

bool Tracer::compare(int comparison, const Dim& left, const Dim& right) {
  const bool answer = *holds(comparison, Number::of(left.hint), Number::of(right.hint));
  if (!left.expr && !right.expr) return answer;
  Expr x = expression_of(left), y = expression_of(right);
  if (x->op == Term::constant && y->op == Term::constant) return answer;
  // What follows from symbols being at least 2 needs no guard.
  if (same(*x, *y)) return answer;
  const auto above = [](const Expr& big, const Expr& small) {
    const auto low = least(*big);
    return low && small->op == Term::constant && *low > small->constant.whole;
  };
  const auto not_below = [](const Expr& big, const Expr& small) {
    const auto low = least(*big);
    return low && small->op == Term::constant && *low >= small->constant.whole;
  };
  if (above(x, y) || above(y, x)) return answer;
  if ((comparison == 0 || comparison == 5) && not_below(x, y)) return answer;
  if ((comparison == 1 || comparison == 4) && not_below(y, x)) return answer;
  for (const Condition& known : trace_.sizes.conditions)
    if (known.comparison == comparison && same(*known.left, *x) && same(*known.right, *y))
      return answer;
  trace_.sizes.conditions.push_back({comparison, std::move(x), std::move(y), answer});
  return answer;
}

// --- nodes
// --------------------------------------------------------------------------

Node* Tracer::node_of_symbol(int symbol) {
  Node*& node = symbol_nodes_[static_cast<size_t>(symbol)];
  if (!node) {
    node = trace_.graph.add(Node::Op::placeholder, text("s" + std::to_string(symbol)));
    node->symbol = symbol;
    trace_.graph.placeholders.push_back(node);
  }
  return node;
}

// The symbols of an input come before it, whoever reads them.
void Tracer::place_symbols(const Tensor& tensor) {
  for (const Dim& dim : tensor.dims)
    if (dim.expr && dim.expr->op == Term::symbol) node_of_symbol(dim.expr->symbol);
}

Node* Tracer::node_of(const Expr& expr) {
  if (expr->op == Term::symbol) return node_of_symbol(expr->symbol);
  for (const auto& [known, node] : expression_nodes_)
    if (same(*known, *expr)) return node;
  const auto arg = [&](const Expr& operand) {
    if (operand->op != Term::constant) return Arg::of(node_of(operand));
    const Number& c = operand->constant;
    return Arg::of(
        Ref::checked(c.real ? PyFloat_FromDouble(c.value) : PyLong_FromLongLong(c.whole)));
  };
  PyObject* function = nullptr;
  switch (expr->op) {
    case Term::largest:
      function = well_known("torch", "sym_max");
      break;
    case Term::smallest:
      function = well_known("torch", "sym_min");
      break;
    case Term::to_float:
      function = well_known("torch", "sym_float");
      break;
    case Term::root:
      function = well_known("torch", "_sym_sqrt");
      break;
    default: {
      static constexpr const char* names[] = {"",    "",        "add", "sub", "mul", "floordiv",
                                              "mod", "truediv", "pow", "",    "",    "neg"};
      function = well_known("operator", names[static_cast<size_t>(expr->op)]);
    }
  }
  std::vector<Arg> args = {arg(expr->left)};
  if (expr->right) args.push_back(arg(expr->right));
  Node* node = trace_.graph.add(Node::Op::call_function, Ref::borrow(function));
  node->args = std::move(args);
  node->line = frame_->code->line(frame_->at);
  node->file = frame_->code->object()->co_filename;
  expression_nodes_.emplace_back(expr, node);
  return node;
}

// --- torch's symbols
// --------------------------------------------------------------------------

Ref Tracer::torch_symbols() {
  if (!torch_symbols_)
    torch_symbols_ =
        Ref::checked(PyObject_CallNoArgs(well_known("octavo.capture.symbolic", "Symbols")));
  return torch_symbols_;
}

// The expression as a torch.SymInt, or as the number it is.
Ref Tracer::torch_number(const Expr& expr) {
  if (expr->op == Term::constant)
    return Ref::checked(expr->constant.real ? PyFloat_FromDouble(expr->constant.value)
                                            : PyLong_FromLongLong(expr->constant.whole));
  if (expr->op == Term::symbol) {
    const auto n = static_cast<size_t>(expr->symbol);
    if (torch_symbol_objects_.size() <= n) torch_symbol_objects_.resize(n + 1);
    Ref& made = torch_symbol_objects_[n];
    if (!made)
      made = Ref::checked(PyObject_CallMethod(torch_symbols().get(), "symbol", "iL", expr->symbol,
                                              static_cast<long long>(hints_[n])));
    return made;
  }
  const Ref a = torch_number(expr->left), b = expr->right ? torch_number(expr->right) : Ref();
  const auto call = [&](const char* name) {
    return PyObject_CallFunctionObjArgs(well_known("torch", name), a.get(), b.get(), nullptr);
  };
  const auto apply = [&]() -> PyObject* {
    switch (expr->op) {
      case Term::add:
        return PyNumber_Add(a.get(), b.get());
      case Term::sub:
        return PyNumber_Subtract(a.get(), b.get());
      case Term::mul:
        return PyNumber_Multiply(a.get(), b.get());
      case Term::floordiv:
        return PyNumber_FloorDivide(a.get(), b.get());
      case Term::mod:
        return PyNumber_Remainder(a.get(), b.get());
      case Term::truediv:
        return PyNumber_TrueDivide(a.get(), b.get());
      case Term::power:
        return PyNumber_Power(a.get(), b.get(), Py_None);
      case Term::negative:
        return PyNumber_Negative(a.get());
      case Term::largest:
        return call("sym_max");
      case Term::smallest:
        return call("sym_min");
      case Term::to_float:
        return call("sym_float");
      case Term::root:
        return call("_sym_sqrt");
      default:
        return nullptr;
    }
  };
  const Ref made = Ref::steal(apply());
  if (!made) {
    PyErr_Clear();
    throw NoSymbols{};
  }
  return made;
}

const at::Tensor& Tracer::symbolic(const std::shared_ptr<Tensor>& tensor) {
  if (tensor->symbolic.defined()) return tensor->symbolic;
  const auto rank = static_cast<Py_ssize_t>(tensor->meta.dim());
  const Ref sizes = Ref::checked(PyTuple_New(rank)), strides = Ref::checked(PyTuple_New(rank));
  if (tensor->dims.empty()) {
    for (Py_ssize_t d = 0; d < rank; ++d) {
      PyTuple_SET_ITEM(sizes.get(), d, PyLong_FromLongLong(tensor->meta.size(d)));
      PyTuple_SET_ITEM(strides.get(), d, PyLong_FromLongLong(tensor->meta.stride(d)));
    }
  } else {
    const auto order = dense_order(tensor->meta);
    if (!order) throw NoSymbols{};
    Dim step = 1;
    for (auto d = order->rbegin(); d != order->rend(); ++d) {
      const Dim& dim = tensor->dims[static_cast<size_t>(*d)];
      PyTuple_SET_ITEM(sizes.get(), *d, torch_number(expression_of(dim)).release());
      PyTuple_SET_ITEM(strides.get(), *d, torch_number(expression_of(step)).release());
      step = step * dim;
    }
  }
  if (!history_is_known(tensor->meta)) throw NoSymbols{};
  const Ref like = Ref::checked(THPVariable_Wrap(tensor->meta));
  const Ref made = Ref::checked(PyObject_CallMethod(torch_symbols().get(), "tensor", "OOO",
                                                    like.get(), sizes.get(), strides.get()));
  tensor->symbolic = THPVariable_Unpack(made.get());
  if (tensor->meta.requires_grad()) {
    if (tensor->meta.is_leaf())
      tensor->symbolic.set_requires_grad(true);
    else
      set_made_here(tensor->symbolic);
  }
  by_meta_[tensor->symbolic.unsafeGetTensorImpl()] = tensor;
  return tensor->symbolic;
}

// From the nested tuples of octavo.capture.symbolic: ("s", n), a number, (op, a, b).
Expr Tracer::expression_of_torch(PyObject* terms) {
  if (PyLong_Check(terms)) return constant_expression(Number::of(PyLong_AsLongLong(terms)));
  const std::string name = utf8(PyTuple_GET_ITEM(terms, 0));
  if (name == "s")
    return symbol_expression(static_cast<int>(PyLong_AsLong(PyTuple_GET_ITEM(terms, 1))));
  static const std::unordered_map<std::string, Term> ops = {
      {"add", Term::add}, {"mul", Term::mul},     {"floordiv", Term::floordiv},
      {"mod", Term::mod}, {"max", Term::largest}, {"min", Term::smallest}};
  Expr made = make_expression(ops.at(name), expression_of_torch(PyTuple_GET_ITEM(terms, 1)),
                              expression_of_torch(PyTuple_GET_ITEM(terms, 2)));
  if (!made) throw NoSymbols{};
  return made;
}

// A torch.SymInt that a rule of torch gave.
V Tracer::number_of_torch(PyObject* given) {
  const Ref found = Ref::steal(PyObject_CallMethod(torch_symbols().get(), "number", "O", given));
  if (!found) {
    PyErr_Clear();
    throw NoSymbols{};
  }
  const int64_t hint = PyLong_AsLongLong(PyTuple_GET_ITEM(found.get(), 0));
  return number(Number::of(hint), expression_of_torch(PyTuple_GET_ITEM(found.get(), 1)));
}

// What torch's rules have asked of their symbols since the last time.
void Tracer::take_conditions() {
  const Ref found = Ref::steal(PyObject_CallMethod(torch_symbols().get(), "conditions", nullptr));
  if (!found) {
    PyErr_Clear();
    throw NoSymbols{};
  }
  for (Py_ssize_t n = 0; n < PyList_GET_SIZE(found.get()); ++n) {
    PyObject* one = PyList_GET_ITEM(found.get(), n);
    const auto comparison = static_cast<int>(PyLong_AsLong(PyTuple_GET_ITEM(one, 0)));
    Condition condition{comparison, expression_of_torch(PyTuple_GET_ITEM(one, 1)),
                        expression_of_torch(PyTuple_GET_ITEM(one, 2)), true};
    if (!holds(condition, hints_)) throw NoSymbols{};
    trace_.sizes.conditions.push_back(std::move(condition));
  }
}

// Gives `into` the sizes of a tensor that a rule made with torch's symbols.
void Tracer::take_sizes(PyObject* tensor, Tensor& into) {
  const Ref found = Ref::steal(PyObject_CallMethod(torch_symbols().get(), "layout", "O", tensor));
  if (!found) {
    PyErr_Clear();
    throw NoSymbols{};
  }
  PyObject* sizes = PyTuple_GET_ITEM(found.get(), 0);
  PyObject* strides = PyTuple_GET_ITEM(found.get(), 1);
  bool open = false;
  std::vector<int64_t> size_hints, stride_hints;
  for (Py_ssize_t d = 0; d < PyTuple_GET_SIZE(sizes); ++d) {
    PyObject* size = PyTuple_GET_ITEM(sizes, d);  // (hint, terms)
    Expr expr = expression_of_torch(PyTuple_GET_ITEM(size, 1));
    const int64_t hint = PyLong_AsLongLong(PyTuple_GET_ITEM(size, 0));
    into.dims.emplace_back(hint, expr->op == Term::constant ? nullptr : std::move(expr));
    open = open || into.dims.back().expr;
    size_hints.push_back(hint);
    stride_hints.push_back(PyLong_AsLongLong(PyTuple_GET_ITEM(strides, d)));
  }
  if (PyErr_Occurred()) throw PythonError{};
  const at::Tensor& made = THPVariable_Unpack(tensor);
  into.symbolic = made;
  into.meta = at::detail::empty_strided_meta(size_hints, stride_hints, made.scalar_type());
  if (made.requires_grad()) set_made_here(into.meta);
  if (!open) into.dims.clear();
}

// An operator that writes may have made other tensors, of which its own is a view, want gradients.
void Tracer::match_gradients() {
  for (const auto& [impl, weak] : by_meta_)
    if (const auto tensor = weak.lock(); tensor && tensor->symbolic.defined())
      if (tensor->symbolic.requires_grad() && !tensor->meta.requires_grad())
        set_made_here(tensor->meta);
}

}  // namespace octavo::capture
