// Python's operators on values.
#include <fmt/format.h>

#include "generator.h"
#include "python_types.h"
#include "tracer.h"

namespace octavo::capture {
namespace {

struct Operator {
  const char* function;  // in module operator
  const char* method;
  const char* reflected;
};

// By BINARY_OP's argument; 13 more are the in-place forms.
constexpr Operator operators[] = {
    {"add", "__add__", "__radd__"},
    {"and_", "__and__", "__rand__"},
    {"floordiv", "__floordiv__", "__rfloordiv__"},
    {"lshift", "__lshift__", "__rlshift__"},
    {"matmul", "__matmul__", "__rmatmul__"},
    {"mul", "__mul__", "__rmul__"},
    {"mod", "__mod__", "__rmod__"},
    {"or_", "__or__", "__ror__"},
    {"pow", "__pow__", "__rpow__"},
    {"rshift", "__rshift__", "__rrshift__"},
    {"sub", "__sub__", "__rsub__"},
    {"truediv", "__truediv__", "__rtruediv__"},
    {"xor", "__xor__", "__rxor__"},
};
constexpr const char* in_place[] = {"iadd", "iand",     "ifloordiv", "ilshift", "imatmul",
                                    "imul", "imod",     "ior",       "ipow",    "irshift",
                                    "isub", "itruediv", "ixor"};
constexpr const char* in_place_methods[] = {
    "__iadd__", "__iand__", "__ifloordiv__", "__ilshift__", "__imatmul__",  "__imul__", "__imod__",
    "__ior__",  "__ipow__", "__irshift__",   "__isub__",    "__itruediv__", "__ixor__"};

constexpr const char* comparisons[] = {"lt", "le", "eq", "ne", "gt", "ge"};
constexpr const char* comparison_methods[] = {"__lt__", "__le__", "__eq__",
                                              "__ne__", "__gt__", "__ge__"};
constexpr int mirrored[] = {4, 5, 2, 3, 0, 1};

bool is_container(const V& value) {
  return value->kind == Kind::sequence || value->kind == Kind::dict;
}

}  // namespace

V Tracer::unary(Op op, const V& given) {
  if (op == Op::UNARY_NOT) return boolean(!truth(given));
  if (is_symbol(given)) {
    if (op == Op::UNARY_POSITIVE) return given;
    if (op == Op::UNARY_NEGATIVE)
      if (V made = symbol_arithmetic(Expression::Op::negative, given, nullptr)) return made;
  }
  const V operand = real(given);
  const char* name = op == Op::UNARY_NEGATIVE ? "neg" : op == Op::UNARY_POSITIVE ? "pos" : "invert";
  PyObject* function = well_known("operator", name);
  if (operand->kind == Kind::tensor)
    return call_tensor_function(constant(function), {{operand}, {}});
  if (operand->kind == Kind::array) return call_array("operator", name, {{operand}, {}});
  if (V folded = fold(function, {{operand}, {}})) return folded;
  const std::string method = fmt::format("__{}__", name);
  if (operand->kind == Kind::instance || operand->kind == Kind::object)
    return call(special(operand, method.c_str()), {});
  give_up(Reason::unknown_object, fmt::format("{} of {}", name, describe(operand)));
}

V Tracer::binary(int operation, const V& left, const V& right) {
  if (is_symbol(left) || is_symbol(right)) {
    if (V made = symbol_binary(operation, left, right)) return made;
    const V x = look(left), y = look(right);
    const int plain = operation % 13;
    const bool first = x->kind == Kind::tensor;
    if (first || y->kind == Kind::tensor) {
      const char* name = first && operation >= 13 ? in_place[plain] : operators[plain].function;
      return call_tensor_function(constant(well_known("operator", name)), {{x, y}, {}});
    }
  }
  const V a = as_set(left), b = as_set(right);
  const bool changes = operation >= 13;
  const int base = changes ? operation - 13 : operation;
  PyObject* function = well_known("operator", changes ? in_place[base] : operators[base].function);
  const bool grows =
      changes && base == 0 && a->kind == Kind::sequence && static_cast<Sequence&>(*a).is_list();
  if ((a->kind == Kind::array || b->kind == Kind::array) && !grows) {
    const bool written = changes && a->kind == Kind::array && !static_cast<Array&>(*a).scalar;
    return call_array("operator", written ? in_place[base] : operators[base].function,
                      {{a, b}, {}});
  }
  if ((a->kind == Kind::tensor || b->kind == Kind::tensor) && !grows) {
    if (a->kind != Kind::tensor) function = well_known("operator", operators[base].function);
    return call_tensor_function(constant(function), {{a, b}, {}});
  }
  const auto is_deque = [](const V& value) {
    return value->kind == Kind::sequence && static_cast<Sequence&>(*value).is_deque();
  };
  if (is_deque(a) && changes && base == 0) {
    call_method(a, "extend", {b});
    return a;
  }
  if (is_deque(a) || is_deque(b)) give_up(Reason::unknown_object, "an operator of a deque");
  if (a->kind == Kind::sequence) {
    auto& first = static_cast<Sequence&>(*a);
    if (base == 0 && b->kind == Kind::sequence &&
        (first.is_list() == static_cast<Sequence&>(*b).is_list() || changes)) {
      const auto& second = static_cast<Sequence&>(*b).items;
      if (changes && first.is_list()) {
        const std::vector<V> more = second;
        first.items.insert(first.items.end(), more.begin(), more.end());
        changed(a);
        return a;
      }
      if (first.is_list() != static_cast<Sequence&>(*b).is_list())
        give_up(Reason::wrong_call, "adding a list and a tuple");
      std::vector<V> items = first.items;
      items.insert(items.end(), second.begin(), second.end());
      PyTypeObject* type = first.is_list() ? &PyList_Type : &PyTuple_Type;
      for (const Sequence* one : {&first, static_cast<Sequence*>(b.get())})
        if (object_size_type(one->type) != &PyTuple_Type) type = one->type;
      // What is added to a torch.Size must be ints.
      if (object_size_type(type) != &PyTuple_Type)
        for (const V& item : items)
          if (!PyType_IsSubtype(type_of(item), &PyLong_Type))
            give_up(Reason::wrong_call, "a torch.Size of what is not an int");
      return sequence(type, std::move(items));
    }
    if (base == 0 && changes && first.is_list()) {
      call_method(a, "extend", {b});
      return a;
    }
  }
  if (base == 5 && (a->kind == Kind::sequence || b->kind == Kind::sequence)) {
    const V& many = a->kind == Kind::sequence ? a : b;
    const V& times = a->kind == Kind::sequence ? b : a;
    if (times->kind == Kind::constant && PyLong_Check(times->object.get())) {
      auto& source = static_cast<Sequence&>(*many);
      const int64_t count = index(times);
      std::vector<V> items;
      if (count > 100000) give_up(Reason::too_long, "repeating a sequence");
      for (int64_t n = 0; n < count; ++n)
        items.insert(items.end(), source.items.begin(), source.items.end());
      if (changes && source.is_list() && many == a) {
        source.items = std::move(items);
        changed(a);
        return a;
      }
      return sequence(source.is_list() ? &PyList_Type : object_size_type(source.type),
                      std::move(items));
    }
  }
  if (a->kind == Kind::dict && b->kind == Kind::dict) {
    const auto first = std::static_pointer_cast<Dict>(a);
    const auto second = std::static_pointer_cast<Dict>(b);
    const bool sets = first->is_set() && second->is_set();
    // The smaller set's own items, of equal ones.
    const auto in_both = [&](Dict& one, Dict& other) {
      const bool swapped = other.items.size() > one.items.size();
      std::vector<std::pair<V, V>> items;
      for (const auto& item : std::vector((swapped ? one : other).items))
        if (dict_find(swapped ? other : one, item.first)) items.push_back(item);
      return items;
    };
    const auto combined = [&](bool in_place) {
      const Ref one = table_of(*first), other = table_of(*second);
      if (!one || !other) return Ref();
      // What the frame has stays as it is.
      return Ref::checked(PyObject_CallFunctionObjArgs(
          in_place && !first->object ? function : well_known("operator", operators[base].function),
          one.get(), other.get(), nullptr));
    };
    if (changes && first->type != &PyFrozenSet_Type &&
        (base == 7 || (sets && (base == 1 || base == 10 || base == 12)))) {
      // Python makes another hash table, which filling this set would not give.
      if (first->object && (base == 1 || base == 12))
        give_up(Reason::side_effect, "an operator that changes a set in place");
      const Ref table = sets ? combined(true) : Ref();
      first->table = Ref();
      if (base == 1) {
        first->items = in_both(*first, *second);
        ++first->removals;
        changed(first);
      } else {
        for (const auto& [key, value] : std::vector(second->items)) {
          if (base == 10 || (base == 12 && dict_find(*first, key)))
            dict_remove(first, key);
          else
            dict_set(first, key, value);
        }
      }
      first->table = table;
      return a;
    }
    if (sets && (base == 1 || base == 7 || base == 10 || base == 12)) {
      auto made = make<Dict>();
      made->type = first->type;
      if (base == 1) made->items = in_both(*first, *second);
      for (const auto& [key, none] : first->items)
        if (base == 7 || (base != 1 && !dict_find(*second, key))) dict_set(made, key, nullptr);
      if (base == 7 || base == 12)
        for (const auto& [key, none] : second->items)
          if (base == 7 || !dict_find(*first, key)) dict_set(made, key, nullptr);
      made->table = combined(false);
      return made;
    }
    if (!first->is_set() && !second->is_set() && base == 7) {
      auto made = make<Dict>();
      made->type = first->type;
      made->factory = first->factory;
      for (const auto& [key, value] : first->items) dict_set(made, key, value);
      for (const auto& [key, value] : second->items) dict_set(made, key, value);
      return made;
    }
  }
  if (V folded = fold(function, {{a, b}, {}})) return folded;
  if (base == 6 && a->kind == Kind::constant && PyUnicode_Check(a->object.get()))
    give_up(Reason::unknown_object, "% formatting of " + describe(b));

  const auto user = [&](const V& value) {
    return value->kind == Kind::instance || value->kind == Kind::object;
  };
  const auto attempt = [&](const V& self, const char* method, const V& other) -> V {
    if (!user(self)) return nullptr;
    const Ref name = interned(method);
    PyObject* found = lookup(type_of(self), name.get());
    if (!found) return nullptr;
    if (!PyFunction_Check(found))
      give_up(Reason::unknown_object, fmt::format("{} of {}", method, describe(self)));
    V result = call(class_attribute(self, type_of(self), name.get(), found, self), {{other}, {}});
    return real(result)->object.get() == Py_NotImplemented ? nullptr : result;
  };
  if (changes)
    if (V result = attempt(a, in_place_methods[base], b)) return result;
  if (user(a) && user(b) && type_of(a) != type_of(b) && PyType_IsSubtype(type_of(b), type_of(a)))
    if (V result = attempt(b, operators[base].reflected, a)) return result;
  if (V result = attempt(a, operators[base].method, b)) return result;
  if (V result = attempt(b, operators[base].reflected, a)) return result;
  give_up(Reason::unknown_object, fmt::format("operator {} of {} and {}", operators[base].function,
                                              describe(a), describe(b)));
}

bool Tracer::equal(const V& left, const V& right) {
  if (is_symbol(left) || is_symbol(right)) return truth(compare(2, left, right));
  if (same_object(left, right)) return true;  // NaN too: containers look at identity first
  const V a = real(left), b = real(right);
  if (a->kind == Kind::tensor || b->kind == Kind::tensor)
    give_up(Reason::data_dependent, "comparing tensors in a container");
  return truth(compare(2, a, b));
}

// keys() and items() compare and combine as sets do.
V Tracer::as_set(const V& given) {
  const V value = real(given);
  if (value->kind != Kind::view || static_cast<View&>(*value).what == View::What::values)
    return value;
  auto set = make<Dict>();
  set->type = &PySet_Type;
  Ref table;
  if (static_cast<View&>(*value).what == View::What::keys)
    if (const Ref keys = table_of(*static_cast<View&>(*value).dict))
      table = Ref::checked(PyObject_CallMethod(keys.get(), "keys", nullptr));
  for (const V& item : items_of(value)) {
    // A view of items finds those that cannot be hashed too.
    const V held = static_cast<View&>(*value).what == View::What::items
                       ? real(static_cast<Sequence&>(*item).items[1])
                       : none();
    if ((held->kind == Kind::sequence && static_cast<Sequence&>(*held).is_list()) ||
        held->kind == Kind::dict)
      give_up(Reason::unknown_object, "items() of lists and dicts as a set");
    dict_set(set, item, nullptr);
  }
  set->table = table;
  return set;
}

V Tracer::compare(int operation, const V& left, const V& right) {
  if (is_symbol(left) || is_symbol(right)) {
    if (V answer = symbol_compare(operation, left, right)) return answer;
    const V x = look(left), y = look(right);
    if (x->kind == Kind::tensor || y->kind == Kind::tensor)
      return call_tensor_function(constant(well_known("operator", comparisons[operation])),
                                  {{x, y}, {}});
  }
  const V a = as_set(left), b = as_set(right);
  PyObject* function = well_known("operator", comparisons[operation]);
  if (a->kind == Kind::array || b->kind == Kind::array)
    return call_array("operator", comparisons[operation], {{a, b}, {}});
  if (a->kind == Kind::tensor || b->kind == Kind::tensor) {
    const bool is_none_side = a->object.get() == Py_None || b->object.get() == Py_None;
    if (is_none_side && (operation == 2 || operation == 3)) return boolean(operation == 3);
    if (is_container(a) || is_container(b)) give_up(Reason::data_dependent, "comparing a tensor");
    return call_tensor_function(constant(function), {{a, b}, {}});
  }
  if (a->kind == Kind::sequence && b->kind == Kind::sequence) {
    const auto &first = static_cast<Sequence&>(*a).items,
               &second = static_cast<Sequence&>(*b).items;
    const bool same_kind =
        static_cast<Sequence&>(*a).is_list() == static_cast<Sequence&>(*b).is_list() &&
        static_cast<Sequence&>(*a).is_deque() == static_cast<Sequence&>(*b).is_deque();
    if (!same_kind) {
      if (operation == 2 || operation == 3) return boolean(operation == 3);
      give_up(Reason::wrong_call, "ordering a list and a tuple");
    }
    for (size_t n = 0; n < first.size() && n < second.size(); ++n)
      if (!equal(first[n], second[n])) {
        if (operation == 2 || operation == 3) return boolean(operation == 3);
        return compare(operation, first[n], second[n]);
      }
    return fold(function, {{integer(static_cast<int64_t>(first.size())),
                            integer(static_cast<int64_t>(second.size()))},
                           {}});
  }
  if (a->kind == Kind::dict && b->kind == Kind::dict) {
    auto &first = static_cast<Dict&>(*a), &second = static_cast<Dict&>(*b);
    if (first.is_set() != second.is_set()) {
      if (operation == 2 || operation == 3) return boolean(operation == 3);
      give_up(Reason::wrong_call, "ordering a set and a dict");
    }
    const auto inside = [&](Dict& small, Dict& large) {
      for (const auto& [key, value] : small.items) {
        const std::pair<V, V>* found = dict_find(large, key);
        if (!found || (value && !equal(value, found->second))) return false;
      }
      return true;
    };
    const size_t n = first.items.size(), m = second.items.size();
    if (first.type == &PyODict_Type && second.type == &PyODict_Type && operation < 4 &&
        operation >= 2 && n == m) {
      // Two of them compare their order too.
      bool alike = true;
      for (size_t k = 0; k < n && alike; ++k)
        alike = equal(first.items[k].first, second.items[k].first) &&
                equal(first.items[k].second, second.items[k].second);
      return boolean(alike == (operation == 2));
    }
    switch (operation) {
      case 2:
        return boolean(n == m && inside(first, second));
      case 3:
        return boolean(!(n == m && inside(first, second)));
      default:
        break;
    }
    if (!first.is_set()) give_up(Reason::wrong_call, "ordering dicts");
    if (operation == 0) return boolean(n < m && inside(first, second));
    if (operation == 1) return boolean(n <= m && inside(first, second));
    if (operation == 4) return boolean(n > m && inside(second, first));
    return boolean(n >= m && inside(second, first));
  }
  if (V folded = fold(function, {{a, b}, {}})) return folded;
  const auto attempt = [&](const V& self, int op, const V& other) -> V {
    if (self->kind != Kind::instance && self->kind != Kind::object) return nullptr;
    if (self->kind == Kind::object && PyType_Check(self->object.get())) return nullptr;
    const Ref name = interned(comparison_methods[op]);
    PyObject* found = lookup(type_of(self), name.get());
    if (!found || !PyFunction_Check(found)) {
      if (found && Py_TYPE(found) == &PyWrapperDescr_Type &&
          found != _PyType_Lookup(&PyBaseObject_Type, name.get()))
        give_up(Reason::unknown_object,
                fmt::format("{} of {}", comparison_methods[op], describe(self)));
      // __ne__ of a class with __eq__ alone.
      if (op == 3) {
        const Ref eq = interned("__eq__");
        PyObject* other_found = lookup(type_of(self), eq.get());
        if (other_found && PyFunction_Check(other_found)) {
          V result = call(class_attribute(self, type_of(self), eq.get(), other_found, self),
                          {{other}, {}});
          if (real(result)->object.get() != Py_NotImplemented) return boolean(!truth(result));
        }
      }
      return nullptr;
    }
    V result = call(class_attribute(self, type_of(self), name.get(), found, self), {{other}, {}});
    return real(result)->object.get() == Py_NotImplemented ? nullptr : result;
  };
  if (V result = attempt(a, operation, b)) return result;
  if (V result = attempt(b, mirrored[operation], a)) return result;
  if (operation == 2) return boolean(same_object(a, b));
  if (operation == 3) return boolean(!same_object(a, b));
  give_up(Reason::wrong_call,
          fmt::format("{} of {} and {}", comparisons[operation], describe(a), describe(b)));
}

// str() or repr() of an exception that the trace made, where its class leaves that to Python; null
// elsewhere.
V Tracer::format_exception(const V& value, bool repr) {
  PyTypeObject* own = type_of(value);
  V given;
  if (value->kind == Kind::instance && !static_cast<Instance&>(*value).function)
    given = static_cast<Instance&>(*value).args;
  else if (value->kind == Kind::object && PyExceptionInstance_Check(value->object.get()))
    given = attribute(value, interned("args").get());
  if (!given) return nullptr;
  const Ref name = interned(repr ? "__repr__" : "__str__");
  PyObject* found = lookup(own, name.get());
  if (!found || Py_TYPE(found) != &PyWrapperDescr_Type) return nullptr;
  needs_words(value);
  auto* owner = reinterpret_cast<PyObject*>(reinterpret_cast<PyDescrObject*>(found)->d_type);
  const Ref args = python_constant(given);
  if (!args || (owner != PyExc_BaseException && owner != PyExc_KeyError)) return nullptr;
  const Py_ssize_t count = PyTuple_GET_SIZE(args.get());
  if (count == 0 && !repr) return string("");
  PyObject* shown = count == 1 ? PyTuple_GET_ITEM(args.get(), 0) : args.get();
  const bool quoted = repr || count > 1 || owner == PyExc_KeyError;
  const Ref text = Ref::steal(quoted ? PyObject_Repr(shown) : PyObject_Str(shown));
  if (!text) raise_python_error();
  if (!repr) return constant(text);
  const std::string type =
      utf8(octavo::capture::attribute(reinterpret_cast<PyObject*>(own), "__name__").get());
  return string(count == 1 ? type + "(" + utf8(text.get()) + ")" : type + utf8(text.get()));
}

V Tracer::format(const V& given, const V& spec, int conversion) {
  const V value = real(given);
  if ((value->kind == Kind::instance || value->kind == Kind::object) && conversion == 0) {
    const Ref name = interned("__format__");
    PyObject* found = lookup(type_of(value), name.get());
    if (found && PyFunction_Check(found))
      return call(class_attribute(value, type_of(value), name.get(), found, value),
                  {{spec ? spec : string("")}, {}});
  }
  const bool made = value->kind == Kind::instance || value->kind == Kind::object;
  if (made && conversion != 3 && (!spec || !truth(spec)))
    if (V shown = format_exception(value, conversion == 2)) return shown;
  const Ref constant_value = python_constant(value);
  if (!constant_value) {
    if (value->kind == Kind::instance || value->kind == Kind::object) {
      const char* method = conversion == 2 || conversion == 3 ? "__repr__" : "__str__";
      const Ref name = interned(method);
      PyObject* found = lookup(type_of(value), name.get());
      if (found && PyFunction_Check(found) && (!spec || !truth(spec)))
        return call(class_attribute(value, type_of(value), name.get(), found, value), {});
    }
    const bool values = value->kind == Kind::tensor || value->kind == Kind::array;
    give_up(values ? Reason::tensor_to_python : Reason::unknown_object,
            "formatting " + describe(value));
  }
  if (value->kind == Kind::object) give_up(Reason::unknown_object, "formatting " + describe(value));
  Ref text = constant_value;
  if (conversion == 1) text = Ref::steal(PyObject_Str(text.get()));
  if (conversion == 2) text = Ref::steal(PyObject_Repr(text.get()));
  if (conversion == 3) text = Ref::steal(PyObject_ASCII(text.get()));
  if (!text) raise_python_error();
  const Ref format = spec ? python_constant(spec) : Ref();
  Ref result = Ref::steal(PyObject_Format(text.get(), format.get()));
  if (!result) raise_python_error();
  return constant(result);
}

}  // namespace octavo::capture
