// functools, collections, typing, operator and math, on values.
#include "call_table.h"
#include "deque.h"
#include "generator.h"
#include "python_types.h"

namespace octavo::capture {
namespace {

V update_wrapper(Tracer& tracer, Call& call) {
  V wrapper = keyword(call, "wrapper"), wrapped = keyword(call, "wrapped");
  if (!call.args.empty()) wrapper = call.args[0];
  if (call.args.size() > 1) wrapped = call.args[1];
  if (!wrapper || !wrapped) give_up(Reason::unknown_call, "functools.update_wrapper");
  wrapper = tracer.real(wrapper);
  for (const char* name : {"__module__", "__name__", "__qualname__", "__doc__"}) {
    const Ref key = interned(name);
    if (const V value = tracer.attribute_or_null(wrapped, key.get()))
      tracer.set_attribute(wrapper, key.get(), value);
  }
  tracer.set_attribute(wrapper, interned("__wrapped__").get(), wrapped);
  return wrapper;
}

V reduce(Tracer& tracer, Call& call) {
  const V items = tracer.iterate(call.args.at(1));
  V total = call.args.size() > 2 ? call.args[2] : next_or_null(tracer, items);
  if (!total) tracer.raise(PyExc_TypeError, "reduce() of empty iterable with no initial value");
  while (const V item = next_or_null(tracer, items))
    total = tracer.call(call.args[0], {{total, item}, {}});
  return total;
}

V partial(Tracer& tracer, Call& call) {
  if (call.args.empty())
    tracer.raise(PyExc_TypeError, "type 'partial' takes at least one argument");
  auto made = tracer.make<Instance>();
  made->type = partial_type();
  made->function = call.args[0];
  made->args = tracer.tuple({call.args.begin() + 1, call.args.end()});
  Call keywords;
  keywords.keywords = call.keywords;
  made->keywords = make_dict(tracer, &PyDict_Type, keywords);
  return made;
}

}  // namespace

void add_library(CallTable& table) {
  const auto on = [&](const char* module, const char* name,
                      std::function<V(Tracer&, Call&)> handler) {
    table.handlers[well_known(module, name)] = std::move(handler);
  };
  on("functools", "reduce", reduce);
  on("functools", "partial", partial);
  on("functools", "update_wrapper", update_wrapper);
  on("collections", "OrderedDict",
     [](Tracer& t, Call& c) { return make_dict(t, &PyODict_Type, c); });
  on("collections", "defaultdict",
     [](Tracer& t, Call& c) { return make_dict(t, default_dict_type(), c); });
  on("collections", "deque", make_deque);
  on("collections", "_count_elements", [](Tracer& t, Call& c) {
    const V self = t.real(c.args.at(0));
    const bool plain =
        self->kind == Kind::dict ||
        (self->kind == Kind::instance && static_cast<Instance&>(*self).items &&
         t.stored(self, "get")->kind == Kind::dict && t.stored(self, "__setitem__") != self);
    if (!plain) give_up(Reason::unknown_call, "counting into " + t.describe(self));
    const auto counts = std::static_pointer_cast<Dict>(
        self->kind == Kind::dict ? self : V(static_cast<Instance&>(*self).items));
    for (const V& item : t.items_of(c.args.at(1))) {
      const V before = t.dict_get(*counts, item);
      t.dict_set(counts, item, before ? t.binary(0, before, t.integer(1)) : t.integer(1));
    }
    return t.none();
  });
  on("typing", "cast", [](Tracer&, Call& c) { return c.args.at(1); });

  // The functions of module operator are the operators.
  static constexpr std::pair<const char*, int> binary[] = {
      {"add", 0},        {"and_", 1},     {"floordiv", 2}, {"lshift", 3}, {"matmul", 4},
      {"mul", 5},        {"mod", 6},      {"or_", 7},      {"pow", 8},    {"rshift", 9},
      {"sub", 10},       {"truediv", 11}, {"xor", 12},     {"iadd", 13},  {"iand", 14},
      {"ifloordiv", 15}, {"ilshift", 16}, {"imatmul", 17}, {"imul", 18},  {"imod", 19},
      {"ior", 20},       {"ipow", 21},    {"irshift", 22}, {"isub", 23},  {"itruediv", 24},
      {"ixor", 25}};
  for (const auto& [name, operation] : binary) {
    on("operator", name, [operation = operation](Tracer& t, Call& c) {
      expect(t, c, "operator", 2, 2);
      return t.binary(operation, c.args[0], c.args[1]);
    });
    table.pure.insert(well_known("operator", name));
  }
  static constexpr std::pair<const char*, int> compares[] = {{"lt", 0}, {"le", 1}, {"eq", 2},
                                                             {"ne", 3}, {"gt", 4}, {"ge", 5}};
  for (const auto& [name, operation] : compares) {
    on("operator", name, [operation = operation](Tracer& t, Call& c) {
      expect(t, c, "operator", 2, 2);
      return t.compare(operation, c.args[0], c.args[1]);
    });
    table.pure.insert(well_known("operator", name));
  }
  on("operator", "getitem",
     [](Tracer& t, Call& c) { return t.subscript(c.args.at(0), c.args.at(1)); });
  on("operator", "setitem", [](Tracer& t, Call& c) {
    t.set_subscript(c.args.at(0), c.args.at(1), c.args.at(2));
    return t.none();
  });
  on("operator", "not_", [](Tracer& t, Call& c) { return t.boolean(!t.truth(c.args.at(0))); });
  on("operator", "truth", [](Tracer& t, Call& c) { return t.boolean(t.truth(c.args.at(0))); });
  on("operator", "is_",
     [](Tracer& t, Call& c) { return t.boolean(t.same_object(c.args.at(0), c.args.at(1))); });
  on("operator", "contains",
     [](Tracer& t, Call& c) { return t.boolean(t.contains(c.args.at(0), c.args.at(1))); });
  on("operator", "neg",
     [](Tracer& t, Call& c) { return t.unary(Op::UNARY_NEGATIVE, c.args.at(0)); });
  on("operator", "pos",
     [](Tracer& t, Call& c) { return t.unary(Op::UNARY_POSITIVE, c.args.at(0)); });
  on("operator", "invert",
     [](Tracer& t, Call& c) { return t.unary(Op::UNARY_INVERT, c.args.at(0)); });
  on("operator", "index", [](Tracer& t, Call& c) { return t.integer(t.index(c.args.at(0))); });
  for (const char* name : {"neg", "pos", "invert", "abs", "getitem", "contains", "index"})
    table.pure.insert(well_known("operator", name));
  const Ref math = import("math");
  PyObject *key = nullptr, *value = nullptr;
  Py_ssize_t position = 0;
  PyObject* names = PyModule_GetDict(math.get());
  while (PyDict_Next(names, &position, &key, &value))
    if (PyCFunction_Check(value)) table.pure.insert(value);
}

}  // namespace octavo::capture
