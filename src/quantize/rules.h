// The rules file: which precision nodes have, whatever mode and target say. JSON,
// schemas/rules.schema.json.
#pragma once
#include <string>
#include <string_view>
#include <vector>

#include "graph/graph.h"
#include "quantize/precision.h"

namespace octavo {

struct Rule {
  std::string name = "*";  // glob over node names: * and ?
  std::string op = "*";    // glob over op names
  Precision precision = Precision::int8;
  int64_t group_size = 0;  // of weight-only precisions; 0: the default
  bool by_row = false;     // of dynamic: a scale for each row of a matrix product's activation
};

struct Rules {
  std::vector<Rule> rules;
  Precision products = Precision::int8;  // of products that no rule names: the mode's
  int64_t group_size = 0;                // theirs
  bool by_row = false;                   // theirs

  // The last rule that matches decides; null if none does.
  const Rule* find(const Node& node) const;
  Precision precision_of(const Node& node) const;
  // Whether static placement may make the node integer. An op that is no product is, unless a rule
  // gives it another precision: it follows the products around it.
  bool allows_integer(const Node& node) const { return precision_of(node) == Precision::int8; }
};

// UserError with the place in the file on what the schema does not allow.
Rules load_rules(const std::string& path);
Rules parse_rules(std::string_view json, const std::string& where);

bool glob_match(std::string_view pattern, std::string_view text);

}  // namespace octavo
