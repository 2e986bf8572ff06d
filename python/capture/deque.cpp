#include "deque.h"

#include <algorithm>

#include "generator.h"

namespace octavo::capture {
namespace {

// Drops what is too much at the other end, as maxlen asks.
void trim(Tracer& tracer, Sequence& deque, bool at_front) {
  if (tracer.is_none(deque.most)) return;
  const auto most = static_cast<size_t>(tracer.index(deque.most));
  auto& items = deque.items;
  if (items.size() <= most) return;
  const auto extra = static_cast<ptrdiff_t>(items.size() - most);
  if (at_front)
    items.erase(items.begin(), items.begin() + extra);
  else
    items.erase(items.end() - extra, items.end());
}

}  // namespace

V make_deque(Tracer& tracer, Call& call) {
  V given = !call.args.empty() ? call.args[0] : nullptr;
  V most = call.args.size() > 1 ? call.args[1] : nullptr;
  for (const auto& [name, value] : call.keywords) {
    if (PyUnicode_CompareWithASCIIString(name.get(), "maxlen") == 0)
      most = value;
    else if (PyUnicode_CompareWithASCIIString(name.get(), "iterable") == 0)
      given = value;
    else
      give_up(Reason::wrong_call, "collections.deque");
  }
  auto deque = tracer.make<Sequence>();
  deque->type = deque_type();
  deque->most = most ? tracer.real(most) : tracer.none();
  if (!tracer.is_none(deque->most) && tracer.index(deque->most) < 0)
    tracer.raise(PyExc_ValueError, "maxlen must be non-negative");
  if (given) deque->items = tracer.items_of(given);
  trim(tracer, *deque, true);
  return deque;
}

V deque_method(Tracer& tracer, const std::shared_ptr<Sequence>& self, const std::string& name,
               Call& call, bool& known) {
  auto& items = self->items;
  const auto at = [&](size_t n) -> const V& {
    if (n >= call.args.size()) give_up(Reason::wrong_call, name);
    return call.args[n];
  };
  const auto size = static_cast<int64_t>(items.size());
  if (!call.keywords.empty()) {
    known = false;
    return nullptr;
  }
  if (name == "__len__") return tracer.integer(size);
  if (name == "__getitem__") return tracer.subscript(self, at(0));
  if (name == "__iter__") return tracer.iterate(self);
  if (name == "__contains__") return tracer.boolean(tracer.contains(self, at(0)));
  if (name == "__setitem__") {
    tracer.set_subscript(self, at(0), at(1));
    return tracer.none();
  }
  if (name == "count" || (name == "index" && call.args.size() == 1)) {
    int64_t found = 0;
    for (int64_t n = 0; n < size; ++n) {
      const V item = items[static_cast<size_t>(n)];
      if (!tracer.same_object(item, at(0)) && !tracer.equal(item, at(0))) continue;
      if (name == "index") return tracer.integer(n);
      ++found;
    }
    if (name == "count") return tracer.integer(found);
    give_up(Reason::exception, "deque.index of what is not there");
  }
  if (name == "copy" || name == "__copy__") {
    auto copy = tracer.make<Sequence>();
    copy->type = self->type;
    copy->most = self->most;
    copy->items = items;
    return copy;
  }
  V result = tracer.none();
  if (name == "append" || name == "appendleft") {
    const bool left = name == "appendleft";
    items.insert(left ? items.begin() : items.end(), at(0));
    trim(tracer, *self, !left);
  } else if (name == "extend" || name == "extendleft" || name == "__iadd__") {
    const bool left = name == "extendleft";
    const bool itself = tracer.same_object(at(0), self);
    const V given = itself ? tracer.list(tracer.items_of(at(0))) : at(0);
    const V more = tracer.iterate(given);
    while (const V item = next_or_null(tracer, more)) {  // a generator sees what it has given
      items.insert(left ? items.begin() : items.end(), item);
      trim(tracer, *self, !left);
      tracer.changed(self);
    }
    if (name == "__iadd__") result = self;
  } else if (name == "pop" || name == "popleft") {
    if (items.empty()) tracer.raise(PyExc_IndexError, "pop from an empty deque");
    const auto taken = name == "pop" ? items.end() - 1 : items.begin();
    result = *taken;
    items.erase(taken);
  } else if (name == "rotate") {
    const int64_t steps = call.args.empty() ? 1 : tracer.index(at(0));
    if (size > 1) {
      const int64_t right = (steps % size + size) % size;
      std::rotate(items.begin(), items.end() - right, items.end());
    }
  } else if (name == "clear") {
    items.clear();
  } else if (name == "reverse") {
    std::reverse(items.begin(), items.end());
  } else if (name == "insert" && (tracer.is_none(self->most) || size < tracer.index(self->most))) {
    int64_t where = tracer.index(at(0));
    if (where < 0) where = std::max<int64_t>(0, where + size);
    items.insert(items.begin() + std::min(where, size), at(1));
  } else if (name == "remove") {
    size_t n = 0;
    while (n < items.size() && !tracer.same_object(items[n], at(0)) &&
           !tracer.equal(items[n], at(0)))
      ++n;
    if (n == items.size()) give_up(Reason::exception, "deque.remove of what is not there");
    items.erase(items.begin() + static_cast<ptrdiff_t>(n));
  } else {
    known = false;
    return nullptr;
  }
  ++self->changes;
  tracer.changed(self);
  return result;
}

}  // namespace octavo::capture
