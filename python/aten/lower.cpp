#include "lower.h"

#include <algorithm>
#include <cmath>
#include <numeric>

#include "support/error.h"

namespace octavo::aten {

Facts::Facts(const Graph& source) : graph(source), uses(source.values.size(), 0) {
  for (const Node& node : source.nodes)
    Call(*this, node).for_each_tensor([&](ValueId value) { ++uses[Call::at(value)]; });
  for (const ValueId value : source.outputs) ++uses[Call::at(value)];
  for (const auto& [input, value] : source.writes) ++uses[Call::at(value)];
  for (const auto& [value, tensor] : source.constants)
    if (tensor.dim() == 0 && !tensor.is_complex()) numbers.emplace(value, tensor.item().toDouble());
}

std::string Call::name() const {
  const auto& name = node_.op.operator_name();
  return name.overload_name.empty() ? name.name : name.name + "." + name.overload_name;
}

int Call::find(std::string_view name) const {
  const auto& arguments = node_.op.schema().arguments();
  for (std::size_t i = 0; i < arguments.size(); ++i)
    if (arguments[i].name() == name) return static_cast<int>(i);
  return -1;
}

const Argument* Call::argument(std::string_view name) const {
  const int i = find(name);
  return i < 0 || at(i) >= node_.arguments.size() ? nullptr : &node_.arguments[at(i)];
}

bool Call::given(std::string_view name) const {
  const Argument* a = argument(name);
  if (!a) return false;
  const auto* constant = std::get_if<c10::IValue>(a);
  return !constant || !(constant->isNone() || constant->isTensor());  // an undefined tensor
}

bool Call::is_tensor(std::string_view name) const {
  const Argument* a = argument(name);
  return a && std::holds_alternative<ValueId>(*a);
}

ValueId Call::id(std::string_view name) const {
  const Argument* a = argument(name);
  OCTAVO_CHECK(a && std::holds_alternative<ValueId>(*a));
  return std::get<ValueId>(*a);
}

const std::vector<std::optional<ValueId>>& Call::list(std::string_view name) const {
  const Argument* a = argument(name);
  OCTAVO_CHECK(a && std::holds_alternative<std::vector<std::optional<ValueId>>>(*a));
  return std::get<std::vector<std::optional<ValueId>>>(*a);
}

const c10::IValue& Call::constant(std::string_view name) const {
  const Argument* a = argument(name);
  OCTAVO_CHECK(a && std::holds_alternative<c10::IValue>(*a));
  return std::get<c10::IValue>(*a);
}

double Call::real(std::string_view name) const {
  const c10::IValue& value = constant(name);
  if (value.isDouble()) return value.toDouble();
  if (value.isInt()) return static_cast<double>(value.toInt());
  if (value.isBool()) return value.toBool() ? 1 : 0;
  return value.toScalar().toDouble();
}

double Call::real(std::string_view name, double fallback) const {
  return given(name) ? real(name) : fallback;
}

std::int64_t Call::integer(std::string_view name) const {
  const c10::IValue& value = constant(name);
  return value.isInt() ? value.toInt() : value.toScalar().toLong();
}

bool Call::flag(std::string_view name) const {
  const c10::IValue& value = constant(name);
  return value.isBool() ? value.toBool() : value.toScalar().toBool();
}

std::string Call::text(std::string_view name) const { return constant(name).toStringRef(); }

std::vector<std::int64_t> Call::integers(std::string_view name) const {
  if (!given(name)) return {};
  const c10::IValue& value = constant(name);
  if (value.isInt()) return {value.toInt()};
  return value.toIntVector();
}

std::optional<double> Call::number(ValueId value) const {
  const auto found = facts_.numbers.find(value);
  if (found == facts_.numbers.end()) return std::nullopt;
  return found->second;
}

IrValue* Lowering::f32(const Call& call, std::string_view name) {
  return call.is_tensor(name) ? f32(call, call.id(name)) : scalar(call.real(name));
}

IrValue* Lowering::f32(const Call& call, ValueId value) {
  if (!is_f32(call.graph().values[Call::at(value)]))
    if (const auto number = call.number(value)) return scalar(*number);
  return cast(get(value), DType::f32);
}

IrValue* Lowering::scalar(double value) {
  for (const auto& [known, constant] : scalars_)
    if (known == value && std::signbit(known) == std::signbit(value)) return constant;
  IrValue* constant = graph_.add_constant("", octavo::Tensor::scalar(static_cast<float>(value)));
  scalars_.emplace_back(value, constant);
  return constant;
}

IrValue* Lowering::reshape(IrValue* x, const std::vector<std::int64_t>& to) {
  if (sizes(x) == to) return x;
  return apply("reshape", {x}, {{"shape", Ints(to)}});
}

IrValue* Lowering::expand(IrValue* x, const std::vector<std::int64_t>& to) {
  if (sizes(x) == to) return x;
  return apply("expand", {x}, {{"shape", Ints(to)}});
}

IrValue* Lowering::transpose(IrValue* x, std::vector<std::int64_t> perm) {
  if (std::is_sorted(perm.begin(), perm.end())) return x;
  return apply("transpose", {x}, {{"perm", Ints(std::move(perm))}});
}

IrValue* Lowering::swap_last(IrValue* x) {
  std::vector<std::int64_t> perm(x->shape().size());
  std::iota(perm.begin(), perm.end(), 0);
  std::swap(perm[perm.size() - 1], perm[perm.size() - 2]);
  return transpose(x, std::move(perm));
}

IrValue* Lowering::reduce(std::string_view op, IrValue* x, std::vector<std::int64_t> axes,
                          bool keep) {
  if (axes.empty()) return x;
  return apply(op, {x}, {{"axes", Ints(std::move(axes))}, {"keepdims", std::int64_t{keep}}});
}

IrValue* Lowering::cast(IrValue* x, DType to) {
  return x->dtype() == to ? x : apply("cast", {x}, {{"to", std::string(dtype_name(to))}});
}

const Rule* find_rule(const c10::OperatorHandle& op) {
  static const auto* table = [] {
    auto* rules = new std::unordered_map<std::string_view, const Rule*>;
    for (const auto family : {pointwise_rules(), matmul_rules(), shape_rules(), reduce_rules(),
                              backward_rules(), nn_rules(), attention_rules(), batch_norm_rules()})
      for (const Rule& rule : family) {
        const bool fresh = rules->emplace(rule.name, &rule).second;
        OCTAVO_CHECK(fresh);
      }
    return rules;
  }();
  const auto& name = op.operator_name();
  const auto found = name.overload_name.empty() ? table->find(name.name)
                                                : table->find(name.name + "." + name.overload_name);
  return found == table->end() ? nullptr : found->second;
}

bool is_f32(const ValueInfo& info) { return info.dtype == at::kFloat; }

bool float_operand(const Call& call, ValueId value) {
  const ValueInfo& info = call.graph().values[Call::at(value)];
  return is_f32(info) || info.dtype == at::kBool || call.number(value);
}

bool floats(const Call& call) {
  bool good = true;
  call.for_each_tensor([&](ValueId value) { good = good && float_operand(call, value); });
  for (std::size_t i = 0; i < call.node().outputs.size(); ++i)
    good = good && is_f32(call.output(i));
  return good;
}

bool movable(const Call& call) {
  const auto fits = [](const ValueInfo& info) {
    return info.dtype == at::kFloat || info.dtype == at::kLong || info.dtype == at::kBool ||
           info.dtype == at::kInt;
  };
  bool good = true;
  call.for_each_tensor(
      [&](ValueId value) { good = good && fits(call.graph().values[Call::at(value)]); });
  for (std::size_t i = 0; i < call.node().outputs.size(); ++i) good = good && fits(call.output(i));
  return good;
}

std::int64_t wrap(std::int64_t axis, std::size_t rank) {
  return axis < 0 ? axis + static_cast<std::int64_t>(std::max<std::size_t>(rank, 1)) : axis;
}

}  // namespace octavo::aten
