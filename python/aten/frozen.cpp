#include "frozen.h"

#include <algorithm>

#include "support/error.h"

namespace octavo::aten {
namespace {

// Programs whose weights changed before they had run for as long as it took to make them.
constexpr int most_short_lives = 3;

using Constants = std::vector<std::pair<std::size_t, at::Tensor>>;

// `graph` with some inputs as constants; the inputs that it writes are not among them.
Graph with_constants(const Graph& graph, const Constants& constants) {
  Graph made = graph;
  made.inputs.clear();
  std::vector<bool> constant(graph.inputs.size());
  for (const auto& [input, tensor] : constants) {
    constant[input] = true;
    made.constants.emplace_back(graph.inputs[input], tensor);
  }
  std::vector<std::size_t> place(graph.inputs.size());
  for (std::size_t n = 0; n < graph.inputs.size(); ++n) {
    place[n] = made.inputs.size();
    if (!constant[n]) made.inputs.push_back(graph.inputs[n]);
  }
  for (auto& [input, value] : made.writes) input = place[input];
  return made;
}

}  // namespace

bool Frozen::holds(const Made& made, const std::vector<at::Tensor>& inputs) {
  return std::all_of(made.weights.begin(), made.weights.end(), [&](const Weight& weight) {
    const at::Tensor& now = inputs[weight.input];
    return now.storage_offset() == weight.offset && weight.watch.untouched(now.storage());
  });
}

// The watches start before anything is read: what is written meanwhile is seen at the next call.
std::shared_ptr<const Frozen::Made> Frozen::make(const std::vector<at::Tensor>& inputs) const {
  auto made = std::make_shared<Made>();
  Constants constants;
  for (std::size_t n = 0; n < inputs.size(); ++n) {
    std::optional<WriteWatch> watch;
    if (held_[n] && inputs[n].has_storage()) watch = WriteWatch::start(inputs[n].storage());
    if (!watch) {
      made->others.push_back(n);
      continue;
    }
    constants.emplace_back(n, inputs[n]);
    made->weights.push_back({n, inputs[n].storage_offset(), std::move(*watch)});
  }
  if (constants.empty()) return nullptr;
  made->program = std::make_shared<const Program>(with_constants(graph_, constants));
  return made;
}

std::shared_ptr<const Program> Frozen::program(const std::vector<at::Tensor>& inputs,
                                               std::vector<at::Tensor>& others) {
  std::shared_ptr<const Made> now;
  {
    const std::lock_guard lock(mutex_);
    if (given_up_) return nullptr;
    if (!made_ || !holds(*made_, inputs)) {
      const auto start = Clock::now();
      if (made_) short_lives_ = start - made_at_ < 2 * making_ ? short_lives_ + 1 : 0;
      made_ = short_lives_ < most_short_lives ? make(inputs) : nullptr;
      given_up_ = !made_;
      count_ += made_ != nullptr;
      made_at_ = Clock::now();
      making_ = made_at_ - start;
    }
    now = made_;
  }
  if (!now) return nullptr;
  for (const std::size_t n : now->others) others.push_back(inputs[n]);
  return now->program;
}

Program::Summary Frozen::summary() const {
  const std::lock_guard lock(mutex_);
  return made_ ? made_->program->summary() : Program::Summary();
}
std::size_t Frozen::constants() const {
  const std::lock_guard lock(mutex_);
  return made_ ? made_->weights.size() : 0;
}
std::size_t Frozen::made() const {
  const std::lock_guard lock(mutex_);
  return count_;
}

}  // namespace octavo::aten
