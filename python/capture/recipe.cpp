#include "recipe.h"

#include <ATen/core/grad_mode.h>
#include <torch/csrc/autograd/python_variable.h>
#include <torch/csrc/utils/tensor_numpy.h>

#include <unordered_map>

#include "generator.h"
#include "python_types.h"

namespace octavo::capture {
namespace {

class Builder {
 public:
  Builder(Tracer& tracer, Trace& trace) : tracer_(tracer), trace_(trace) {}

  int place(const V& given) {
    if (given->kind == Kind::lazy && !given->source) return place(tracer_.look(given));
    if (given->source && given->kind != Kind::constant) return from_source(*given);
    const V value = given->kind == Kind::lazy ? tracer_.look(given) : given;
    if (const auto known = places_.find(value.get()); known != places_.end()) return known->second;
    const int made = make(value);
    places_[value.get()] = made;
    placed_.push_back(value);
    return made;
  }

  int emit(Step::Op op, std::vector<int> args = {}, Ref object = {}, int index = 0) {
    Step step{op, registers_++, index, std::move(object), std::move(args), nullptr};
    steps_.push_back(std::move(step));
    return registers_ - 1;
  }
  void effect(Step::Op op, int into, std::vector<int> args = {}, Ref object = {}, int index = 0) {
    effects_.push_back({op, into, index, std::move(object), std::move(args), nullptr});
  }
  void fill(Step::Op op, int into, std::vector<int> args, Ref object = {}) {
    steps_.push_back({op, into, 0, std::move(object), std::move(args), nullptr});
  }

  std::vector<int> place_all(const std::vector<V>& values) {
    std::vector<int> all;
    for (const V& value : values) all.push_back(place(value));
    return all;
  }

  Recipe finish() {
    Recipe recipe;
    recipe.steps = std::move(steps_);
    for (std::vector<Step>* more : {&effects_, &states_})
      recipe.steps.insert(recipe.steps.end(), std::make_move_iterator(more->begin()),
                          std::make_move_iterator(more->end()));
    recipe.registers = registers_;
    return recipe;
  }

 private:
  [[noreturn]] void cannot(const V& value, Reason reason = Reason::not_rebuilt) {
    give_up(reason, tracer_.describe(value), std::max(0, value->born - 1));
  }

  int from_source(const Value& value) {
    Source* source = value.source;
    if (source->kind == SourceKind::fixed) return constant(source->key);
    if (const auto known = by_source_.find(source->id); known != by_source_.end())
      return known->second;
    source->wanted = true;
    return by_source_[source->id] = emit(Step::Op::source, {}, {}, source->id);
  }

  int constant(const Ref& object) {
    if (const auto known = constants_.find(object.get()); known != constants_.end())
      return known->second;
    return constants_[object.get()] = emit(Step::Op::constant, {}, object);
  }

  int output(Node* node, const V& value) {
    if (!node) cannot(value);
    for (size_t n = 0; n < trace_.graph.outputs.size(); ++n)
      if (trace_.graph.outputs[n] == node)
        return emit(Step::Op::output, {}, {}, static_cast<int>(n));
    trace_.graph.outputs.push_back(node);
    return emit(Step::Op::output, {}, {}, static_cast<int>(trace_.graph.outputs.size()) - 1);
  }

  int make(const V& value) {
    switch (value->kind) {
      case Kind::constant:
        return constant(value->object);
      case Kind::object:
        if (const Ref fixed = tracer_.python_constant(value)) return constant(fixed);
        cannot(value);
      case Kind::symbol: {
        const int made = emit(Step::Op::number);
        const Expr& expr = steps_.back().expr = static_cast<Symbol&>(*value).expr;
        // It has a value: no division by zero, and 64 bits are enough.
        if (expr->op != Expression::Op::symbol)
          trace_.sizes.conditions.push_back({identical, expr, expr, true});
        return made;
      }
      case Kind::tensor:
        return output(static_cast<Tensor&>(*value).node, value);
      case Kind::array: {
        const auto& array = static_cast<Array&>(*value);
        const int tensor = output(array.tensor->node, value);
        return emit(Step::Op::array, {tensor}, {}, array.scalar ? 2 : array.writable ? 0 : 1);
      }
      case Kind::sequence:
        return make_sequence(value);
      case Kind::dict:
        return make_dict(value);
      case Kind::slice: {
        const auto& slice = static_cast<Slice&>(*value);
        return emit(Step::Op::slice, place_all({slice.start, slice.stop, slice.step}));
      }
      case Kind::cell: {
        const int cell = places_[value.get()] = emit(Step::Op::cell);
        const V content = static_cast<Cell&>(*value).content;
        if (content) fill(Step::Op::fill_cell, cell, {place(content)});
        return cell;
      }
      case Kind::function:
        return make_function(value);
      case Kind::method: {
        const auto& method = static_cast<Method&>(*value);
        const V self = tracer_.real(method.self), function = tracer_.real(method.function);
        // A C method is bound by looking it up.
        if (function->kind == Kind::constant)
          return emit(Step::Op::call, {place(self), place(function)}, getattr());
        if (function->kind == Kind::object && Py_TYPE(function->object.get())->tp_descr_get &&
            !PyFunction_Check(function->object.get()))
          return emit(Step::Op::bind, {place(self)}, function->object);
        return emit(Step::Op::method, place_all({method.function, method.self}));
      }
      case Kind::iterator:
        return make_iterator(value);
      case Kind::instance:
        return make_instance(value);
      case Kind::view: {
        const auto& view = static_cast<View&>(*value);
        static constexpr const char* names[] = {"keys", "values", "items"};
        const Ref name = interned(names[static_cast<size_t>(view.what)]);
        const int bound = emit(Step::Op::call, {place(view.dict), constant(name)}, getattr());
        return emit(Step::Op::call, {bound}, caller());
      }
      default:
        cannot(value);
    }
  }

