#include "replay.h"

#include <ATen/core/LegacyTypeDispatch.h>

#include <algorithm>

namespace octavo::aten {
namespace {

std::size_t at(ValueId value) { return static_cast<std::size_t>(value); }

template <class F>
void each_result(const c10::IValue& value, const F& visit) {
  if (value.isTensor())
    visit(value.toTensor());
  else if (value.isTensorList())
    for (const at::Tensor& tensor : value.toTensorVector()) visit(tensor);
}

}  // namespace

Replay::Replay(const Graph& graph)
    : values_(graph.values.size()),
      inputs_(graph.inputs),
      outputs_(graph.outputs),
      constants_(graph.constants),
      writes_(graph.writes) {
  std::vector<bool> needed(values_);
  for (const ValueId output : outputs_) needed[at(output)] = true;
  for (const auto& [input, value] : writes_) needed[at(value)] = true;
  for (auto node = graph.nodes.rbegin(); node != graph.nodes.rend(); ++node) {
    Step step{node->op, {}, {}, node->outputs, {}, node->in_place};
    const auto& parameters = node->op.schema().arguments();
    const auto touch = [&](ValueId value) {
      if (!needed[at(value)]) step.last.push_back(value);
      needed[at(value)] = true;
    };
    for (const ValueId output : node->outputs) touch(output);
    for (std::size_t n = 0; n < node->arguments.size(); ++n) {
      const Argument& argument = node->arguments[n];
      step.arguments.emplace_back();
      if (const auto* constant = std::get_if<c10::IValue>(&argument)) {
        step.arguments.back() = *constant;
      } else if (const auto* value = std::get_if<ValueId>(&argument)) {
        step.places.push_back({n, {*value}, Place::Form::tensor});
        touch(*value);
      } else {
        const auto& values = std::get<std::vector<std::optional<ValueId>>>(argument);
        const auto& type = *parameters[n].type();
        const bool optional = type.kind() == c10::TypeKind::ListType &&
                              type.containedType(0)->kind() == c10::TypeKind::OptionalType;
        step.places.push_back(
            {n, values, optional ? Place::Form::optional_list : Place::Form::list});
        for (const auto& item : values)
          if (item) touch(*item);
      }
    }
    steps_.push_back(std::move(step));
  }
  std::reverse(steps_.begin(), steps_.end());
}

std::vector<at::Tensor> Replay::run(const std::vector<at::Tensor>& inputs) const {
  const at::AutoDispatchBelowADInplaceOrView below;
  std::vector<at::Tensor> values(values_);
  for (const auto& [value, tensor] : constants_) values[at(value)] = tensor;
  for (std::size_t n = 0; n < inputs_.size(); ++n) values[at(inputs_[n])] = inputs[n];
  torch::jit::Stack stack;
  for (const Step& step : steps_) {
    stack = step.arguments;
    for (const Place& place : step.places) {
      if (place.form == Place::Form::tensor) {
        stack[place.argument] = values[at(*place.values[0])];
      } else if (place.form == Place::Form::list) {
        c10::List<at::Tensor> list;
        for (const auto& item : place.values)
          list.push_back(item ? values[at(*item)] : at::Tensor());
        stack[place.argument] = std::move(list);
      } else {
        c10::List<std::optional<at::Tensor>> list;
        for (const auto& item : place.values)
          list.push_back(item ? std::optional(values[at(*item)]) : std::nullopt);
        stack[place.argument] = std::move(list);
      }
    }
    call_as(step.op, step.in_place, stack);
    std::size_t next = 0;
    for (const c10::IValue& returned : stack)
      each_result(returned, [&](const at::Tensor& tensor) {
        // An undefined result of a mask has no value in the graph or an unused one.
        if (next < step.outputs.size()) values[at(step.outputs[next++])] = tensor;
      });
    for (const ValueId value : step.last) values[at(value)] = at::Tensor();
  }
  // What lies in an input's memory is read before any input is written.
  for (const auto& [input, value] : writes_) {
    at::Tensor& now = values[at(value)];
    if (std::any_of(inputs.begin(), inputs.end(),
                    [&](const at::Tensor& other) { return other.is_alias_of(now); }))
      now = now.clone();
  }
  for (const auto& [input, value] : writes_) {
    inputs[input].copy_(values[at(value)]);
    inputs[input].unsafeGetTensorImpl()->bump_version();
  }
  std::vector<at::Tensor> outputs;
  for (const ValueId output : outputs_) outputs.push_back(values[at(output)]);
  return outputs;
}

}  // namespace octavo::aten
