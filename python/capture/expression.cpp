#include "expression.h"

#include <fmt/format.h>

#include <cmath>

namespace octavo::capture {
namespace {

using Op = Expression::Op;

std::optional<Number> divide(Op op, const Number& a, const Number& b) {
  if (a.real || b.real) {
    const double x = a.as_double(), y = b.as_double();
    if (y == 0) return std::nullopt;
    if (op == Op::truediv) return Number::of_real(x / y);
    // As Python's float_divmod: the remainder has the divisor's sign.
    double rest = std::fmod(x, y);
    double quotient = (x - rest) / y;
    if (rest != 0) {
      if ((y < 0) != (rest < 0)) {
        rest += y;
        quotient -= 1;
      }
    } else {
      rest = std::copysign(0.0, y);
    }
    if (op == Op::mod) return Number::of_real(rest);
    if (quotient == 0) return Number::of_real(std::copysign(0.0, x / y));
    const double down = std::floor(quotient);
    return Number::of_real(quotient - down > 0.5 ? down + 1 : down);
  }
  const int64_t x = a.whole, y = b.whole;
  if (y == 0 || (y == -1 && x == INT64_MIN)) return std::nullopt;
  if (op == Op::truediv) {
    // Exact in float64; beyond, Python rounds the quotient of the integers itself.
    constexpr int64_t exact = int64_t{1} << 53;
    if (x > exact || x < -exact || y > exact || y < -exact) return std::nullopt;
    return Number::of_real(static_cast<double>(x) / static_cast<double>(y));
  }
  const int64_t rest = x % y;
  const bool down = rest != 0 && (rest < 0) != (y < 0);
  if (op == Op::mod) return Number::of(down ? rest + y : rest);
  return Number::of(x / y - (down ? 1 : 0));
}

std::optional<Number> power(const Number& a, const Number& b) {
  if (a.real || b.real) {
    if (a.as_double() <= 0) return std::nullopt;  // complex numbers, errors: not for sizes
    const double result = std::pow(a.as_double(), b.as_double());
    if (std::isinf(result)) return std::nullopt;  // Python's is an error, of finite numbers
    return Number::of_real(result);
  }
  if (b.whole < 0 || b.whole > 64) return std::nullopt;
  int64_t result = 1;
  for (int64_t n = 0; n < b.whole; ++n)
    if (__builtin_mul_overflow(result, a.whole, &result)) return std::nullopt;
  return Number::of(result);
}

std::optional<Number> apply(Op op, const Number& a, const Number& b) {
  const bool reals = a.real || b.real;
  const double x = a.as_double(), y = b.as_double();
  int64_t result = 0;
  switch (op) {
    case Op::add:
      if (reals) return Number::of_real(x + y);
      if (__builtin_add_overflow(a.whole, b.whole, &result)) return std::nullopt;
      return Number::of(result);
    case Op::sub:
      if (reals) return Number::of_real(x - y);
      if (__builtin_sub_overflow(a.whole, b.whole, &result)) return std::nullopt;
      return Number::of(result);
    case Op::mul:
      if (reals) return Number::of_real(x * y);
      if (__builtin_mul_overflow(a.whole, b.whole, &result)) return std::nullopt;
      return Number::of(result);
    case Op::floordiv:
    case Op::mod:
    case Op::truediv:
      return divide(op, a, b);
    case Op::power:
      return power(a, b);
    case Op::largest:
      return holds(0, a, b).value_or(false) ? b : a;
    case Op::smallest:
      return holds(0, b, a).value_or(false) ? b : a;
    case Op::negative:
      if (a.real) return Number::of_real(-a.value);
      if (__builtin_sub_overflow(int64_t{0}, a.whole, &result)) return std::nullopt;
      return Number::of(result);
    case Op::to_float:
      return Number::of_real(a.as_double());
    case Op::root:
      if (a.as_double() < 0) return std::nullopt;
      return Number::of_real(std::sqrt(a.as_double()));
    case Op::symbol:
    case Op::constant:
      break;
  }
  return std::nullopt;
}

bool is_constant(const Expr& expr, int64_t value) {
  return expr->op == Op::constant && expr->constant == Number::of(value);
}

}  // namespace

Expr symbol_expression(int symbol) {
  return std::make_shared<const Expression>(Expression{Op::symbol, symbol, {}, nullptr, nullptr});
}

Expr constant_expression(Number value) {
  return std::make_shared<const Expression>(Expression{Op::constant, -1, value, nullptr, nullptr});
}

Expr make_expression(Op op, Expr left, Expr right) {
  const bool binary = op != Op::negative && op != Op::to_float && op != Op::root;
  if (left->op == Op::constant && (!binary || right->op == Op::constant)) {
    const auto value = apply(op, left->constant, binary ? right->constant : Number{});
    return value ? constant_expression(*value) : nullptr;
  }
  if (op == Op::add && is_constant(left, 0) && !is_real(*right)) return right;
  if ((op == Op::add || op == Op::sub) && is_constant(right, 0) && !is_real(*left)) return left;
  if (op == Op::mul && is_constant(left, 1)) return right;
  if ((op == Op::mul || op == Op::floordiv) && is_constant(right, 1) && !is_real(*left))
    return left;
  // (x + a) + b and (x - a) + b come from paddings and strides.
  if ((op == Op::add || op == Op::sub) && right->op == Op::constant && !right->constant.real &&
      (left->op == Op::add || left->op == Op::sub) && left->right->op == Op::constant &&
      !is_real(*left)) {
    const auto inner =
        apply(left->op == Op::add ? Op::add : Op::sub, Number::of(0), left->right->constant);
    const auto total = inner ? apply(op, *inner, right->constant) : std::nullopt;
    if (total) return make_expression(Op::add, left->left, constant_expression(*total));
  }
  // x * a // a
  if (op == Op::floordiv && left->op == Op::mul && right->op == Op::constant &&
      !right->constant.real && right->constant.whole != 0 && !is_real(*left)) {
    if (same(*left->right, *right)) return left->left;
    if (same(*left->left, *right)) return left->right;
  }
  return std::make_shared<const Expression>(
      Expression{op, -1, {}, std::move(left), std::move(right)});
}

std::optional<Number> evaluate(const Expression& e, const std::vector<int64_t>& symbols) {
  if (e.op == Op::constant) return e.constant;
  if (e.op == Op::symbol) return Number::of(symbols[static_cast<size_t>(e.symbol)]);
  const auto a = evaluate(*e.left, symbols);
  if (!a) return std::nullopt;
  if (!e.right) return apply(e.op, *a, {});
  const auto b = evaluate(*e.right, symbols);
  if (!b) return std::nullopt;
  return apply(e.op, *a, *b);
}

bool is_real(const Expression& e) {
  switch (e.op) {
    case Op::symbol:
      return false;
    case Op::constant:
      return e.constant.real;
    case Op::truediv:
    case Op::to_float:
    case Op::root:
      return true;
    default:
      return is_real(*e.left) || (e.right && is_real(*e.right));
  }
}

bool same(const Expression& a, const Expression& b) {
  if (&a == &b) return true;
  if (a.op != b.op) return false;
  if (a.op == Op::symbol) return a.symbol == b.symbol;
  if (a.op == Op::constant) return a.constant == b.constant;
  return same(*a.left, *b.left) && (!a.right || same(*a.right, *b.right));
}

std::optional<int64_t> least(const Expression& e) {
  if (is_real(e)) return std::nullopt;
  switch (e.op) {
    case Op::symbol:
      return 2;
    case Op::constant:
      return e.constant.whole;
    case Op::add:
    case Op::mul:
    case Op::largest: {
      const auto a = least(*e.left), b = least(*e.right);
      if (e.op == Op::largest && (a || b)) return a && b ? std::max(*a, *b) : a ? *a : *b;
      if (!a || !b || (e.op == Op::mul && (*a < 0 || *b < 0))) return std::nullopt;
      const auto value = apply(e.op, Number::of(*a), Number::of(*b));
      return value ? std::optional(value->whole) : std::nullopt;
    }
    case Op::smallest: {
      const auto a = least(*e.left), b = least(*e.right);
      return a && b ? std::optional(std::min(*a, *b)) : std::nullopt;
    }
    case Op::sub:
      if (e.right->op == Op::constant)
        if (const auto a = least(*e.left)) {
          const auto value = apply(Op::sub, Number::of(*a), e.right->constant);
          return value ? std::optional(value->whole) : std::nullopt;
        }
      return std::nullopt;
    case Op::floordiv:
      if (e.right->op == Op::constant && e.right->constant.whole > 0)
        if (const auto a = least(*e.left))
          return divide(Op::floordiv, Number::of(*a), e.right->constant)->whole;
      return std::nullopt;
    case Op::mod:
      if (e.right->op == Op::constant && e.right->constant.whole > 0) return 0;
      return std::nullopt;
    default:
      return std::nullopt;
  }
}

std::string to_string(const Expression& e) {
  static constexpr const char* signs[] = {"", "", "+", "-", "*", "//", "%", "/", "**"};
  switch (e.op) {
    case Op::symbol:
      return fmt::format("s{}", e.symbol);
    case Op::constant:
      return e.constant.real ? fmt::format("{}", e.constant.value)
                             : fmt::format("{}", e.constant.whole);
    case Op::largest:
      return fmt::format("max({}, {})", to_string(*e.left), to_string(*e.right));
    case Op::smallest:
      return fmt::format("min({}, {})", to_string(*e.left), to_string(*e.right));
    case Op::negative:
      return fmt::format("-{}", to_string(*e.left));
    case Op::to_float:
      return fmt::format("float({})", to_string(*e.left));
    case Op::root:
      return fmt::format("sqrt({})", to_string(*e.left));
    default:
      return fmt::format("({} {} {})", to_string(*e.left), signs[static_cast<size_t>(e.op)],
                         to_string(*e.right));
  }
}

std::optional<bool> holds(int comparison, const Number& a, const Number& b) {
  if (comparison == identical) return a == b;
  constexpr int64_t exact = int64_t{1} << 53;
  if (a.real != b.real) {
    const int64_t integer = a.real ? b.whole : a.whole;
    if (integer > exact || integer < -exact) return std::nullopt;
  }
  const bool reals = a.real || b.real;
  const double x = a.as_double(), y = b.as_double();
  switch (comparison) {
    case 0:
      return reals ? x < y : a.whole < b.whole;
    case 1:
      return reals ? x <= y : a.whole <= b.whole;
    case 2:
      return reals ? x == y : a.whole == b.whole;
    case 3:
      return reals ? x != y : a.whole != b.whole;
    case 4:
      return reals ? x > y : a.whole > b.whole;
    default:
      return reals ? x >= y : a.whole >= b.whole;
  }
}

bool holds(const Condition& condition, const std::vector<int64_t>& symbols) {
  const auto a = evaluate(*condition.left, symbols), b = evaluate(*condition.right, symbols);
  return a && b && holds(condition.comparison, *a, *b) == condition.expected;
}

std::string to_string(const Condition& condition) {
  static constexpr const char* signs[] = {"<", "<=", "==", "!=", ">", ">=", "is"};
  return fmt::format("{}{} {} {}", condition.expected ? "" : "not ", to_string(*condition.left),
                     signs[condition.comparison], to_string(*condition.right));
}

Expr expression_of(const Dim& dim) {
  return dim.expr ? dim.expr : constant_expression(Number::of(dim.hint));
}

namespace {
Dim combine(Op op, const Dim& a, const Dim& b, int64_t hint) {
  if (!a.expr && !b.expr) return {hint};
  Expr made = make_expression(op, expression_of(a), expression_of(b));
  if (made->op == Op::constant) return {hint};
  return {hint, std::move(made)};
}
}  // namespace

Dim operator+(const Dim& a, const Dim& b) { return combine(Op::add, a, b, a.hint + b.hint); }
Dim operator-(const Dim& a, const Dim& b) { return combine(Op::sub, a, b, a.hint - b.hint); }
Dim operator*(const Dim& a, const Dim& b) { return combine(Op::mul, a, b, a.hint * b.hint); }
Dim floordiv(const Dim& a, int64_t b) {
  return combine(Op::floordiv, a, {b},
                 divide(Op::floordiv, Number::of(a.hint), Number::of(b))->whole);
}

}  // namespace octavo::capture
