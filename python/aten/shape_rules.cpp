#include "shape_rules.h"

#include <string>
#include <unordered_map>

namespace octavo::aten {

ShapeRule shape_rule(const c10::OperatorName& name) {
  static const std::unordered_map<std::string, ShapeRule> rules;
  const auto found = rules.find(c10::toString(name));
  return found == rules.end() ? nullptr : found->second;
}

}  // namespace octavo::aten
