#include "codegen/fuse_steps.h"

#include <algorithm>
#include <map>
#include <optional>
#include <tuple>
#include <unordered_map>
#include <unordered_set>

#include "backends/cpu/pointwise.h"
#include "codegen/kernel_step.h"
#include "graph/op_def.h"
#include "passes/match.h"

namespace octavo {
namespace {

using cpu::BinaryOp;
using cpu::PointwiseInstruction;
using cpu::PointwiseKind;
using cpu::UnaryOp;

struct Row {
  PointwiseKind kind;
  UnaryOp unary = UnaryOp::relu;
  BinaryOp binary = BinaryOp::add;
  bool swapped = false;  // greater is less of the other order
};

const Row* row_of(const Node& node) {
  constexpr auto unary = [](UnaryOp op) { return Row{PointwiseKind::unary, op}; };
  constexpr auto binary = [](BinaryOp op) { return Row{PointwiseKind::binary, UnaryOp::relu, op}; };
  static const auto* table = new std::unordered_map<std::string_view, Row>{
      {"relu", unary(UnaryOp::relu)},
      {"sigmoid", unary(UnaryOp::sigmoid)},
      {"silu", unary(UnaryOp::silu)},
      {"gelu", unary(UnaryOp::gelu)},
      {"tanh", unary(UnaryOp::tanh)},
      {"erf", unary(UnaryOp::erf)},
      {"exp", unary(UnaryOp::exp)},
      {"log", unary(UnaryOp::log)},
      {"sqrt", unary(UnaryOp::sqrt)},
      {"reciprocal", unary(UnaryOp::reciprocal)},
      {"neg", unary(UnaryOp::neg)},
      {"abs", unary(UnaryOp::abs)},
      {"floor", unary(UnaryOp::floor)},
      {"ceil", unary(UnaryOp::ceil)},
      {"round", unary(UnaryOp::round)},
      {"round_to", unary(UnaryOp::round_f16)},
      {"add", binary(BinaryOp::add)},
      {"sub", binary(BinaryOp::sub)},
      {"mul", binary(BinaryOp::mul)},
      {"div", binary(BinaryOp::div)},
      {"pow", binary(BinaryOp::pow)},
      {"maximum", binary(BinaryOp::max)},
      {"minimum", binary(BinaryOp::min)},
      {"less", {PointwiseKind::less}},
      {"greater", {PointwiseKind::less, UnaryOp::relu, BinaryOp::add, true}},
      {"less_equal", {PointwiseKind::less_equal}},
      {"greater_equal", {PointwiseKind::less_equal, UnaryOp::relu, BinaryOp::add, true}},
      {"equal", {PointwiseKind::equal}},
      {"is_nan", {PointwiseKind::is_nan}},
      {"logical_and", {PointwiseKind::logical_and}},
      {"logical_or", {PointwiseKind::logical_or}},
      {"logical_xor", {PointwiseKind::logical_xor}},
      {"logical_not", {PointwiseKind::logical_not}},
      {"where", {PointwiseKind::where}},
      {"sign", {PointwiseKind::sign}},
      {"cast", {PointwiseKind::copy}},
  };
  const auto found = table->find(node.op_name());
  return found == table->end() ? nullptr : &found->second;
}

bool fits(DType dtype) { return dtype == DType::f32 || dtype == DType::boolean; }

bool is_pointwise(const Node& node) {
  if (!row_of(node) || node.outputs().size() != 1 || !fits(node.output()->dtype())) return false;
  if (node.is("cast") && node.output()->dtype() != DType::f32) return false;
  if (node.output()->shape().size() > cpu::BinaryStrided::max_rank) return false;
  for (const Value* input : node.inputs())
    if (!input || !fits(input->dtype())) return false;
  // Comparisons of bools are other functions.
  if (node.output()->dtype() == DType::boolean && !node.is("logical_and") &&
      !node.is("logical_or") && !node.is("logical_xor") && !node.is("logical_not") &&
      node.input(0)->dtype() != DType::f32)
    return false;
  return !node.is("where") || node.output()->dtype() == DType::f32;
}

const Value* unexpanded(const Value* value) {
  while (value->producer() && value->producer()->is("expand")) value = value->producer()->input(0);
  return value;
}

bool is_slow_alone(const Node& node) {
  const PointwiseKind kind = row_of(node)->kind;
  return kind != PointwiseKind::unary && kind != PointwiseKind::binary;
}

class PointwiseStep final : public StepKernel {
 public:
  explicit PointwiseStep(cpu::Pointwise pointwise) : p_(std::move(pointwise)) {}
  const char* name() const override { return "pointwise"; }
  Isa isa() const override { return best_isa(); }
  size_t scratch_bytes(int threads) const override {
    return cpu::pointwise_scratch_bytes(p_, threads);
  }
  bool may_overwrite(size_t input) const override {
    return p_.count == 1 || p_.inputs[input].form == cpu::PointwiseInput::Form::dense;
  }
  void run(StepInputs in, StepOutputs out, StepContext context) const override {
    cpu::run_pointwise(p_, in, out, context.scratch, context.pool);
  }

