// What a runtime would make of a Q/DQ graph, whoever made it: which nodes it would run in float,
// and why, and which of its placement rules are broken. From the facts that placement uses
// (facts.h).
#pragma once
#include <string>
#include <vector>

#include "graph/graph.h"

namespace octavo {

enum class LintKind {
  in_float,  // the node runs in float
  weights,   // it runs in float, but multiplies by the integers of its weights
  rule,      // the file breaks a rule of the target
};

struct LintFinding {
  LintKind kind;
  std::string node, op, reason;
};

struct LintReport {
  std::vector<LintFinding> findings;  // in graph order
  std::vector<std::string> integer;   // nodes that run on integers, fused ones included
};

// `graph`: as imported (no pass has run on it), so that names are the file's. UserError: an unknown
// target; the names are those of placement_targets().
LintReport lint(const Graph& graph, const std::string& target);

}  // namespace octavo
