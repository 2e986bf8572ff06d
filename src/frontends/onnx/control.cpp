#include "frontends/onnx/control.h"

#include <algorithm>

namespace octavo::onnx_import {
namespace {

constexpr int64_t most_iterations = 1 << 16;

}  // namespace

std::vector<Value*> Control::run() {
  if (reader_.op_type() == "If") return branch();
  return reader_.op_type() == "Loop" ? loop() : scan();
}

::onnx::GraphProto& Control::subgraph(std::string_view name) {
  for (auto& attribute : *node_.mutable_attribute())
    if (attribute.name() == name && attribute.has_g()) return *attribute.mutable_g();
  reader_.invalid(fmt::format("has no subgraph '{}'", name));
}

// `results` outputs of the subgraph `name`, as many of the node.
void Control::check_results(std::string_view name, int results, int outputs) const {
  if (results != outputs)
    reader_.invalid(fmt::format("its {} has {} outputs, {} are wanted", name, results, outputs));
}

std::vector<Value*> Control::branch() {
  Value* condition = make_.input(0);
  if (condition->dtype() != DType::boolean) reader_.invalid("the condition must be bool");
  for (const char* name : {"then_branch", "else_branch"}) {
    const auto& outputs = subgraph(name).output();
    check_results(name, outputs.size(), node_.output_size());
    // Two outputs may be one value; for one graph they are listed twice.
    for (int i = 1; i < outputs.size(); ++i)
      for (int k = 0; k < i; ++k)
        if (outputs[i].name() == outputs[k].name())
          reader_.unsupported(fmt::format("its {} lists '{}' twice", name, outputs[i].name()));
  }
  if (const Tensor* known = reader_.constant(0)) {
    if (known->size() != 1) reader_.invalid("the condition must be one bool");
    return add_(subgraph(known->values<bool>()[0] ? "then_branch" : "else_branch"), {});
  }
  const auto yes = add_(subgraph("then_branch"), {}), no = add_(subgraph("else_branch"), {});
  std::vector<Value*> outputs;
  for (size_t i = 0; i < yes.size(); ++i) {
    if (!(yes[i]->type() == no[i]->type()))
      reader_.unsupported(
          fmt::format("its condition is computed and its branches differ in type: {} and {}",
                      yes[i]->type().str(), no[i]->type().str()));
    outputs.push_back(make_("where", {make_.reshape(condition, {}), yes[i], no[i]}));
  }
  return outputs;
}

// Reading takes tensors out of the message, so each step has its own.
std::vector<Value*> Control::step(const ::onnx::GraphProto& body, std::vector<Value*> args) {
  ::onnx::GraphProto copy = body;
  return add_(copy, std::move(args));
}

Value* Control::stacked(const std::vector<Value*>& values, int64_t axis, bool reversed) {
  if (values.empty())
    reader_.unsupported("no steps, so that the shape of its outputs is not known");
  std::vector<Value*> parts;
  parts.reserve(values.size());
  for (Value* value : values) parts.push_back(make_("unsqueeze", {value}, {{"axes", Ints{axis}}}));
  if (reversed) std::reverse(parts.begin(), parts.end());
  const int64_t rank = parts[0]->shape().rank();
  return make_.concat(parts, axis < 0 ? axis + rank : axis);
}

std::vector<Value*> Control::loop() {
  const ::onnx::GraphProto& body = subgraph("body");
  int64_t count = most_iterations;
  if (reader_.input(0)) {
    const Tensor* known = reader_.constant(0);
    if (!known) reader_.unsupported("its number of steps is computed");
    if (known->size() != 1 || known->dtype() != DType::i64)
      reader_.invalid("the number of steps must be one i64");
    count = std::max<int64_t>(known->to_ints()[0], 0);
  }
  const auto holds = [&](const Value* condition) {
    if (!condition->is_constant() || condition->constant().size() != 1)
      reader_.unsupported("its condition is computed");
    return condition->constant().to_ints()[0] != 0;
  };
  std::vector<Value*> state;
  for (size_t i = 2; i < reader_.input_count(); ++i) state.push_back(make_.input(i));
  const size_t states = state.size(), results = static_cast<size_t>(body.output_size());
  if (results < states + 1) reader_.invalid("its body has too few outputs");
  check_results("body", body.output_size(), node_.output_size() + 1);
  std::vector<std::vector<Value*>> collected(results - states - 1);
  Value* condition = reader_.input(1);
  if (!condition) condition = reader_.constant_value(Tensor::scalar(true));
  for (int64_t i = 0; i < count && holds(condition); ++i) {
    if (i + 1 == most_iterations) reader_.unsupported("too many steps");
    std::vector<Value*> args{reader_.constant_value(Tensor::scalar(i)), condition};
    args.insert(args.end(), state.begin(), state.end());
    const auto outputs = step(body, std::move(args));
    condition = outputs[0];
    std::copy_n(outputs.begin() + 1, states, state.begin());
    for (size_t k = 0; k < collected.size(); ++k) collected[k].push_back(outputs[1 + states + k]);
  }
  for (const auto& values : collected) state.push_back(stacked(values, 0, false));
  return state;
}

std::vector<Value*> Control::scan() {
  if (reader_.opset() < 9) reader_.unsupported("Scan before opset 9");
  const ::onnx::GraphProto& body = subgraph("body");
  const int64_t scanned = reader_.integer("num_scan_inputs", 0);
  const auto inputs = static_cast<int64_t>(reader_.input_count());
  if (scanned < 1 || scanned > inputs) reader_.invalid("num_scan_inputs is out of range");
  const auto states = static_cast<size_t>(inputs - scanned), n = static_cast<size_t>(scanned);
  if (body.output_size() < static_cast<int>(states))
    reader_.invalid("its body has too few outputs");
  check_results("body", body.output_size(), node_.output_size());
  const size_t outputs_count = static_cast<size_t>(body.output_size()) - states;
  const auto list = [&](const char* name, size_t size) {
    Ints values = reader_.integers(name, Ints(size, 0));
    if (values.size() != size) reader_.invalid(fmt::format("{} has the wrong length", name));
    return values;
  };
  Ints axes = list("scan_input_axes", n);
  const Ints directions = list("scan_input_directions", n),
             output_axes = list("scan_output_axes", outputs_count),
             output_directions = list("scan_output_directions", outputs_count);
  std::vector<Value*> state, sequences;
  for (size_t i = 0; i < states; ++i) state.push_back(make_.input(i));
  int64_t length = -1;
  for (size_t i = 0; i < n; ++i) {
    Value* x = make_.input(states + i);
    axes[i] = normalize_axis(axes[i], x->shape().rank(), reader_.where());
    const int64_t size = make_.known_size(x, axes[i], "a number of steps");
    if (length >= 0 && size != length) reader_.invalid("the sequences differ in length");
    length = size;
    sequences.push_back(x);
  }
  if (length > most_iterations) reader_.unsupported("too many steps");
  std::vector<std::vector<Value*>> collected(outputs_count);
  for (int64_t i = 0; i < length; ++i) {
    std::vector<Value*> args = state;
    for (size_t k = 0; k < n; ++k) {
      const int64_t at = directions[k] != 0 ? length - 1 - i : i;
      args.push_back(make_("squeeze", {make_.slice(sequences[k], axes[k], at, at + 1)},
                           {{"axes", Ints{axes[k]}}}));
    }
    const auto outputs = step(body, std::move(args));
    std::copy_n(outputs.begin(), states, state.begin());
    for (size_t k = 0; k < outputs_count; ++k) collected[k].push_back(outputs[states + k]);
  }
  for (size_t k = 0; k < outputs_count; ++k)
    state.push_back(stacked(collected[k], output_axes[k], output_directions[k] != 0));
  return state;
}

}  // namespace octavo::onnx_import