 private:
  cpu::Pointwise p_;
};

}  // namespace

bool is_group(const StepItem& item) {
  if (item.nodes.size() > 1) return true;
  const Node& node = *item.nodes[0];
  if (!is_pointwise(node)) return false;
  const auto inputs = node.inputs();
  return is_slow_alone(node) || std::any_of(inputs.begin(), inputs.end(), [](const Value* input) {
           return unexpanded(input) != input;
         });
}

bool is_absorbed_expand(const Graph& graph, const Node& node) {
  if (!node.is("expand") || graph.is_output(node.output())) return false;
  const auto& uses = node.output()->uses();
  return std::all_of(uses.begin(), uses.end(), [&](const Use& use) {
    if (use.node->is("expand")) return is_absorbed_expand(graph, *use.node);
    return is_pointwise(*use.node);
  });
}

std::vector<StepItem> fused_steps(const Graph& graph) {
  // Pointwise nodes have even phases, others odd ones: a group is of one phase, so that nothing
  // outside of it lies between its members.
  std::unordered_map<const Node*, int> phase;
  std::vector<const Node*> nodes;
  for (const Node* node = graph.first(); node; node = node->next()) {
    const bool pointwise = is_pointwise(*node);
    int own = pointwise ? 0 : 1;
    for (const Value* input : node->inputs())
      if (input && input->producer()) {
        const int before = phase[input->producer()];
        own = std::max(own, before % 2 == own % 2 ? before : before + 1);
      }
    phase[node] = own;
    nodes.push_back(node);
  }
  // Of one phase and shape, what hangs together.
  std::unordered_map<const Node*, size_t> place;
  std::vector<size_t> leader(nodes.size());
  const auto find = [&](size_t i) {
    while (leader[i] != i) i = leader[i] = leader[leader[i]];
    return i;
  };
  for (size_t i = 0; i < nodes.size(); ++i) {
    place[nodes[i]] = leader[i] = i;
    if (!is_pointwise(*nodes[i])) continue;
    for (const Value* input : nodes[i]->inputs()) {
      const Node* producer = input->producer();
      if (producer && phase[producer] == phase[nodes[i]] &&
          producer->output()->shape() == nodes[i]->output()->shape())
        leader[find(i)] = find(place[producer]);
    }
  }
  std::vector<StepItem> items;
  std::unordered_map<size_t, size_t> item_of;
  for (size_t i = 0; i < nodes.size(); ++i) {
    const auto [at, fresh] = item_of.emplace(find(i), items.size());
    if (fresh) items.emplace_back();
    items[at->second].nodes.push_back(nodes[i]);
  }
  // Within a phase, values only grow from one group to the next.
  const auto key = [&](const StepItem& item) {
    const Node* node = item.nodes[0];
    const bool pointwise = phase[node] % 2 == 0;
    const auto& shape = node->output()->shape();
    return std::tuple(phase[node], pointwise ? element_count(shape.dims()) : 0,
                      pointwise ? shape.size() : 0, place[node]);
  };
  std::vector<std::pair<decltype(key(items[0])), size_t>> order;
  for (size_t i = 0; i < items.size(); ++i) order.emplace_back(key(items[i]), i);
  std::sort(order.begin(), order.end());
  std::vector<StepItem> sorted;
  sorted.reserve(order.size());
  for (const auto& [k, i] : order) sorted.push_back(std::move(items[i]));
  return sorted;
}

FusedStep make_fused_step(const Graph& graph, const StepItem& item) {
  FusedStep step;
  cpu::Pointwise p;
  const Dims y = item.nodes[0]->output()->shape().dims();
  p.count = element_count(y);
  std::unordered_set<const Node*> members(item.nodes.begin(), item.nodes.end());
  std::unordered_map<const Value*, int> input_of, constant_of;
  std::unordered_map<const Value*, size_t> last;  // reader among the nodes
  StridedBox box{y, {}};
  const auto outside = [&](const Value* value) {
    return !value->producer() || !members.contains(value->producer());
  };
  for (size_t i = 0; i < item.nodes.size(); ++i)
    for (const Value* value : item.nodes[i]->inputs()) {
      if (!outside(value)) {
        last[value] = i;  // readers come in order
        continue;
      }
      value = unexpanded(value);
      const auto number = value->dtype() == DType::f32 ? scalar_constant(value) : std::nullopt;
      if (number) {
        if (constant_of.emplace(value, static_cast<int>(p.constants.size())).second)
          p.constants.push_back(static_cast<float>(*number));
      } else if (input_of.emplace(value, static_cast<int>(step.inputs.size())).second) {
        step.inputs.push_back(value);
        const Dims dims = value->shape().dims();
        cpu::PointwiseInput input{.boolean = value->dtype() == DType::boolean, .steps = {}};
        if (element_count(dims) == 1)
          input.form = cpu::PointwiseInput::Form::scalar;
        else if (element_count(dims) != p.count)
          input.form = cpu::PointwiseInput::Form::strided;
        p.inputs.push_back(std::move(input));
        box.steps.push_back(broadcast_steps(dims, y));
      }
    }
  const StridedBox merged_box = merged(box);
  p.dims = merged_box.dims.empty() ? Dims{1} : merged_box.dims;
  for (size_t i = 0; i < p.inputs.size(); ++i)
    p.inputs[i].steps = merged_box.dims.empty() ? Dims{0} : merged_box.steps[i];

  const int first = static_cast<int>(p.inputs.size() + p.constants.size());
  std::unordered_map<const Value*, int> temporary;
  std::vector<int> free;
  const auto take = [&] {
    if (free.empty()) return first + p.temporaries++;
    const int t = free.back();
    free.pop_back();
    return t;
  };
  const auto reg = [&](const Value* value) {
    if (!outside(value)) return temporary.at(value);
    value = unexpanded(value);
    if (const auto c = constant_of.find(value); c != constant_of.end())
      return static_cast<int>(p.inputs.size()) + c->second;
    return input_of.at(value);
  };
  for (size_t i = 0; i < item.nodes.size(); ++i) {
    const Node& node = *item.nodes[i];
    const Row& row = *row_of(node);
    PointwiseInstruction instruction{.kind = row.kind, .unary = row.unary, .binary = row.binary};
    if (node.is("gelu") && node.text("approximate") == "tanh")
      instruction.unary = UnaryOp::gelu_tanh;
    if (node.is("round_to") && node.text("to") == "bf16") instruction.unary = UnaryOp::round_bf16;
    instruction.a = reg(node.input(0));
    if (node.input(1)) instruction.b = reg(node.input(1));
    if (node.input(2)) instruction.c = reg(node.input(2));
    if (node.is("pow") && node.input(1) && scalar_constant(node.input(1)) == 2) {
      instruction.binary = BinaryOp::mul;
      instruction.b = instruction.a;
    }
    if (row.swapped) std::swap(instruction.a, instruction.b);
    instruction.y = take();
    const Value* output = node.output();
    temporary[output] = instruction.y;
    const auto& uses = output->uses();
    const bool leaves = graph.is_output(output) ||
                        std::any_of(uses.begin(), uses.end(),
                                    [&](const Use& use) { return !members.contains(use.node); });
    if (leaves) {
      p.outputs.push_back({.from = instruction.y, .boolean = output->dtype() == DType::boolean});
      step.outputs.push_back(output);
      last[output] = item.nodes.size();  // kept
    }
    p.code.push_back(instruction);
    for (const Value* input : node.inputs())
      if (!outside(input) && last[input] == i &&
          std::find(free.begin(), free.end(), temporary[input]) == free.end())
        free.push_back(temporary[input]);
  }
  cpu::finish_pointwise(p);
  step.kernel = std::make_unique<PointwiseStep>(std::move(p));
  return step;
}

}  // namespace octavo
