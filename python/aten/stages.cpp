#include "stages.h"

#include <torch/csrc/autograd/function.h>

#include <algorithm>
#include <memory>
#include <numeric>
#include <unordered_map>
#include <utility>

namespace octavo::aten {
namespace {

using torch::autograd::Node;
using torch::autograd::variable_list;

struct KeepGradient : torch::autograd::FunctionPreHook {
  explicit KeepGradient(Inner& at) : inner(at) {}
  variable_list operator()(const variable_list& incoming) override {
    variable_list passed = incoming;
    if (inner.keeps)
      inner.gradient = std::exchange(passed.at(inner.tensor.edge.input_nr), at::Tensor());
    return passed;
  }
  Inner& inner;
};

// What `edge` is made of, up to `ends`; neither these nor itself.
Edges history_of(const Edge& edge, const Edges& ends) {
  Edges found;
  std::unordered_set<Node*> visited;
  std::vector<Node*> open{edge.function.get()};
  while (!open.empty()) {
    Node* node = open.back();
    open.pop_back();
    if (!visited.insert(node).second) continue;
    for (const Edge& next : node->next_edges()) {
      if (!next.is_valid() || ends.count(next) > 0) continue;
      found.insert(next);
      open.push_back(next.function.get());
    }
  }
  return found;
}

}  // namespace

std::deque<Inner> find_inner(const std::vector<Reached>& tensors) {
  std::vector<Edges> histories;
  histories.reserve(tensors.size());
  for (const Reached& tensor : tensors) histories.push_back(history_of(tensor.edge, {}));
  std::vector<std::size_t> order;
  for (std::size_t n = 0; n < tensors.size(); ++n)
    for (std::size_t other = 0; other < tensors.size(); ++other)
      if (!tensors[other].view && histories[other].count(tensors[n].edge) > 0) {
        order.push_back(n);
        break;
      }
  std::stable_sort(order.begin(), order.end(), [&](std::size_t a, std::size_t b) {
    return histories[a].size() < histories[b].size();
  });
  std::deque<Inner> inner;
  for (const std::size_t n : order) inner.push_back({tensors[n], true, {}});
  // The last first: of a result and an output that is its view, which have one edge, the gradient
  // reaches the view.
  for (auto one = inner.rbegin(); one != inner.rend(); ++one)
    one->tensor.edge.function->add_tensor_pre_hook(std::make_unique<KeepGradient>(*one));
  return inner;
}

std::vector<std::vector<std::size_t>> grouped(const std::vector<Reached>& results,
                                              const Edges& ends) {
  // The group of each result is named by its first member.
  std::vector<std::size_t> group(results.size());
  std::iota(group.begin(), group.end(), std::size_t{0});
  std::unordered_map<const Node*, std::size_t> first;  // result whose gradient has the node
  for (std::size_t n = 0; n < results.size(); ++n) {
    Edges all = history_of(results[n].edge, ends);
    all.insert(results[n].edge);
    for (const Edge& edge : all) {
      const std::size_t other = group[first.try_emplace(edge.function.get(), n).first->second];
      const auto [kept, dropped] = std::minmax(other, group[n]);
      std::replace(group.begin(), group.end(), std::size_t{dropped}, std::size_t{kept});
    }
  }
  std::vector<std::vector<std::size_t>> groups;
  for (std::size_t n = 0; n < results.size(); ++n) {
    if (group[n] != n) continue;
    groups.emplace_back();
    for (std::size_t other = n; other < results.size(); ++other)
      if (group[other] == n) groups.back().push_back(results[other].index);
  }
  return groups;
}

}  // namespace octavo::aten
