#include "graph/op_def.h"
#include "ops/op.h"

namespace octavo {
namespace {
const OpDef table[] = {
#define OP(name, kind, stage, quant) \
  {#name, OpKind::kind, Stage::stage, QuantTrait::quant, &ops::op_##name},
#include "ops/ops.def"
#undef OP
};
}  // namespace

std::span<const OpDef> all_ops() { return table; }

const OpDef* find_op(std::string_view name) {
  static const auto by_name = [] {
    std::unordered_map<std::string_view, const OpDef*> map;
    for (const OpDef& def : table) map.emplace(def.name, &def);
    return map;
  }();
  const auto it = by_name.find(name);
  return it == by_name.end() ? nullptr : it->second;
}

}  // namespace octavo
