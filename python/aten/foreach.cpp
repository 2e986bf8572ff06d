#include "foreach.h"

#include <algorithm>
#include <memory>
#include <optional>
#include <string>
#include <unordered_map>

namespace octavo::aten {
namespace {

constexpr std::string_view prefix = "aten::_foreach_";

// The plain operator's names and overloads, the first there is.
std::vector<c10::OperatorName> candidates(const c10::OperatorName& op) {
  std::string name = op.name.substr(prefix.size());
  const std::string& overload = op.overload_name;
  const bool scalar = overload == "Scalar" || overload == "ScalarList";
  if (scalar && name == "maximum") name = "clamp_min";
  if (scalar && name == "minimum") name = "clamp_max";
  if (scalar && name == "norm") name = "linalg_vector_norm";
  std::vector<const char*> overloads;
  if (scalar)
    overloads = {"Scalar", "Tensor_Scalar", ""};
  else if (overload == "List")
    overloads = {"Tensor", "Tensor_Tensor", ""};
  else if (overload == "Tensor")
    overloads = {"Tensor"};
  else if (overload == "ScalarAndTensor")
    overloads = {"Scalar"};
  else if (overload.empty())
    overloads = {""};
  std::vector<c10::OperatorName> names;
  for (const char* wanted : overloads) names.emplace_back("aten::" + name, wanted);
  return names;
}

bool is_list(const c10::Argument& argument) {
  return argument.type()->kind() == c10::TypeKind::ListType;
}

std::optional<Foreach> match(const c10::OperatorHandle& op) {
  const c10::OperatorName& name = op.operator_name();
  if (name.name.rfind(prefix, 0) != 0 || op.schema().is_mutable()) return std::nullopt;
  std::optional<c10::OperatorHandle> plain;
  for (const auto& candidate : candidates(name))
    if (!plain) plain = c10::Dispatcher::singleton().findSchema(candidate);
  if (!plain || plain->schema().returns().size() != 1) return std::nullopt;
  const auto& given = op.schema().arguments();
  const auto& wanted = plain->schema().arguments();
  Foreach made{*plain, {}, given.size()};
  // By name; what has another name, by place.
  std::vector<bool> used(given.size());
  for (const c10::Argument& argument : wanted)
    for (std::size_t i = 0; i < given.size(); ++i)
      if (given[i].name() == argument.name()) used[i] = true;
  for (std::size_t n = 0; n < wanted.size(); ++n) {
    Foreach::Parameter parameter;
    for (std::size_t i = 0; i < given.size(); ++i)
      if (given[i].name() == wanted[n].name()) parameter.from = static_cast<int>(i);
    if (parameter.from < 0 && n < given.size() && !used[n]) {
      parameter.from = static_cast<int>(n);
      used[n] = true;
    }
    if (parameter.from >= 0) {
      const auto from = static_cast<std::size_t>(parameter.from);
      parameter.each = is_list(given[from]) && !is_list(wanted[n]);
      if (parameter.each) made.list = std::min(made.list, from);
    } else if (wanted[n].default_value()) {
      parameter.fallback = *wanted[n].default_value();
    } else {
      return std::nullopt;
    }
    made.parameters.push_back(std::move(parameter));
  }
  const bool all = std::all_of(used.begin(), used.end(), [](bool u) { return u; });
  return all && made.list < given.size() ? std::optional(std::move(made)) : std::nullopt;
}

}  // namespace

torch::jit::Stack Foreach::element(const c10::IValue* arguments, std::size_t index) const {
  torch::jit::Stack stack;
  stack.reserve(parameters.size());
  for (const Parameter& parameter : parameters) {
    if (parameter.from < 0)
      stack.push_back(parameter.fallback);
    else if (parameter.each)
      stack.push_back(arguments[parameter.from].toListRef()[index]);
    else
      stack.push_back(arguments[parameter.from]);
  }
  return stack;
}

const Foreach* foreach_of(const c10::OperatorHandle& op) {
  static thread_local std::unordered_map<const c10::FunctionSchema*, std::unique_ptr<Foreach>> seen;
  const auto [at, fresh] = seen.try_emplace(&op.schema());
  if (fresh)
    if (auto found = match(op)) at->second = std::make_unique<Foreach>(std::move(*found));
  return at->second.get();
}

}  // namespace octavo::aten
