#include "regions.h"

#include <algorithm>
#include <map>
#include <numeric>

#include "support/buffer.h"
#include "support/error.h"

namespace octavo::aten {
namespace {

std::size_t at(ValueId value) { return static_cast<std::size_t>(value); }

bool empty(const ValueInfo& info) {
  return std::any_of(info.sizes.begin(), info.sizes.end(), [](auto n) { return n == 0; });
}

// Regions have even numbers, calls of torch between them odd ones; all of one number that are
// lowered become one region.
class Cutter {
 public:
  Cutter(const Facts& facts, const std::unordered_set<std::size_t>& refused)
      : facts_(facts),
        graph_(facts.graph),
        kinds_(graph_.nodes.size(), Kind::opaque),
        phase_(graph_.nodes.size(), -1),
        producer_(graph_.values.size(), none),
        as_tensor_(graph_.values.size(), -1),
        in_region_(graph_.values.size(), 0),
        wanted_(graph_.values.size(), false),
        made_(graph_.values.size(), false) {
    for (std::size_t i = 0; i < graph_.nodes.size(); ++i)
      for (const ValueId value : graph_.nodes[i].outputs) producer_[at(value)] = i;
    for (std::size_t i = 0; i < graph_.nodes.size(); ++i) classify(i, refused.contains(i));
  }

  std::vector<PlannedStep> run() {
    find_wanted();
    std::map<int, std::vector<std::size_t>> phases;
    for (std::size_t i = 0; i < graph_.nodes.size(); ++i)
      if (kinds_[i] != Kind::view && !dead(i)) phases[phase_[i]].push_back(i);
    for (const ValueId value : graph_.inputs) made_[at(value)] = true;
    for (const auto& [value, tensor] : graph_.constants) made_[at(value)] = true;
    for (const auto& [phase, nodes] : phases) {
      if (phase % 2 == 0)
        add_region(nodes);
      else
        for (const std::size_t i : nodes) {
          Call(facts_, graph_.nodes[i]).for_each_tensor([&](ValueId v) { make(v); });
          add({PlannedStep::Kind::opaque, {i}, {}, graph_.nodes[i].outputs});
        }
    }
    for (const ValueId value : graph_.outputs) make(value);
    for (const auto& [input, value] : graph_.writes) make(value);
    return std::move(steps_);
  }

 private:
  enum class Kind { lowered, view, opaque };
  static constexpr std::size_t none = static_cast<std::size_t>(-1);

  void classify(std::size_t i, bool refused) {
    const Node& node = graph_.nodes[i];
    const Call call(facts_, node);
    const Rule* rule = find_rule(node.op);
    bool nothing = false;
    call.for_each_tensor([&](ValueId v) { nothing = nothing || empty(graph_.values[at(v)]); });
    for (const ValueId v : node.outputs)
      nothing = nothing || (facts_.uses[at(v)] > 0 && empty(graph_.values[at(v)]));
    if (rule && rule->view)
      kinds_[i] = nothing || refused || !rule->accepts(call) ? Kind::opaque : Kind::view;
    else if (rule && !nothing && !refused && rule->accepts(call))
      kinds_[i] = Kind::lowered;
    int tensor = -1, region = 0;
    call.for_each_tensor([&](ValueId v) {
      tensor = std::max(tensor, as_tensor_[at(v)]);
      region = std::max(region, in_region_[at(v)]);
    });
    switch (kinds_[i]) {
      case Kind::lowered:
        phase_[i] = tensor = region;
        break;
      case Kind::view:
        break;
      case Kind::opaque:
        if (is_random(node.op))  // drawn in the program's order
          tensor = drawn_ = std::max(tensor, drawn_) | 1;
        tensor |= 1;
        phase_[i] = tensor;
        region = tensor + 1;
        break;
    }
    for (const ValueId v : node.outputs) as_tensor_[at(v)] = tensor, in_region_[at(v)] = region;
  }

