// The rules file: which nodes stay in float whatever the target says. JSON,
// schemas/rules.schema.json.
#pragma once
#include <string>
#include <string_view>
#include <vector>

#include "graph/graph.h"

namespace octavo {

struct Rule {
  std::string name = "*";  // glob over node names: * and ?
  std::string op = "*";    // glob over op names
  bool integer = true;     // "precision": "int8" or "float"
};

struct Rules {
  std::vector<Rule> rules;
  // The last rule that matches decides; none: true.
  bool allows_integer(const Node& node) const;
};

// UserError with the place in the file on what the schema does not allow.
Rules load_rules(const std::string& path);
Rules parse_rules(std::string_view json, const std::string& where);

bool glob_match(std::string_view pattern, std::string_view text);

}  // namespace octavo
