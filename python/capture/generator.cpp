#include "generator.h"

namespace octavo::capture {

V GeneratorIterator::resume(Tracer& tracer, const V& sent) {
  if (finished) return nullptr;
  if (running) give_up(Reason::generator, "a generator that runs itself");
  if (!started && sent && !tracer.is_none(sent))
    tracer.raise(PyExc_TypeError, "can't send non-None value to a just-started generator");
  if (started) frame->push(sent ? sent : tracer.none());
  started = true;
  frame->yielded = nullptr;
  frame->caller = tracer.frame();
  frame->depth = tracer.frame() ? tracer.frame()->depth + 1 : 1;
  if (frame->depth > tracer.settings().most_depth) give_up(Reason::recursion, "");
  running = true;
  try {
    V result = tracer.run_frame(*frame);
    running = false;
    if (frame->yielded) return std::move(frame->yielded);
    finished = true;
    returned = result;
  } catch (const Raised& raised) {
    running = false;
    finished = true;
    if (tracer.matches_exception(raised.exception, tracer.constant(PyExc_StopIteration)))
      tracer.raise(PyExc_RuntimeError, "generator raised StopIteration");
    throw;
  } catch (...) {
    finished = true;
    throw;
  }
  return nullptr;
}

V SequenceIterator::next(Tracer& tracer) {
  if (sequence->kind == Kind::array) {  // each item is read when its turn comes
    const at::Tensor& meta = static_cast<Array&>(*sequence).tensor->meta;
    exhausted = exhausted || position >= static_cast<size_t>(meta.size(0));
    if (exhausted) return nullptr;
    return tracer.subscript(sequence, tracer.integer(static_cast<int64_t>(position++)));
  }
  const auto& items = static_cast<Sequence&>(*sequence).items;
  if (changes != static_cast<Sequence&>(*sequence).changes) {
    PyErr_SetString(PyExc_RuntimeError, "deque mutated during iteration");  // Python's own words
    tracer.raise_python_error();
  }
  exhausted =
      exhausted || (backward ? position == 0 || position > items.size() : position >= items.size());
  if (exhausted) return nullptr;
  return backward ? items[--position] : items[position++];
}

V DictIterator::next(Tracer& tracer) {
  if (exhausted) return nullptr;
  if (dict->items.size() != size)
    tracer.raise(PyExc_RuntimeError, dict->is_set() ? "Set changed size during iteration"
                                     : dict->type == &PyODict_Type
                                         ? "OrderedDict mutated during iteration"
                                         : "dictionary changed size during iteration");
  // As many were added as taken out: what comes next is the hash table's affair.
  if (dict->removals != removals)
    give_up(Reason::iterator, "a dict whose keys changed while it is iterated over", born - 1);
  if (position >= size) {
    exhausted = true;
    return nullptr;
  }
  const size_t at = position++;
  if (dict->is_set()) return of_set[at];
  const auto& [key, value] = dict->items[at];
  if (what == View::What::items) return tracer.tuple({key, value});
  return what == View::What::keys ? key : value;
}

bool SequenceIterator::rest(std::vector<V>& items) {
  if (sequence->kind == Kind::array) return false;
  const auto& all = static_cast<Sequence&>(*sequence).items;
  if (backward) return false;
  if (exhausted) return true;
  items.assign(all.begin() + static_cast<ptrdiff_t>(std::min(position, all.size())), all.end());
  return true;
}

V RangeIterator::next(Tracer& tracer) {
  if (step > 0 ? at >= stop : at <= stop) return nullptr;
  const int64_t now = at;
  at += step;
  return tracer.integer(now);
}

V EnumerateIterator::next(Tracer& tracer) {
  V item = next_or_null(tracer, inner);
  if (!item) return nullptr;
  return tracer.tuple({tracer.integer(count++), item});
}

V ZipIterator::next(Tracer& tracer) {
  if (inner.empty()) return nullptr;
  std::vector<V> items;
  for (const V& one : inner) {
    V item = next_or_null(tracer, one);
    if (!item) {
      if (strict) {
        if (!items.empty())
          tracer.raise(PyExc_ValueError, "zip() argument is shorter than the ones before");
        for (size_t n = 1; n < inner.size(); ++n)
          if (next_or_null(tracer, inner[n]))
            tracer.raise(PyExc_ValueError, "zip() argument is longer than the ones before");
      }
      return nullptr;
    }
    items.push_back(std::move(item));
  }
  return tracer.tuple(std::move(items));
}

V MapIterator::next(Tracer& tracer) {
  Call call;
  for (const V& one : inner) {
    V item = next_or_null(tracer, one);
    if (!item) return nullptr;
    call.args.push_back(std::move(item));
  }
  return tracer.call(function, std::move(call));
}

V FilterIterator::next(Tracer& tracer) {
  while (V item = next_or_null(tracer, inner))
    if (tracer.truth(function ? tracer.call(function, {{item}, {}}) : item)) return item;
  return nullptr;
}

V next_or_null(Tracer& tracer, const V& iterator) {
  const V it = tracer.real(iterator);
  if (it->kind == Kind::iterator) return static_cast<Iterator&>(*it).next(tracer);
  if (it->kind == Kind::object && !PyIter_Check(it->object.get()))
    give_up(Reason::unknown_object, "next of " + tracer.describe(it));
  if (it->kind != Kind::instance && it->kind != Kind::object)
    give_up(Reason::iterator, tracer.describe(it));
  const Ref name = interned("__next__");
  PyObject* own = _PyType_Lookup(tracer.type_of(it), name.get());
  if (own && !PyFunction_Check(own)) give_up(Reason::iterator, tracer.describe(it));
  const V method = tracer.attribute_or_null(it, name.get());
  if (!method) give_up(Reason::iterator, tracer.describe(it));
  try {
    return tracer.call(method, {});
  } catch (const Raised& raised) {
    if (!tracer.matches_exception(raised.exception, tracer.constant(PyExc_StopIteration))) throw;
    return nullptr;
  }
}

V send(Tracer& tracer, const V& iterator, const V& value, V& returned) {
  if (auto* generator = dynamic_cast<GeneratorIterator*>(iterator.get())) {
    V item = generator->resume(tracer, value);
    if (!item) returned = generator->returned ? generator->returned : tracer.none();
    return item;
  }
  V item = next_or_null(tracer, iterator);
  if (!item) returned = tracer.none();
  return item;
}

}  // namespace octavo::capture