  // A node whose results nobody reads, unless it is one of torch's that may do something else too.
  bool dead(std::size_t i) const {
    const auto& name = graph_.nodes[i].op.operator_name();
    if (kinds_[i] == Kind::opaque && name.name != "aten::empty") return false;
    const auto& outputs = graph_.nodes[i].outputs;
    return std::all_of(outputs.begin(), outputs.end(),
                       [&](ValueId v) { return facts_.uses[at(v)] == 0; });
  }

  // The value at the start of a chain of views.
  ValueId base(ValueId value) const {
    while (producer_[at(value)] != none && kinds_[producer_[at(value)]] == Kind::view)
      value = Call(facts_, graph_.nodes[producer_[at(value)]]).id("self");
    return value;
  }
  bool in_phase(ValueId value, int phase) const {
    const std::size_t i = producer_[at(value)];
    return i != none && kinds_[i] == Kind::lowered && phase_[i] == phase;
  }

  // Marks what must be there as a tensor, outside of the region that makes it.
  void find_wanted() {
    const auto want = [&](ValueId value) { wanted_[at(base(value))] = true; };
    for (std::size_t i = 0; i < graph_.nodes.size(); ++i) {
      if (kinds_[i] == Kind::view || dead(i)) continue;
      Call(facts_, graph_.nodes[i]).for_each_tensor([&](ValueId v) {
        if (kinds_[i] == Kind::opaque || !in_phase(base(v), phase_[i])) want(v);
      });
    }
    for (const ValueId value : graph_.outputs) want(value);
    for (const auto& [input, value] : graph_.writes) want(value);
  }

  // `value` as a tensor: views are made by torch.
  void make(ValueId value) {
    if (made_[at(value)]) return;
    const std::size_t i = producer_[at(value)];
    OCTAVO_CHECK(i != none && kinds_[i] == Kind::view);
    make(Call(facts_, graph_.nodes[i]).id("self"));
    add({PlannedStep::Kind::view, {i}, {}, graph_.nodes[i].outputs});
  }

  void add(PlannedStep step) {
    for (const ValueId value : step.outputs) made_[at(value)] = true;
    steps_.push_back(std::move(step));
  }

  void add_region(const std::vector<std::size_t>& nodes) {
    PlannedStep step;
    std::unordered_set<std::size_t> members;
    std::unordered_set<ValueId> inputs;
    // Views that its nodes read come along.
    const auto need = [&](auto&& self, ValueId value) -> void {
      const std::size_t i = producer_[at(value)];
      if (i != none && members.contains(i)) return;
      if (i != none && kinds_[i] == Kind::view) {
        self(self, Call(facts_, graph_.nodes[i]).id("self"));
        members.insert(i);
        step.nodes.push_back(i);
        return;
      }
      if (!inputs.insert(value).second) return;
      make(value);
      step.inputs.push_back(value);
    };
    for (const std::size_t i : nodes) {
      Call(facts_, graph_.nodes[i]).for_each_tensor([&](ValueId v) { need(need, v); });
      members.insert(i);
      step.nodes.push_back(i);
      for (const ValueId value : graph_.nodes[i].outputs)
        if (wanted_[at(value)]) step.outputs.push_back(value);
    }
    if (!step.outputs.empty()) add(std::move(step));
  }

