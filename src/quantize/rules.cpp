#include "quantize/rules.h"

#include <cmath>
#include <nlohmann/json.hpp>

#include "graph/op_def.h"
#include "support/error.h"
#include "support/file.h"

namespace octavo {

bool glob_match(std::string_view pattern, std::string_view text) {
  size_t p = 0, t = 0, star = std::string_view::npos, resume = 0;
  while (t < text.size()) {
    if (p < pattern.size() && (pattern[p] == '?' || (pattern[p] != '*' && pattern[p] == text[t]))) {
      ++p, ++t;
    } else if (p < pattern.size() && pattern[p] == '*') {
      star = p++;
      resume = t;
    } else if (star != std::string_view::npos) {
      p = star + 1;
      t = ++resume;
    } else {
      return false;
    }
  }
  while (p < pattern.size() && pattern[p] == '*') ++p;
  return p == pattern.size();
}

const Rule* Rules::find(const Node& node) const {
  for (size_t i = rules.size(); i-- > 0;)
    if (glob_match(rules[i].name, node.name()) && glob_match(rules[i].op, node.op_name()))
      return &rules[i];
  return nullptr;
}

Precision Rules::precision_of(const Node& node) const {
  if (const Rule* rule = find(node)) return rule->precision;
  return node.op().quant == QuantTrait::weighted ? products : Precision::int8;
}

Rules parse_rules(std::string_view text, const std::string& where) {
  using nlohmann::json;
  const auto fail = [&](const std::string& message) {
    throw UserError(ErrorKind::file, where, message, "see schemas/rules.schema.json");
  };
  json file;
  try {
    file = json::parse(text);
  } catch (const json::parse_error& e) {
    fail(fmt::format("not JSON: {}", e.what()));
  }
  if (!file.is_object() || !file.contains("schema_version") ||
      !file["schema_version"].is_number() || file["schema_version"] != 1)
    fail("schema_version must be 1");
  if (!file.contains("rules") || !file["rules"].is_array()) fail("'rules' must be a list");
  for (const auto& [key, value] : file.items())
    if (key != "schema_version" && key != "rules") fail(fmt::format("unknown key '{}'", key));
  Rules result;
  for (size_t i = 0; i < file["rules"].size(); ++i) {
    const json& entry = file["rules"][i];
    const std::string at = fmt::format("rules[{}]", i);
    if (!entry.is_object()) fail(at + " must be an object");
    Rule rule;
    bool precision = false, group = false, activation = false;
    for (const auto& [key, value] : entry.items()) {
      if (key == "group_size") {
        // 32.0 is an integer to JSON Schema.
        const double size = value.is_number() ? value.get<double>() : 0;
        if (!(size >= 1 && size <= 1 << 20 && size == std::floor(size)))
          fail(fmt::format("{}.group_size must be a whole number of 1 to 1048576", at));
        rule.group_size = static_cast<int64_t>(size);
        group = true;
        continue;
      }
      if (!value.is_string()) fail(fmt::format("{}.{} must be text", at, key));
      const auto content = value.get<std::string>();
      if (key == "name") {
        rule.name = content;
      } else if (key == "op") {
        rule.op = content;
      } else if (key == "activation" && (content == "tensor" || content == "row")) {
        rule.by_row = content == "row";
        activation = true;
      } else if (key == "precision" && find_precision(content, rule.precision)) {
        precision = true;
      } else {
        fail(fmt::format("{}.{} = '{}' is not known", at, key, content));
      }
    }
    if (!precision) fail(at + ".precision is missing");
    if (group && rule.precision != Precision::int4_weights &&
        rule.precision != Precision::int8_weights)
      fail(at + ".group_size is for int8_weights and int4_weights only");
    if (activation && rule.precision != Precision::dynamic)
      fail(at + ".activation is for dynamic only");
    result.rules.push_back(std::move(rule));
  }
  return result;
}

Rules load_rules(const std::string& path) {
  const auto file = MappedFile::open(path);
  return parse_rules({reinterpret_cast<const char*>(file->data()), file->size()}, path);
}

}  // namespace octavo
