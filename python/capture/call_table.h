// The table behind known_calls.h, filled by known_calls.cpp and the files of the functions below.
#pragma once
#include <functional>
#include <unordered_map>
#include <unordered_set>

#include "tracer.h"

namespace octavo::capture {

struct CallTable {
  std::unordered_map<PyObject*, std::function<V(Tracer&, Call&)>> handlers;
  std::unordered_set<PyObject*> pure;  // no effects; a constant of constants
};

// The argument given by that name; null where there is none.
V keyword(const Call& call, const char* name);
// Raises Python's TypeError unless there are so many positional arguments.
void expect(Tracer& tracer, const Call& call, const char* name, size_t least, size_t most);
// A dict of that class, as dict(...) or defaultdict(factory, ...) makes it.
V make_dict(Tracer& tracer, PyTypeObject* type, const Call& call);

void add_builtins(CallTable& table);
void add_library(CallTable& table);
void add_itertools(CallTable& table);
void add_vmap(CallTable& table);
void add_signature(CallTable& table);
void add_autocast(CallTable& table);

}  // namespace octavo::capture
