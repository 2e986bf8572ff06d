#include "graph/same_graph.h"

#include <bit>

#include "graph/op_def.h"
#include "support/error.h"

namespace octavo {
namespace {

bool same_bits(double a, double b) {
  return std::bit_cast<uint64_t>(a) == std::bit_cast<uint64_t>(b);
}

class Comparer {
 public:
  Comparer(const Graph& a, const Graph& b, const SameGraphOptions& what)
      : a_(a), b_(b), what_(what) {}

  // Where they differ; empty if nowhere.
  std::string run() {
    if (a_.stage != b_.stage)
      return fmt::format("stage {} against {}", stage_name(a_.stage), stage_name(b_.stage));
    if (what_.names && a_.name != b_.name)
      return fmt::format("name '{}' against '{}'", a_.name, b_.name);
    pair_all(a_.inputs(), b_.inputs(), "graph input");
    const Node *x = a_.first(), *y = b_.first();
    for (; x && y && difference_.empty(); x = x->next(), y = y->next()) compare_nodes(*x, *y);
    if (!difference_.empty()) return difference_;
    if (x || y) return fmt::format("{} nodes against {}", a_.node_count(), b_.node_count());
    pair_all(a_.outputs(), b_.outputs(), "graph output");
    const size_t constants_a = a_.constants().size(), constants_b = b_.constants().size();
    if (difference_.empty() && constants_a != constants_b)
      return fmt::format("{} constants against {}", constants_a, constants_b);
    for (const Value* constant : a_.constants())  // those that nothing reads are paired by name
      if (what_.names && !constant->name().empty() && !to_b_.contains(constant))
        pair(constant, b_.find_value(constant->name()), "constant");
    return difference_;
  }

 private:
  void differ(const std::string& where, const std::string& a, const std::string& b) {
    if (difference_.empty()) difference_ = fmt::format("{}: {} against {}", where, a, b);
  }

  template <class List>
  void pair_all(const List& a, const List& b, const std::string& where) {
    if (a.size() != b.size())
      return differ(where, fmt::format("{} values", a.size()), fmt::to_string(b.size()));
    for (size_t i = 0; i < a.size(); ++i) pair(a[i], b[i], fmt::format("{} {}", where, i));
  }

  // The first meeting of two values compares them, later ones must be the same two.
  void pair(const Value* a, const Value* b, const std::string& where) {
    if (!difference_.empty()) return;
    const auto name = [](const Value* v) { return v ? "'" + v->name() + "'" : "none"; };
    if (!a || !b) {
      if (a || b) differ(where, name(a), name(b));
      return;
    }
    const auto [forth, fresh] = to_b_.emplace(a, b);
    const auto [back, fresh_back] = to_a_.emplace(b, a);
    if (forth->second != b || back->second != a)
      return differ(where, name(a), name(b) + ", another value");
    if (!fresh) return;
    if (what_.names && a->name() != b->name()) return differ(where, name(a), name(b));
    if (a->type().str() != b->type().str()) return differ(where, a->type().str(), b->type().str());
    if (a->is_constant() != b->is_constant() || a->is_input() != b->is_input())
      return differ(where, name(a), "another kind of value");
    if (a->is_constant() && what_.constants && !(a->constant() == b->constant()))
      differ(where, "constant " + name(a), "other elements");
  }

  void compare_nodes(const Node& a, const Node& b) {
    const std::string where = a.where();
    if (&a.op() != &b.op())
      return differ(where, std::string(a.op_name()), std::string(b.op_name()));
    if (what_.names && a.name() != b.name())
      return differ(where, "node '" + a.name() + "'", "'" + b.name() + "'");
    const size_t inputs = std::max(a.inputs().size(), b.inputs().size());
    for (size_t i = 0; i < inputs; ++i)
      pair(a.input(i), b.input(i), fmt::format("{} input {}", where, i));
    pair_all(a.outputs(), b.outputs(), where + " output");
    for (const auto& [name, value] : a.attributes()) {
      const auto other = b.attributes().find(name);
      if (other == b.attributes().end()) return differ(where, "attribute " + name, "none");
      if (!same_attribute(value, other->second))
        return differ(where, "attribute " + name, "another value");
    }
    if (a.attributes().size() != b.attributes().size())
      differ(where, fmt::format("{} attributes", a.attributes().size()),
             fmt::to_string(b.attributes().size()));
  }

  const Graph &a_, &b_;
  const SameGraphOptions& what_;
  std::string difference_;
  std::unordered_map<const Value*, const Value*> to_b_, to_a_;
};

}  // namespace

bool same_attribute(const Attribute& a, const Attribute& b) {
  if (a.index() != b.index()) return false;
  if (const auto* x = std::get_if<double>(&a)) return same_bits(*x, std::get<double>(b));
  if (const auto* x = std::get_if<Floats>(&a)) {
    const auto& y = std::get<Floats>(b);
    return std::equal(x->begin(), x->end(), y.begin(), y.end(), same_bits);
  }
  return a == b;
}

bool same_graph(const Graph& a, const Graph& b, std::string* difference,
                const SameGraphOptions& what) {
  std::string found = Comparer(a, b, what).run();
  const bool same = found.empty();
  if (difference) *difference = std::move(found);
  return same;
}

}  // namespace octavo
