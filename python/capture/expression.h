// Sizes that are known only when a piece runs: expressions of symbols, with Python's arithmetic.
//
// A symbol stands for one size of an input, or for an int argument; it is at least 2 (0 and 1 are
// always specialised upon). An expression carries no value of its own: `evaluate` takes those of
// the symbols. While tracing, each goes with its hint, the value in the call that is traced.
#pragma once
#include <bit>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

namespace octavo::capture {

// A Python int or float.
struct Number {
  bool real = false;
  int64_t whole = 0;
  double value = 0;
  static Number of(int64_t whole) { return {false, whole, 0}; }
  static Number of_real(double value) { return {true, 0, value}; }
  double as_double() const { return real ? value : static_cast<double>(whole); }
  // NaN is itself, and 0.0 is not -0.0.
  bool operator==(const Number& other) const {
    return real == other.real && whole == other.whole &&
           std::bit_cast<uint64_t>(value) == std::bit_cast<uint64_t>(other.value);
  }
};

struct Expression;
using Expr = std::shared_ptr<const Expression>;

struct Expression {
  enum class Op : uint8_t {
    symbol,
    constant,
    add,
    sub,
    mul,
    floordiv,
    mod,
    truediv,
    power,
    largest,
    smallest,
    negative,
    to_float,
    root,  // math.sqrt
  };
  Op op;
  int symbol = -1;
  Number constant;
  Expr left, right;
};

Expr symbol_expression(int symbol);
Expr constant_expression(Number value);
// Simplified where that is plain; null where constant operands have no value (division by zero).
Expr make_expression(Expression::Op op, Expr left, Expr right = nullptr);

// None where Python would raise or leave 64 bits.
std::optional<Number> evaluate(const Expression& expression, const std::vector<int64_t>& symbols);
bool is_real(const Expression& expression);
bool same(const Expression& a, const Expression& b);
// A number that the expression is never below, if one is known.
std::optional<int64_t> least(const Expression& expression);
std::string to_string(const Expression& expression);  // "(s0 + 1)"

// left < right and so on, which must be `expected` (`comparison`: as COMPARE_OP counts, lt le eq ne
// gt ge; or `identical`).
constexpr int identical = 6;  // of numbers to the bit, so that a constant may stand for both
struct Condition {
  int comparison;
  Expr left, right;
  bool expected;
};
std::optional<bool> holds(int comparison, const Number& left, const Number& right);
bool holds(const Condition& condition, const std::vector<int64_t>& symbols);
std::string to_string(const Condition& condition);

// One size of a tensor: its value in the traced call, and what it is made of; null: always that.
struct Dim {
  int64_t hint = 0;
  Expr expr;
  Dim() = default;
  Dim(int64_t size) : hint(size) {}  // NOLINT(google-explicit-constructor): a known size is a size
  Dim(int64_t size, Expr made_of) : hint(size), expr(std::move(made_of)) {}
};
Dim operator+(const Dim& a, const Dim& b);
Dim operator-(const Dim& a, const Dim& b);
Dim operator*(const Dim& a, const Dim& b);
Dim floordiv(const Dim& a, int64_t b);
Expr expression_of(const Dim& dim);

}  // namespace octavo::capture
