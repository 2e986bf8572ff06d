// The table behind known_calls.h, filled by builtins.cpp and known_calls.cpp.
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

void add_builtins(CallTable& table);
void add_library(CallTable& table);
void add_itertools(CallTable& table);
void add_vmap(CallTable& table);
void add_signature(CallTable& table);
void add_autocast(CallTable& table);

}  // namespace octavo::capture