  static Ref getattr() { return Ref::borrow(well_known("builtins", "getattr")); }
  static Ref caller() { return Ref::borrow(well_known("operator", "call")); }

  int make_sequence(const V& value) {
    auto& sequence = static_cast<Sequence&>(*value);
    if (sequence.is_deque()) {
      const int most = place(sequence.most);
      const int empty = emit(Step::Op::tuple);
      const Ref type = Ref::borrow(reinterpret_cast<PyObject*>(deque_type()));
      const int deque = places_[value.get()] = emit(Step::Op::call, {empty, most}, type);
      fill(Step::Op::fill_deque, deque, place_all(sequence.items));
      return deque;
    }
    if (sequence.is_list()) {
      if (sequence.type != &PyList_Type) cannot(value);
      const int list = places_[value.get()] = emit(Step::Op::list);
      std::vector<int> items = place_all(sequence.items);
      if (!items.empty()) fill(Step::Op::fill_list, list, std::move(items));
      return list;
    }
    if (const Ref constant_tuple =
            sequence.type == &PyTuple_Type && value->object ? value->object : Ref())
      return constant(constant_tuple);
    Ref type;
    if (sequence.type != &PyTuple_Type)
      type = Ref::borrow(reinterpret_cast<PyObject*>(sequence.type));
    return emit(Step::Op::tuple, place_all(sequence.items), type);
  }

  int make_dict(const V& value) {
    auto& dict = static_cast<Dict&>(*value);
    if (const auto owner = dict.owner.lock())
      return emit(Step::Op::call, {place(owner), constant(interned("__dict__"))}, getattr());
    if (dict.type == &PyDictProxy_Type) cannot(value);
    const Ref type = Ref::borrow(reinterpret_cast<PyObject*>(dict.type));
    if (dict.is_set()) {
      std::vector<V> keys;
      for (const auto& [key, none] : dict.items) keys.push_back(key);
      if (keys.size() > 1 && !dict.object && !keeps_order(dict)) cannot(value);
      return emit(Step::Op::set, place_all(keys), type);
    }
    std::vector<int> factory;
    if (dict.factory) factory.push_back(place(dict.factory));
    const int made = places_[value.get()] = emit(Step::Op::dict, factory, type);
    std::vector<int> items;
    for (const auto& [key, item] : dict.items) {
      items.push_back(place(key));
      items.push_back(place(item));
    }
    if (!items.empty()) fill(Step::Op::fill_dict, made, std::move(items));
    return made;
  }

  // Adding the items one by one gives the order that the program's set has.
  bool keeps_order(const Dict& set) {
    const Ref made = Ref::checked(PySet_New(nullptr));
    for (const auto& [key, none] : set.items) {
      const Ref constant = tracer_.python_constant(key);
      if (!constant) return true;  // by addresses, which differ between runs
      check(PySet_Add(made.get(), constant.get()));
    }
    if (!set.table) return false;
    const Ref one = Ref::checked(PySequence_List(made.get())),
              other = Ref::checked(PySequence_List(set.table.get()));
    const int same = PyObject_RichCompareBool(one.get(), other.get(), Py_EQ);
    check(same);
    return same == 1;
  }

