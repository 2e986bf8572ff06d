#include "shape_rules.h"

#include <ATen/ops/result_type.h>
#include <torch/csrc/autograd/edge.h>
#include <torch/csrc/autograd/functions/basic_ops.h>
#include <torch/csrc/autograd/variable.h>

#include <unordered_map>

#include "python_types.h"
#include "tensor_meta.h"

namespace octavo::capture {
namespace {

using Sizes = std::vector<int64_t>;
using Dims = std::vector<Dim>;

// The arguments of one call, by place or name.
class Arguments {
 public:
  Arguments(Tracer& tracer, const Call& call) : tracer_(tracer), call_(call) {}

  V at(size_t place, const char* name = nullptr) const {
    if (place < call_.args.size()) return tracer_.look(call_.args[place]);
    if (name)
      for (const auto& [key, value] : call_.keywords)
        if (PyUnicode_CompareWithASCIIString(key.get(), name) == 0) return tracer_.look(value);
    return nullptr;
  }
  // A contiguous tensor of a plain type, or null.
  std::shared_ptr<Tensor> tensor(size_t place, const char* name = nullptr) const {
    return plain(at(place, name));
  }
  static std::shared_ptr<Tensor> plain(const V& value) {
    if (!value || value->kind != Kind::tensor) return nullptr;
    auto tensor = std::static_pointer_cast<Tensor>(value);
    const at::Tensor& meta = tensor->meta;
    // Channels-last and the like keep their layout; torch's rule knows how.
    return meta.is_contiguous() ? tensor : nullptr;
  }
  std::shared_ptr<Tensor> floating(size_t place, const char* name = nullptr) const {
    auto found = tensor(place, name);
    return found && at::isFloatingType(found->meta.scalar_type()) ? found : nullptr;
  }
  bool absent(size_t place, const char* name) const {
    const V value = at(place, name);
    return !value || value->object.get() == Py_None;
  }
  std::optional<int64_t> integer(size_t place, const char* name, int64_t fallback) const {
    const V value = at(place, name);
    if (!value) return fallback;
    if (value->kind != Kind::constant || !PyLong_CheckExact(value->object.get()))
      return std::nullopt;
    return PyLong_AsLongLong(value->object.get());
  }
  std::optional<bool> flag(size_t place, const char* name, bool fallback) const {
    const V value = at(place, name);
    if (!value) return fallback;
    if (value->object.get() == Py_True) return true;
    if (value->object.get() == Py_False) return false;
    return std::nullopt;
  }
  // An int, or a tuple or list of ints: one per dimension.
  std::optional<Sizes> integers(size_t place, const char* name, Sizes fallback,
                                size_t count) const {
    const V value = at(place, name);
    if (!value) return fallback;
    Sizes all;
    if (value->kind == Kind::constant && PyLong_CheckExact(value->object.get())) {
      all.push_back(PyLong_AsLongLong(value->object.get()));
    } else if (value->kind == Kind::sequence) {
      for (const V& item : static_cast<Sequence&>(*value).items) {
        const V one = tracer_.look(item);
        if (one->kind != Kind::constant || !PyLong_CheckExact(one->object.get()))
          return std::nullopt;
        all.push_back(PyLong_AsLongLong(one->object.get()));
      }
    } else {
      return std::nullopt;
    }
    if (all.size() == 1 && count > 1) all.resize(count, all[0]);
    return all;
  }
  size_t count() const { return call_.args.size() + call_.keywords.size(); }
  bool only_places() const { return call_.keywords.empty(); }
  Tracer& tracer() const { return tracer_; }
  const Call& call() const { return call_; }