  const Facts& facts_;
  const Graph& graph_;
  std::vector<Kind> kinds_;
  std::vector<int> phase_;
  std::vector<std::size_t> producer_;
  int drawn_ = -1;                          // the phase of the last random numbers
  std::vector<int> as_tensor_, in_region_;  // from which phase on a value is there, and in regions
  std::vector<bool> wanted_, made_;
  std::vector<PlannedStep> steps_;
};

bool is_row_major(const std::vector<std::int64_t>& order) {
  return std::is_sorted(order.begin(), order.end());
}

// In torch's memory: a program is made anew when a constant is written.
octavo::Tensor constant_of(const at::Tensor& tensor, DType dtype) {
  const auto dense = std::make_shared<const at::Tensor>(tensor.contiguous());
  return octavo::Tensor(dtype, dense->sizes().vec(),
                        Buffer::view(dense->const_data_ptr(), dense->nbytes(), dense));
}

std::vector<std::int64_t> permuted(const std::vector<std::int64_t>& sizes,
                                   const std::vector<std::int64_t>& order) {
  std::vector<std::int64_t> result;
  result.reserve(order.size());
  for (const auto axis : order) result.push_back(sizes[static_cast<std::size_t>(axis)]);
  return result;
}

}  // namespace

std::vector<PlannedStep> cut(const Facts& facts, const std::unordered_set<std::size_t>& refused) {
  return Cutter(facts, refused).run();
}

std::vector<std::int64_t> order_of(const ValueInfo& info) {
  std::vector<std::int64_t> order(info.sizes.size());
  std::iota(order.begin(), order.end(), 0);
  const auto stride = [&](std::int64_t axis) {
    return info.strides[static_cast<std::size_t>(axis)];
  };
  const auto size = [&](std::int64_t axis) { return info.sizes[static_cast<std::size_t>(axis)]; };
  const auto dense = [&] {
    std::int64_t expected = 1;
    for (std::size_t i = order.size(); i-- > 0;) {
      if (size(order[i]) == 1) continue;
      if (stride(order[i]) != expected) return false;
      expected *= size(order[i]);
    }
    return true;
  };
  if (dense()) return order;
  std::stable_sort(order.begin(), order.end(), [&](auto a, auto b) {
    return (size(a) == 1 ? 0 : stride(a)) > (size(b) == 1 ? 0 : stride(b));
  });
  if (!dense()) order.clear();
  return order;
}

IrGraph lower_region(const Facts& facts, const PlannedStep& step) {
  const Graph& graph = facts.graph;
  IrGraph ir;
  ir.name = "region";
  Lowering to(ir);
  for (const ValueId value : step.inputs) {
    const ValueInfo& info = graph.values[at(value)];
    const auto held = std::find_if(graph.constants.begin(), graph.constants.end(),
                                   [&](const auto& entry) { return entry.first == value; });
    const auto dtype = dtype_of(info.dtype);
    OCTAVO_CHECK(dtype);
    if (held != graph.constants.end()) {
      to.set(value, ir.add_constant("", constant_of(held->second, *dtype)));
      continue;
    }
    const auto order = order_of(info);
    if (order.empty() || is_row_major(order)) {
      to.set(value, ir.add_input("", {*dtype, Shape(info.sizes)}));
      continue;
    }
    IrValue* memory = ir.add_input("", {*dtype, Shape(permuted(info.sizes, order))});
    std::vector<std::int64_t> back(order.size());
    for (std::size_t i = 0; i < order.size(); ++i)
      back[static_cast<std::size_t>(order[i])] = static_cast<std::int64_t>(i);
    to.set(value, to.transpose(memory, std::move(back)));
  }
  for (const std::size_t i : step.nodes) {
    const Node& node = graph.nodes[i];
    const Call call(facts, node);
    const std::vector<IrValue*> results = find_rule(node.op)->lower(to, call);
    OCTAVO_CHECK(results.size() == node.outputs.size());
    for (std::size_t k = 0; k < results.size(); ++k) {
      if (!results[k]) continue;
      const ValueInfo& info = graph.values[at(node.outputs[k])];
      if (results[k]->shape() != Shape(info.sizes) || results[k]->dtype() != dtype_of(info.dtype))
        throw InternalError(fmt::format("the rule of {} gives {}, torch {}", call.name(),
                                        results[k]->type().str(), dims_str(info.sizes)));
      to.set(node.outputs[k], results[k]);
    }
  }
  for (const ValueId value : step.outputs) {
    const auto order = order_of(graph.values[at(value)]);
    IrValue* result = to.get(value);
    if (!order.empty()) result = to.transpose(result, order);
    ir.add_output(result);
  }
  return ir;
}

}  // namespace octavo::aten
