// Iterators of the traced program.
#pragma once
#include "tracer.h"

namespace octavo::capture {

// A generator function's frame, run from yield to yield.
struct GeneratorIterator : Iterator {
  std::unique_ptr<Frame> frame;
  Ref code;
  bool started = false, running = false, finished = false;
  V returned;
  V next(Tracer& tracer) override { return resume(tracer, nullptr); }
  V resume(Tracer& tracer, const V& sent);
  bool rest(std::vector<V>&) override { return false; }
};

struct SequenceIterator : Iterator {
  V sequence;  // a Sequence, a fixed list of its own, or an array
  size_t position = 0;
  bool backward = false;   // `position` items are left
  bool exhausted = false;  // it stays so, whatever the list gets
  int changes = 0;         // of a deque when it was made
  V next(Tracer& tracer) override;
  bool rest(std::vector<V>& items) override;
};

// Over a dict, a view of one, or a set; adding or removing while it runs is an error.
struct DictIterator : Iterator {
  std::shared_ptr<Dict> dict;
  View::What what = View::What::keys;
  std::vector<V> of_set;  // a set's items in their order
  size_t position = 0, size = 0;
  int removals = 0;  // of the dict when the iterator was made
  bool exhausted = false;
  V next(Tracer& tracer) override;
  bool rest(std::vector<V>&) override { return false; }
};

struct RangeIterator : Iterator {
  int64_t at = 0, stop = 0, step = 1;
  V next(Tracer& tracer) override;
  bool rest(std::vector<V>&) override { return false; }
};

struct EnumerateIterator : Iterator {
  V inner;
  int64_t count = 0;
  V next(Tracer& tracer) override;
  bool rest(std::vector<V>&) override { return false; }
};

struct ZipIterator : Iterator {
  std::vector<V> inner;
  bool strict = false;
  V next(Tracer& tracer) override;
  bool rest(std::vector<V>&) override { return false; }
};

struct MapIterator : Iterator {
  V function;
  std::vector<V> inner;
  V next(Tracer& tracer) override;
  bool rest(std::vector<V>&) override { return false; }
};

struct FilterIterator : Iterator {
  V function, inner;  // function null: truth
  V next(Tracer& tracer) override;
  bool rest(std::vector<V>&) override { return false; }
};

// itertools.chain, islice, repeat, count: one function each says what comes next.
struct FunctionIterator : Iterator {
  std::function<V(Tracer&)> step;
  V next(Tracer& tracer) override { return step(tracer); }
  bool rest(std::vector<V>&) override { return false; }
};

// next(iterator), or null at its end, of any iterator of the program.
V next_or_null(Tracer& tracer, const V& iterator);
// iterator.send(value): null at its end, with what it returned in `returned`.
V send(Tracer& tracer, const V& iterator, const V& value, V& returned);

}  // namespace octavo::capture
