// itertools, and the getters of module operator.
#include "call_table.h"
#include "generator.h"
#include "python_types.h"

namespace octavo::capture {
namespace {

constexpr size_t most_rows = 100000;

V stepping(Tracer& tracer, std::function<V(Tracer&)> step) {
  auto made = tracer.make<FunctionIterator>();
  made->step = std::move(step);
  return made;
}

// Of the positions 0 to n-1, the choices of `size` that `keeps` allows, in itertools' order.
V choices(Tracer& tracer, Call& call, bool repeats, bool ordered) {
  const std::vector<V> pool = tracer.items_of(call.args.at(0));
  V given = call.args.size() > 1 ? call.args[1] : keyword(call, "r");
  const bool whole = !given || tracer.is_none(given);
  if (whole && !ordered) give_up(Reason::wrong_call, "itertools");
  const int64_t size = whole ? static_cast<int64_t>(pool.size()) : tracer.index(given);
  if (size < 0) tracer.raise(PyExc_ValueError, "r must be non-negative");
  std::vector<V> rows;
  std::vector<size_t> chosen;
  const std::function<void()> extend = [&]() {
    if (chosen.size() == static_cast<size_t>(size)) {
      std::vector<V> row;
      for (const size_t n : chosen) row.push_back(pool[n]);
      rows.push_back(tracer.tuple(std::move(row)));
      if (rows.size() > most_rows) give_up(Reason::too_long, "itertools");
      return;
    }
    const size_t first = ordered || chosen.empty() ? 0 : chosen.back() + (repeats ? 0 : 1);
    for (size_t n = first; n < pool.size(); ++n) {
      if (ordered && std::find(chosen.begin(), chosen.end(), n) != chosen.end()) continue;
      chosen.push_back(n);
      extend();
      chosen.pop_back();
    }
  };
  extend();
  return tracer.iterate(tracer.list(std::move(rows)));
}

V accumulate(Tracer& tracer, Call& call) {
  const V function = call.args.size() > 1 ? call.args[1] : keyword(call, "func");
  const V initial = keyword(call, "initial");
  const bool adds = !function || tracer.is_none(function);
  V total = initial && !tracer.is_none(initial) ? initial : nullptr;
  bool first = true;
  return stepping(tracer,
                  [inner = tracer.iterate(call.args.at(0)), function, adds, total,
                   first](Tracer& t) mutable -> V {
                    if (std::exchange(first, false) && total) return total;
                    const V item = next_or_null(t, inner);
                    if (!item) return nullptr;
                    total = !total ? item
                            : adds ? t.binary(0, total, item)
                                   : t.call(function, {{total, item}, {}});
                    return total;
                  });
}

V zip_longest(Tracer& tracer, Call& call) {
  std::vector<V> inner;
  for (const V& one : call.args) inner.push_back(tracer.iterate(one));
  V fill = keyword(call, "fillvalue");
  if (!fill) fill = tracer.none();
  return stepping(tracer, [inner = std::move(inner), fill](Tracer& t) mutable -> V {
    std::vector<V> row;
    bool any = false;
    for (V& one : inner) {
      const V item = one ? next_or_null(t, one) : nullptr;
      if (item)
        any = true;
      else
        one = nullptr;
      row.push_back(item ? item : fill);
    }
    return any ? t.tuple(std::move(row)) : nullptr;
  });
}

// takewhile, dropwhile and filterfalse.
V while_true(Tracer& tracer, Call& call, bool drops) {
  bool done = false;
  return stepping(tracer,
                  [test = call.args.at(0), inner = tracer.iterate(call.args.at(1)), drops,
                   done](Tracer& t) mutable -> V {
                    while (true) {
                      if (done && !drops) return nullptr;
                      const V item = next_or_null(t, inner);
                      if (!item || done) return item;
                      const bool holds = t.truth(t.call(test, {{item}, {}}));
                      if (drops && holds) continue;
                      done = !holds;
                      if (done && !drops) return nullptr;
                      return item;
                    }
                  });
}

V filter_false(Tracer& tracer, Call& call) {
  V test = call.args.at(0);
  if (tracer.is_none(test)) test = nullptr;
  return stepping(tracer, [test, inner = tracer.iterate(call.args.at(1))](Tracer& t) mutable -> V {
    while (V item = next_or_null(t, inner))
      if (!t.truth(test ? t.call(test, {{item}, {}}) : item)) return item;
    return nullptr;
  });
}

V compress(Tracer& tracer, Call& call) {
  return stepping(tracer,
                  [inner = tracer.iterate(call.args.at(0)),
                   kept = tracer.iterate(call.args.at(1))](Tracer& t) mutable -> V {
                    while (V item = next_or_null(t, inner)) {
                      const V keeps = next_or_null(t, kept);
                      if (!keeps) return nullptr;
                      if (t.truth(keeps)) return item;
                    }
                    return nullptr;
                  });
}

V pairwise(Tracer& tracer, Call& call) {
  V last;
  return stepping(tracer, [inner = tracer.iterate(call.args.at(0)), last](Tracer& t) mutable -> V {
    if (!last) last = next_or_null(t, inner);
    if (!last) return nullptr;
    const V item = next_or_null(t, inner);
    if (!item) return nullptr;
    return t.tuple({std::exchange(last, item), item});
  });
}

V cycle(Tracer& tracer, Call& call) {
  std::vector<V> seen;
  size_t at = 0;
  bool ended = false;
  return stepping(
      tracer, [inner = tracer.iterate(call.args.at(0)), seen, at, ended](Tracer& t) mutable -> V {
        if (!ended) {
          if (V item = next_or_null(t, inner)) {
            seen.push_back(item);
            return item;
          }
          ended = true;
        }
        if (seen.empty()) return nullptr;
        return seen[at++ % seen.size()];
      });
}

V islice(Tracer& tracer, Call& call) {
  const auto number = [&](size_t n, int64_t fallback) {
    return n < call.args.size() && !tracer.is_none(call.args[n]) ? tracer.index(call.args[n])
                                                                 : fallback;
  };
  constexpr int64_t endless = int64_t{1} << 60;
  const bool bounded = call.args.size() > 2;
  const int64_t start = bounded ? number(1, 0) : 0, stop = number(bounded ? 2 : 1, endless),
                step = number(3, 1);
  auto made = tracer.make<FunctionIterator>();
  made->step = [inner = tracer.iterate(call.args.at(0)), at = int64_t{0}, next = start, stop,
                step](Tracer& t) mutable -> V {
    while (next < stop) {
      V item = next_or_null(t, inner);
      if (!item) return nullptr;
      if (at++ == next) {
        next += step;
        return item;
      }
    }
    return nullptr;
  };
  return made;
}

V repeat(Tracer& tracer, Call& call) {
  const V times = call.args.size() > 1 ? call.args[1] : keyword(call, "times");
  auto made = tracer.make<FunctionIterator>();
  made->step = [item = call.args.at(0),
                left = times ? tracer.index(times) : -1](Tracer&) mutable -> V {
    if (left == 0) return nullptr;
    if (left > 0) --left;
    return item;
  };
  return made;
}

V count(Tracer& tracer, Call& call) {
  auto made = tracer.make<FunctionIterator>();
  const V step = call.args.size() > 1 ? call.args[1] : tracer.integer(1);
  made->step = [at = call.args.empty() ? tracer.integer(0) : call.args[0],
                step](Tracer& t) mutable -> V {
    V now = at;
    at = t.binary(0, at, step);
    return now;
  };
  return made;
}

V product(Tracer& tracer, Call& call) {
  std::vector<std::vector<V>> pools;
  for (const V& one : call.args) pools.push_back(tracer.items_of(one));
  if (const V times = keyword(call, "repeat")) {
    const auto once = pools;
    const int64_t n = tracer.index(times);
    pools.clear();
    for (int64_t k = 0; k < n; ++k) pools.insert(pools.end(), once.begin(), once.end());
  }
  std::vector<std::vector<V>> rows = {{}};
  for (const auto& pool : pools) {
    std::vector<std::vector<V>> next;
    for (const auto& row : rows)
      for (const V& item : pool) {
        next.push_back(row);
        next.back().push_back(item);
      }
    rows = std::move(next);
    if (rows.size() > 100000) give_up(Reason::too_long, "itertools.product");
  }
  std::vector<V> tuples;
  for (auto& row : rows) tuples.push_back(tracer.tuple(std::move(row)));
  return tracer.iterate(tracer.list(std::move(tuples)));
}

}  // namespace

V chain(Tracer& tracer, const V& iterables) {
  V current;
  return stepping(tracer, [outer = tracer.iterate(iterables), current](Tracer& t) mutable -> V {
    while (true) {
      if (!current) {
        const V next = next_or_null(t, outer);
        if (!next) return nullptr;
        current = t.iterate(next);
      }
      if (V item = next_or_null(t, current)) return item;
      current = nullptr;
    }
  });
}

void add_itertools(CallTable& table) {
  const auto on = [&](const char* name, std::function<V(Tracer&, Call&)> handler) {
    table.handlers[well_known("itertools", name)] = std::move(handler);
  };
  on("chain", [](Tracer& t, Call& c) { return chain(t, t.tuple(c.args)); });
  on("combinations", [](Tracer& t, Call& c) { return choices(t, c, false, false); });
  on("combinations_with_replacement",
     [](Tracer& t, Call& c) { return choices(t, c, true, false); });
  on("permutations", [](Tracer& t, Call& c) { return choices(t, c, false, true); });
  on("accumulate", accumulate);
  on("zip_longest", zip_longest);
  on("takewhile", [](Tracer& t, Call& c) { return while_true(t, c, false); });
  on("dropwhile", [](Tracer& t, Call& c) { return while_true(t, c, true); });
  on("filterfalse", filter_false);
  on("compress", compress);
  on("pairwise", pairwise);
  on("cycle", cycle);
  on("islice", islice);
  on("repeat", repeat);
  on("count", count);
  on("product", product);
  on("starmap", [](Tracer& t, Call& c) {
    return stepping(
        t, [function = c.args.at(0), inner = t.iterate(c.args.at(1))](Tracer& tracer) mutable -> V {
          const V item = next_or_null(tracer, inner);
          return item ? tracer.call(function, {tracer.items_of(item), {}}) : nullptr;
        });
  });
  for (const char* name : {"itemgetter", "attrgetter", "methodcaller"})
    table.pure.insert(well_known("operator", name));
}

V call_getter(Tracer& tracer, const V& getter, Call& call, bool& known) {
  PyObject* object = getter->object.get();
  auto* type = reinterpret_cast<PyObject*>(Py_TYPE(object));
  const bool items = type == well_known("operator", "itemgetter");
  const bool attributes = type == well_known("operator", "attrgetter");
  known = items || attributes || type == well_known("operator", "methodcaller");
  if (!known) return nullptr;
  if (call.args.size() != 1 || !call.keywords.empty())
    give_up(Reason::wrong_call, tracer.describe(getter));
  // It cannot change, and says itself how it was made.
  if (getter->source) tracer.sources().guard(getter->source, GuardKind::is, object);
  const Ref made = Ref::checked(PyObject_CallMethod(object, "__reduce__", nullptr));
  PyObject* how = PyTuple_GET_ITEM(made.get(), 1);
  const V self = call.args[0];
  if (!items && !attributes) {
    // With keywords the first part is a partial.
    if (PyTuple_GET_ITEM(made.get(), 0) != type)
      give_up(Reason::unknown_call, "operator.methodcaller with keywords");
    Call rest;
    for (Py_ssize_t n = 1; n < PyTuple_GET_SIZE(how); ++n)
      rest.args.push_back(tracer.constant(PyTuple_GET_ITEM(how, n)));
    return tracer.call(tracer.attribute(self, PyTuple_GET_ITEM(how, 0)), std::move(rest));
  }
  std::vector<V> found;
  for (Py_ssize_t n = 0; n < PyTuple_GET_SIZE(how); ++n) {
    PyObject* one = PyTuple_GET_ITEM(how, n);
    if (items) {
      found.push_back(tracer.subscript(self, tracer.constant(one)));
      continue;
    }
    const Ref parts = Ref::checked(PyObject_CallMethod(one, "split", "s", "."));
    V value = self;
    for (Py_ssize_t k = 0; k < PyList_GET_SIZE(parts.get()); ++k)
      value = tracer.attribute(
          value, tracer.intern(tracer.constant(PyList_GET_ITEM(parts.get(), k))).get());
    found.push_back(value);
  }
  return found.size() == 1 ? found[0] : tracer.tuple(std::move(found));
}

}  // namespace octavo::capture