  int make_function(const V& value) {
    auto& function = static_cast<Function&>(*value);
    const Ref parts = Ref::checked(
        PyTuple_Pack(3, function.code.get(), function.globals.get(), function.name.get()));
    const int made = places_[value.get()] = emit(Step::Op::function, {}, parts);
    std::vector<int> args(4, -1);
    if (function.defaults) args[0] = place(function.defaults);
    if (function.kwdefaults) args[1] = place(function.kwdefaults);
    if (!function.closure.empty()) args[2] = emit(Step::Op::tuple, place_all(function.closure));
    if (function.annotations) args[3] = place(function.annotations);
    fill(Step::Op::fill_function, made, std::move(args));
    for (const auto& [name, attribute] : function.attributes)
      fill(Step::Op::set_any_attribute, made, {place(attribute)}, name);
    return made;
  }

  int make_instance(const V& value) {
    auto& instance = static_cast<Instance&>(*value);
    const Ref type = Ref::borrow(reinterpret_cast<PyObject*>(instance.type));
    // One that was raised has a traceback and a context, which only Python's own raising gives.
    if (const int at = tracer_.raised_at(value); at >= 0)
      give_up(Reason::exception, tracer_.describe(value), at);
    // Python itself makes the real one.
    if (std::string_view(instance.type->tp_name) == "TransformGetItemToIndex" &&
        type.get() == well_known("octavo.capture.rewritten", "TransformGetItemToIndex"))
      cannot(value);
    int made = 0;
    if (instance.function) {
      made = emit(Step::Op::partial,
                  place_all({instance.function, instance.args, instance.keywords}), type);
      places_[value.get()] = made;
    } else if (instance.args) {
      made = places_[value.get()] = emit(Step::Op::exception, {place(instance.args)}, type);
    } else if (instance.items) {
      made = places_[value.get()] = emit(Step::Op::dict_instance, {}, type);
      std::vector<int> items;
      for (const auto& [key, item] : instance.items->items) {
        items.push_back(place(key));
        items.push_back(place(item));
      }
      if (!items.empty()) fill(Step::Op::fill_dict, made, std::move(items));
    } else {
      made = places_[value.get()] = emit(Step::Op::instance, {}, type);
    }
    for (const auto& [name, attribute] : instance.attributes)
      fill(Step::Op::set_attribute, made, {place(attribute)}, name);
    return made;
  }

  int make_iterator(const V& value) {
    const auto call = [&](const char* name, std::vector<int> args) {
      return emit(Step::Op::call, std::move(args), Ref::borrow(well_known("builtins", name)));
    };
    if (auto* it = dynamic_cast<SequenceIterator*>(value.get())) {
      if (it->exhausted) return emit(Step::Op::iterator, {constant(Ref::checked(PyTuple_New(0)))});
      const bool deque =
          it->sequence->kind == Kind::sequence && static_cast<Sequence&>(*it->sequence).is_deque();
      if (deque && (it->backward || it->position > 0)) cannot(value, Reason::iterator);
      const int position = static_cast<int>(it->position) - (it->backward ? 1 : 0);
      const Ref backward = it->backward ? Ref::borrow(well_known("builtins", "reversed")) : Ref();
      const int made = emit(Step::Op::iterator, {place(it->sequence)}, backward, position);
      // A list that the frame had gets its items after this; the place may lie beyond the old ones.
      if (it->sequence->source && it->sequence->kind == Kind::sequence &&
          static_cast<Sequence&>(*it->sequence).is_list())
        states_.push_back({Step::Op::iterator_state, made, position, {}, {}, nullptr});
      return made;
    }
    if (auto* it = dynamic_cast<DictIterator*>(value.get())) {
      if (it->exhausted) return emit(Step::Op::iterator, {constant(Ref::checked(PyTuple_New(0)))});
      if (it->dict->items.size() != it->size || it->dict->removals != it->removals ||
          (it->dict->source && it->dict->changed))
        cannot(value, Reason::iterator);
      V over = it->dict;
      if (!it->dict->is_set()) {
        auto view = std::make_shared<View>();
        view->dict = it->dict;
        view->what = it->what;
        over = view;
      }
      return emit(Step::Op::iterator, {place(over)}, {}, static_cast<int>(it->position));
    }
    if (auto* it = dynamic_cast<RangeIterator*>(value.get())) {
      const Ref range = Ref::checked(PyObject_CallFunction(
          reinterpret_cast<PyObject*>(&PyRange_Type), "LLL", static_cast<long long>(it->at),
          static_cast<long long>(it->stop), static_cast<long long>(it->step)));
      return call("iter", {constant(range)});
    }
    if (auto* it = dynamic_cast<EnumerateIterator*>(value.get())) {
      const Ref count = Ref::checked(PyLong_FromLongLong(it->count));
      return call("enumerate", {place(it->inner), constant(count)});
    }
    if (auto* it = dynamic_cast<ZipIterator*>(value.get()); it && !it->strict)
      return call("zip", place_all(it->inner));
    if (auto* it = dynamic_cast<MapIterator*>(value.get())) {
      std::vector<int> args = {place(it->function)};
      for (const V& inner : it->inner) args.push_back(place(inner));
      return call("map", std::move(args));
    }
    if (auto* it = dynamic_cast<FilterIterator*>(value.get()))
      return call("filter", {it->function ? place(it->function) : constant(Ref::borrow(Py_None)),
                             place(it->inner)});
    cannot(value, Reason::generator);
  }