 private:
  Tracer& tracer_;
  const Call& call_;
};

using Rule = std::optional<Shape> (*)(const Arguments&);

Shape like(const std::shared_ptr<Tensor>& tensor) {
  return {tensor->sizes(), tensor->meta.scalar_type(), nullptr, false};
}

// Writing into a leaf that wants gradients, or into a view of one, is an error that torch words.
bool may_write(const Arguments& a, const std::shared_ptr<Tensor>& tensor) {
  if (!a.tracer().grad_enabled()) return true;
  const auto wanting_leaf = [](const at::TensorBase& meta) {
    return meta.requires_grad() && meta.is_leaf();
  };
  const at::Tensor& meta = tensor->meta;
  if (!history_is_known(meta)) return false;
  return !wanting_leaf(meta) && !(meta.is_view() && wanting_leaf(meta._base()));
}

// Shapes `into` to what it and `other` broadcast to.
bool broadcast(const Arguments& a, Dims& into, const Dims& other) {
  if (other.size() > into.size()) into.insert(into.begin(), other.size() - into.size(), Dim(1));
  const size_t shift = into.size() - other.size();
  for (size_t d = 0; d < other.size(); ++d) {
    Dim& size = into[shift + d];
    if (size.hint == other[d].hint) {
      if (!a.tracer().equal(size, other[d])) return false;
      if (!other[d].expr) size = other[d];
    } else if (other[d].hint == 1) {
      if (!a.tracer().equal(other[d], 1)) return false;
    } else if (size.hint == 1) {
      if (!a.tracer().equal(size, 1)) return false;
      size = other[d];
    } else {
      return false;
    }
  }
  return true;
}

bool equal(const Arguments& a, const Dims& x, const Dims& y) {
  if (x.size() != y.size()) return false;
  for (size_t d = 0; d < x.size(); ++d)
    if (!a.tracer().equal(x[d], y[d])) return false;
  return true;
}

std::optional<Shape> same_shape(const Arguments& a) {
  const auto x = a.floating(0, "input");
  if (!x) return std::nullopt;
  return like(x);
}

std::optional<Shape> same_shape_in_place(const Arguments& a) {
  const auto x = a.floating(0, "input");
  if (!x || !may_write(a, x)) return std::nullopt;
  Shape shape = like(x);
  shape.same = x;
  shape.writes = true;
  return shape;
}

// With inplace=True where it stands second.
std::optional<Shape> activation(const Arguments& a) {
  const auto in_place = a.flag(1, "inplace", false);
  if (!in_place) return std::nullopt;
  return *in_place ? same_shape_in_place(a) : same_shape(a);
}

std::optional<at::Scalar> number(const V& value) {
  if (value && value->kind == Kind::symbol) {
    const Number& hint = static_cast<Symbol&>(*value).hint;
    return hint.real ? at::Scalar(hint.value) : at::Scalar(hint.whole);
  }
  if (!value || value->kind != Kind::constant) return std::nullopt;
  PyObject* object = value->object.get();
  if (PyBool_Check(object)) return std::nullopt;
  if (PyLong_CheckExact(object)) {
    int overflow = 0;
    const long long integer = PyLong_AsLongLongAndOverflow(object, &overflow);
    if (overflow) return std::nullopt;
    return at::Scalar(static_cast<int64_t>(integer));
  }
  if (PyFloat_CheckExact(object)) return at::Scalar(PyFloat_AS_DOUBLE(object));
  return std::nullopt;
}

enum class Gives : uint8_t { common, floating, boolean };

template <Gives gives>
std::optional<Shape> elementwise(const Arguments& a) {
  if (a.count() != 2 || !a.only_places()) return std::nullopt;
  const V left = a.at(0), right = a.at(1);
  const auto x = Arguments::plain(left), y = Arguments::plain(right);
  Shape shape;
  if (x && y) {
    if (x->device != y->device) return std::nullopt;
    shape.sizes = x->sizes();
    if (!broadcast(a, shape.sizes, y->sizes())) return std::nullopt;
    shape.dtype = at::result_type(x->meta, y->meta);
  } else if (x || y) {
    const auto scalar = number(x ? right : left);
    if (!scalar) return std::nullopt;
    const auto& tensor = x ? x : y;
    shape.sizes = tensor->sizes();
    shape.dtype = at::result_type(tensor->meta, *scalar);
  } else {
    return std::nullopt;
  }
  if (gives == Gives::boolean) {
    shape.dtype = at::kBool;
  } else if (!at::isFloatingType(shape.dtype)) {
    return std::nullopt;
  }
  return shape;
}

// self.op_(a, b, ...): operands broadcast into self; keywords are numbers.
std::optional<Shape> elementwise_in_place(const Arguments& a) {
  const auto x = a.floating(0);
  if (!x || !may_write(a, x)) return std::nullopt;
  const auto fits = [&](const V& given) {
    const V value = a.tracer().look(given);
    if (value->kind == Kind::constant || value->kind == Kind::symbol)
      return number(value).has_value();
    const auto other = Arguments::plain(value);
    if (other && (read_while_written(x->meta, other->meta) ||
                  read_while_written(x->symbolic, other->symbolic)))
      return false;
    if (!other || other->device != x->device || other->meta.scalar_type() != x->meta.scalar_type())
      return false;
    Dims sizes = x->sizes();
    return broadcast(a, sizes, other->sizes()) && equal(a, sizes, x->sizes());
  };
  for (size_t n = 1; n < a.call().args.size(); ++n)
    if (!fits(a.call().args[n])) return std::nullopt;
  for (const auto& [name, value] : a.call().keywords)
    if (a.tracer().look(value)->kind == Kind::tensor || !fits(value)) return std::nullopt;
  Shape shape = like(x);
  shape.same = x;
  shape.writes = true;
  return shape;
}

std::optional<Shape> linear(const Arguments& a) {
  const auto x = a.floating(0, "input"), w = a.floating(1, "weight");
  if (!x || !w || w->meta.dim() != 2 || x->meta.dim() < 1) return std::nullopt;
  const Dims weight = w->sizes();
  if (!a.absent(2, "bias")) {
    const auto b = a.floating(2, "bias");
    if (!b || !equal(a, b->sizes(), {weight[0]})) return std::nullopt;
  }
  Shape shape = like(x);
  if (!a.tracer().equal(shape.sizes.back(), weight[1]) ||
      x->meta.scalar_type() != w->meta.scalar_type())
    return std::nullopt;
  shape.sizes.back() = weight[0];
  return shape;
}

std::optional<Shape> matmul(const Arguments& a) {
  const auto x = a.floating(0), y = a.floating(1);
  if (!x || !y || a.count() != 2 || x->meta.dim() < 2 || y->meta.dim() < 2) return std::nullopt;
  Dims left = x->sizes(), right = y->sizes();
  if (x->meta.scalar_type() != y->meta.scalar_type() ||
      !a.tracer().equal(left.back(), right[right.size() - 2]))
    return std::nullopt;
  const Dim rows = left[left.size() - 2], columns = right.back();
  left.resize(left.size() - 2);
  right.resize(right.size() - 2);
  if (!broadcast(a, left, right)) return std::nullopt;
  left.push_back(rows);
  left.push_back(columns);
  return Shape{std::move(left), x->meta.scalar_type(), nullptr, false};
}

std::optional<Shape> conv2d(const Arguments& a) {
  const auto x = a.floating(0, "input"), w = a.floating(1, "weight");
  if (!x || !w || x->meta.dim() != 4 || w->meta.dim() != 4) return std::nullopt;
  const auto stride = a.integers(3, "stride", {1, 1}, 2),
             padding = a.integers(4, "padding", {0, 0}, 2),
             dilation = a.integers(5, "dilation", {1, 1}, 2);
  const auto groups = a.integer(6, "groups", 1);
  const Dims weight = w->sizes();
  Shape shape = like(x);
  if (!stride || !padding || !dilation || !groups ||
      !a.tracer().equal(shape.sizes[1], weight[1] * Dim(*groups)) ||
      x->meta.scalar_type() != w->meta.scalar_type())
    return std::nullopt;
  shape.sizes[1] = weight[0];
  for (size_t d = 0; d < 2; ++d) {
    const Dim reach = Dim((*dilation)[d]) * (weight[d + 2] - Dim(1)) + Dim(1);
    const Dim free = shape.sizes[d + 2] + Dim(2 * (*padding)[d]) - reach;
    if (!a.tracer().compare(5, free, 0) || (*stride)[d] < 1) return std::nullopt;
    shape.sizes[d + 2] = floordiv(free, (*stride)[d]) + Dim(1);
  }
  return shape;
}

// Normalisations and softmax: the first operand's shape; mixed types are torch's matter.
std::optional<Shape> like_first(const Arguments& a) {
  const auto x = a.floating(0, "input");
  if (!x || !a.absent(99, "dtype")) return std::nullopt;
  for (const V& arg : a.call().args) {
    const V value = a.tracer().look(arg);
    if (value->kind == Kind::tensor &&
        static_cast<Tensor&>(*value).meta.scalar_type() != x->meta.scalar_type())
      return std::nullopt;
  }
  return like(x);
}

std::optional<Shape> layer_norm(const Arguments& a) {
  const auto x = a.floating(0, "input");
  const auto over = a.integers(1, "normalized_shape", {}, 1);
  if (!x || !over || over->empty() || over->size() > static_cast<size_t>(x->meta.dim()))
    return std::nullopt;
  const Dims sizes = x->sizes();
  for (size_t n = 0; n < over->size(); ++n)
    if (!a.tracer().equal(sizes[sizes.size() - over->size() + n], (*over)[n])) return std::nullopt;
  return like_first(a);
}

std::optional<Shape> softmax(const Arguments& a) {
  if (!a.absent(3, "dtype") || a.absent(1, "dim")) return std::nullopt;
  return same_shape(a);
}

std::optional<Shape> dropout(const Arguments& a) {
  const auto x = a.floating(0, "input");
  const auto training = a.flag(2, "training", true), in_place = a.flag(3, "inplace", false);
  if (!x || !training || !in_place || *in_place) return std::nullopt;
  Shape shape = like(x);
  if (!*training) shape.same = x;
  return shape;
}

std::optional<Shape> embedding(const Arguments& a) {
  const auto ids = a.tensor(0, "input"), w = a.floating(1, "weight");
  if (!ids || !w || w->meta.dim() != 2 || !a.absent(3, "max_norm")) return std::nullopt;
  if (ids->meta.scalar_type() != at::kLong && ids->meta.scalar_type() != at::kInt)
    return std::nullopt;
  Shape shape{ids->sizes(), w->meta.scalar_type(), nullptr, false};
  shape.sizes.push_back(w->sizes()[1]);
  return shape;
}

struct Table {
  std::unordered_map<PyObject*, Rule> functions;
  std::unordered_map<std::string, Rule> methods;
};

const Table& table() {
  static const Table* made = [] {
    auto* t = new Table;
    const auto on = [&](const char* module, const char* name, Rule rule) {
      t->functions[well_known(module, name)] = rule;
    };
    for (const char* name : {"relu", "sigmoid", "tanh", "exp", "log", "sqrt", "rsqrt", "sin", "cos",
                             "erf", "neg", "abs", "square", "reciprocal", "floor", "ceil"}) {
      on("torch", name, same_shape);
      t->methods[name] = same_shape;
      t->methods[std::string(name) + "_"] = same_shape_in_place;
    }
    on("torch.nn.functional", "gelu", same_shape);
    on("torch.nn.functional", "relu", activation);
    on("torch.nn.functional", "silu", activation);
    on("torch", "relu_", same_shape_in_place);
    on("operator", "neg", same_shape);
    constexpr std::pair<const char*, const char*> binary[] = {
        {"add", "add"}, {"sub", "sub"}, {"mul", "mul"}, {"truediv", "div"}, {"pow", "pow"}};
    for (const auto& [op, name] : binary) {
      on("operator", op, elementwise<Gives::common>);
      on("torch", name, elementwise<Gives::common>);
      t->methods[name] = elementwise<Gives::common>;
      t->methods[std::string(name) + "_"] = elementwise_in_place;
      on("operator", (std::string("i") + op).c_str(), elementwise_in_place);
    }
    for (const char* name : {"lt", "le", "eq", "ne", "gt", "ge"}) {
      on("operator", name, elementwise<Gives::boolean>);
      on("torch", name, elementwise<Gives::boolean>);
      t->methods[name] = elementwise<Gives::boolean>;
    }
    for (const char* name : {"lerp_", "addcmul_", "addcdiv_", "copy_"})
      t->methods[name] = elementwise_in_place;
    t->methods["zero_"] = same_shape_in_place;
    on("torch._C._nn", "linear", linear);
    for (const char* name : {"matmul", "bmm", "mm"}) {
      on("torch", name, matmul);
      t->methods[name] = matmul;
    }
    on("operator", "matmul", matmul);
    on("torch", "conv2d", conv2d);
    on("torch.nn.functional", "layer_norm", layer_norm);
    on("torch.nn.functional", "batch_norm", like_first);
    on("torch.nn.functional", "group_norm", like_first);
    on("torch.nn.functional", "softmax", softmax);
    on("torch.nn.functional", "log_softmax", softmax);
    on("torch.nn.functional", "dropout", dropout);
    on("torch.nn.functional", "embedding", embedding);
    return t;
  }();
  return *made;
}

}  // namespace

std::optional<Shape> shape_rule(Tracer& tracer, PyObject* function, const std::string& method,
                                const Call& call) {
  const Table& rules = table();
  Rule rule = nullptr;
  if (function) {
    const auto found = rules.functions.find(function);
    if (found != rules.functions.end()) rule = found->second;
  } else {
    const auto found = rules.methods.find(method);
    if (found != rules.methods.end()) rule = found->second;
  }
  return rule ? rule(Arguments(tracer, call)) : std::nullopt;
}

bool read_while_written(const at::Tensor& written, const at::Tensor& read) {
  if (!written.defined() || !read.defined() || written.is_same(read) ||
      !written.storage().is_alias_of(read.storage()))
    return false;
  if (written.unsafeGetTensorImpl()->has_symbolic_sizes_strides() ||
      read.unsafeGetTensorImpl()->has_symbolic_sizes_strides())
    return true;  // it may
  if (written.sizes() == read.sizes()) return false;
  const auto end = [](const at::Tensor& tensor) {
    int64_t last = tensor.storage_offset();
    for (int64_t d = 0; d < tensor.dim(); ++d) last += (tensor.size(d) - 1) * tensor.stride(d);
    return tensor.numel() > 0 ? last + 1 : tensor.storage_offset();
  };
  return written.storage_offset() < end(read) && read.storage_offset() < end(written);
}

void set_made_here(const at::Tensor& meta) {
  static const auto* made_here = new torch::autograd::Edge(
      c10::make_intrusive<torch::autograd::Error>("a tensor of a captured graph"), 0);
  torch::autograd::impl::set_gradient_edge(meta, *made_here);
}

// The operator's result by a rule: nothing runs.
V Tracer::record_by_rule(Node::Op op, Ref target, const Call& call, const Shape& shape) {
  Node* node = quiet_ ? nullptr : add_node(op, std::move(target), call, shape.writes);
  if (node) node->sure = at::isFloatingType(shape.dtype) || shape.dtype == at::kBool;
  bool wants_grad = false;
  if (trace_.grad_enabled) {
    for (const V& arg : call.args) {
      const V value = look(arg);
      wants_grad = wants_grad || (value->kind == Kind::tensor &&
                                  static_cast<Tensor&>(*value).meta.requires_grad());
    }
    for (const auto& [name, arg] : call.keywords) {
      const V value = look(arg);
      wants_grad = wants_grad || (value->kind == Kind::tensor &&
                                  static_cast<Tensor&>(*value).meta.requires_grad());
    }
  }
  if (shape.same) {
    if (shape.writes) {
      writes_into(shape.same->meta);
      if (shape.same->symbolic.defined()) writes_into(shape.same->symbolic);
      for (const at::Tensor* meta : {&shape.same->meta, &shape.same->symbolic}) {
        if (!meta->defined()) continue;
        meta->unsafeGetTensorImpl()->bump_version();
        if (wants_grad && !meta->requires_grad()) set_made_here(*meta);
      }
    }
    if (node) shape.same->node = node;
    return shape.same;
  }
  auto made = make<Tensor>();
  made->type = tensor_type();
  std::vector<int64_t> sizes;
  for (const Dim& dim : shape.sizes) sizes.push_back(dim.hint);
  const bool open = std::any_of(shape.sizes.begin(), shape.sizes.end(),
                                [](const Dim& dim) { return dim.expr != nullptr; });
  if (open) made->dims = shape.sizes;
  made->meta = at::detail::empty_meta(sizes, shape.dtype);
  if (wants_grad && at::isFloatingType(shape.dtype)) set_made_here(made->meta);
  made->node = node;
  if (node) node->meta = made->meta;
  by_meta_[made->meta.unsafeGetTensorImpl()] = made;
  return made;
}

}  // namespace octavo::capture
