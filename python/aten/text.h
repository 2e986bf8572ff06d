// A Graph as text, one line a node; for tests and for reading.
#pragma once

#include <string>

#include "graph.h"

namespace octavo::aten {

std::string to_text(const Graph& graph);

}  // namespace octavo::aten