  Tracer& tracer_;
  Trace& trace_;
  std::vector<Step> steps_, effects_, states_;
  int registers_ = 0;
  std::unordered_map<const Value*, int> places_;
  std::vector<V> placed_;  // alive, lest another value get the address of one
  std::unordered_map<int, int> by_source_;
  std::unordered_map<PyObject*, int> constants_;
};

// The function may look at its variables by name: none is dead.
bool looks_at_variables(const Code& code) {
  PyObject* names = code.object()->co_names;
  for (Py_ssize_t n = 0; n < PyTuple_GET_SIZE(names); ++n)
    for (const char* name : {"locals", "vars", "dir", "eval", "exec", "_getframe", "currentframe"})
      if (PyUnicode_CompareWithASCIIString(PyTuple_GET_ITEM(names, n), name) == 0) return true;
  return false;
}

}  // namespace

Recipe make_recipe(Tracer& tracer, Trace& trace, const Code& code) {
  Builder builder(tracer, trace);
  int result = -1;
  std::vector<std::pair<int, int>> slots;
  std::vector<int> stack;
  if (trace.ended == Ended::returned) {
    result = builder.place(trace.result);
  } else {
    const bool all = looks_at_variables(code);
    const std::vector<bool>& live = code.live(trace.unit);
    // super() looks at cells, and at the first argument, without an instruction that says so.
    std::vector<bool> held(trace.slots.size(), false);
    const auto* kinds = reinterpret_cast<const unsigned char*>(
        PyBytes_AS_STRING(code.object()->co_localspluskinds));
    for (size_t n = 0; n < held.size(); ++n) held[n] = n == 0 || (kinds[n] & (0x40 | 0x80)) != 0;
    for (size_t n = 0; n < trace.slots.size(); ++n) {
      if (trace.slots[n] == trace.first_slots[n]) continue;
      if (!trace.slots[n])
        slots.emplace_back(static_cast<int>(n), -1);
      else if (all || live[n] || held[n])
        slots.emplace_back(static_cast<int>(n), builder.place(trace.slots[n]));
    }
    for (const V& value : trace.stack)
      stack.push_back(value->kind == Kind::null ? -1 : builder.place(value));
  }
  for (const Write& write : trace.writes) {
    const int into = builder.place(write.object);
    std::vector<int> args;
    if (write.value) args.push_back(builder.place(write.value));
    const Step::Op op = write.kind == Write::Kind::attribute   ? Step::Op::set_attribute
                        : write.kind == Write::Kind::dict_item ? Step::Op::set_item
                                                               : Step::Op::set_grad;
    builder.effect(op, into, std::move(args), write.key);
  }
  for (const V& value : trace.changed) {
    if (!value->source) continue;
    const int into = builder.place(value);
    if (value->kind == Kind::sequence) {
      const bool deque = static_cast<Sequence&>(*value).is_deque();
      builder.effect(deque ? Step::Op::fill_deque : Step::Op::fill_list, into,
                     builder.place_all(static_cast<Sequence&>(*value).items));
    } else if (value->kind == Kind::cell) {
      const V& content = static_cast<Cell&>(*value).content;
      builder.effect(Step::Op::fill_cell, into,
                     content ? builder.place_all({content}) : std::vector<int>());
    } else if (value->kind == Kind::dict) {
      const auto& dict = static_cast<Dict&>(*value);
      std::vector<int> items;
      for (const auto& [key, item] : dict.items) {
        items.push_back(builder.place(key));
        if (!dict.is_set()) items.push_back(builder.place(item));
      }
      builder.effect(dict.is_set() ? Step::Op::fill_set : Step::Op::fill_dict, into,
                     std::move(items));
    }
  }
  if (trace.changed_grad)
    builder.effect(Step::Op::grad_mode, -1, {}, {}, trace.grad_enabled ? 1 : 0);
  Recipe recipe = builder.finish();
  recipe.result = result;
  recipe.slots = std::move(slots);
  recipe.stack = std::move(stack);
  return recipe;
}

}  // namespace octavo::capture
