// What docs/ops.md says of each op, read from the tables that the library itself runs by.
#include <map>

#include "api/octavo.h"
#include "codegen/select.h"
#include "frontends/onnx/compose.h"
#include "graph/op_def.h"
#include "ops/onnx_rules.h"
#include "quantize/placement/facts.h"
#include "quantize/placement/placement.h"

namespace octavo {
namespace {

using nlohmann::json;

const char* kind_name(OpKind kind) {
  switch (kind) {
    case OpKind::pointwise:
      return "pointwise";
    case OpKind::compute:
      return "compute";
    case OpKind::reduction:
      return "reduction";
    case OpKind::movement:
      return "movement";
    case OpKind::quantization:
      return "quantization";
    case OpKind::fused:
      return "fused";
    case OpKind::shape:
      return "shape";
  }
  throw InternalError("unknown kind of op");
}

const char* trait_name(QuantTrait trait) {
  switch (trait) {
    case QuantTrait::weighted:
      return "weighted";
    case QuantTrait::same_scale:
      return "same scale";
    case QuantTrait::requantize:
      return "requantize";
    case QuantTrait::float_only:
      return "float";
    case QuantTrait::none:
      return "";
  }
  throw InternalError("unknown quantization trait");
}

const char* form_name(const TargetFacts& facts, std::string_view op) {
  switch (facts.form(op)) {
    case IntegerForm::none:
      return "float";
    case IntegerForm::product:
      return "product";
    case IntegerForm::arithmetic:
      return "arithmetic";
    case IntegerForm::copy:
      return "copy";
  }
  throw InternalError("unknown integer form");
}

json rule_json(const OnnxImportRule& rule) {
  json one{{"op_type", rule.op_type}, {"domain", rule.domain}, {"since", rule.since}};
  if (rule.until != std::numeric_limits<int64_t>::max()) one["until"] = rule.until;
  return one;
}

}  // namespace

json describe_ops() {
  json table{{"ops", json::array()}, {"composed", json::array()}};
  for (const OpDef& op : all_ops()) {
    json row{{"name", op.name},
             {"kind", kind_name(op.kind)},
             {"stage", stage_name(op.stage)},
             {"quantization", trait_name(op.quant)},
             {"doc", op.impl->doc},
             {"kernels", false},
             {"imports", json::array()},
             {"exports", op.impl->onnx_export != nullptr},
             {"targets", json::object()}};
    for (const Selector& selector : selectors())
      if (selector.op == op.name) row["kernels"] = true;
    for (const OnnxImportRule& rule : op.impl->onnx_import)
      row["imports"].push_back(rule_json(rule));
    for (const PlacementTarget& target : placement_targets())
      row["targets"][target.name] = form_name(target.facts(), op.name);
    table["ops"].push_back(std::move(row));
  }
  for (const auto rules : onnx_import::composed_rules())
    for (const OnnxImportRule& rule : rules) table["composed"].push_back(rule_json(rule));
  return table;
}

json describe_target(const std::string& target) {
  const TargetFacts& facts = find_placement_target(target).facts();
  json ops = json::object();
  for (const OpFact& fact : facts.ops)
    ops[std::string(fact.op)] = {{"form", form_name(facts, fact.op)},
                                 {"quantized_output", fact.quantized_output}};
  return {{"activation", dtype_name(facts.activation)},
          {"products_take_additions", facts.products_take_additions},
          {"shared_concat", facts.shared_concat},
          {"clamp_vanishes", facts.clamp_vanishes},
          {"fuses_functions", facts.fuses_functions},
          {"function_tables", facts.function_tables},
          {"clamp_must_saturate", facts.clamp_must_saturate()},
          {"ops", std::move(ops)}};
}

}  // namespace octavo
