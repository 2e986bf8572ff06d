#include "graph/text_tensor.h"

#include <bit>
#include <charconv>
#include <cmath>
#include <cstring>

#include "support/error.h"
#include "support/hash.h"

namespace octavo {
namespace {

// What zeros, iota and random may make out of a few letters of text.
constexpr int64_t most_generated = int64_t{1} << 26;

template <class T>
struct BitsOf;
template <>
struct BitsOf<float> {
  using type = uint32_t;
  static constexpr type nan = 0x7fc00000u;
};
template <>
struct BitsOf<double> {
  using type = uint64_t;
  static constexpr type nan = 0x7ff8000000000000u;
};
constexpr uint16_t half_nan = 0x7e00, bfloat16_nan = 0x7fc0;

template <class Bits>
std::string print_nan(Bits bits, Bits usual) {
  return bits == usual ? "nan" : fmt::format("nan({:#x})", bits);
}

template <class T>
std::string print_float(T value) {
  using Bits = BitsOf<T>;
  if (std::isnan(value)) return print_nan(std::bit_cast<typename Bits::type>(value), Bits::nan);
  return fmt::format("{}", value);  // the shortest that reads back
}

template <class T>
T number(Lexer& lexer, const Token& token, const char* what) {
  T value{};
  const char* end = token.text.data() + token.text.size();
  const auto [stop, error] = std::from_chars(token.text.data(), end, value);
  if (error == std::errc::result_out_of_range)
    lexer.fail(token.offset, fmt::format("{} is out of range", token.text));
  if (error != std::errc() || stop != end)
    lexer.fail(token.offset, fmt::format("expected {}, found {}", what, quote(token.text)));
  return value;
}

// The bits in nan(0x…), or `usual`.
template <class Bits>
Bits parse_nan(Lexer& lexer, Bits usual) {
  if (!lexer.accept("(")) return usual;
  const Token token = lexer.expect(TokenKind::number, "the bits of a NaN");
  Bits bits{};
  const std::string_view digits =
      std::string_view(token.text).substr(std::min<size_t>(2, token.text.size()));
  const char* end = digits.data() + digits.size();
  const auto [stop, error] = std::from_chars(digits.data(), end, bits, 16);
  if (!token.text.starts_with("0x") || error != std::errc() || stop != end)
    lexer.fail(token.offset, fmt::format("expected hexadecimal bits, found {}", quote(token.text)));
  lexer.expect(")");
  return bits;
}

template <class T>
T parse_float(Lexer& lexer) {
  using Bits = BitsOf<T>;
  if (lexer.accept("inf")) return std::numeric_limits<T>::infinity();
  const size_t offset = lexer.peek().offset;
  if (lexer.accept("nan")) {
    const T value = std::bit_cast<T>(parse_nan<typename Bits::type>(lexer, Bits::nan));
    if (!std::isnan(value)) lexer.fail(offset, "these bits are not a NaN's");
    return value;
  }
  const Token token = lexer.expect(TokenKind::number, "a number");
  return number<T>(lexer, token, "a number");
}

// f16 and bf16 print as the float that they are.
template <class FromFloat>
uint16_t parse_short_float(Lexer& lexer, uint16_t usual_nan, FromFloat from_float) {
  if (lexer.accept("nan")) return parse_nan<uint16_t>(lexer, usual_nan);
  return from_float(parse_float<float>(lexer));
}

template <class T>
void put(std::byte* to, T value) {
  std::memcpy(to, &value, sizeof(T));
}

template <class T>
T get(const std::byte* from) {
  T value;
  std::memcpy(&value, from, sizeof(T));
  return value;
}

template <class T>
T parse_int(Lexer& lexer) {
  const Token token = lexer.expect(TokenKind::number, "an integer");
  return number<T>(lexer, token, "an integer of this type");
}

void parse_element(Lexer& lexer, DType dtype, std::byte* to) {
  switch (dtype) {
    case DType::f32:
      return put(to, parse_float<float>(lexer));
    case DType::f64:
      return put(to, parse_float<double>(lexer));
    case DType::f16:
      return put(to, parse_short_float(lexer, half_nan, float_to_half));
    case DType::bf16:
      return put(to, parse_short_float(lexer, bfloat16_nan, float_to_bfloat16));
    case DType::i8:
      return put(to, parse_int<int8_t>(lexer));
    case DType::u8:
      return put(to, parse_int<uint8_t>(lexer));
    case DType::i16:
      return put(to, parse_int<int16_t>(lexer));
    case DType::u16:
      return put(to, parse_int<uint16_t>(lexer));
    case DType::i32:
      return put(to, parse_int<int32_t>(lexer));
    case DType::u32:
      return put(to, parse_int<uint32_t>(lexer));
    case DType::i64:
      return put(to, parse_int<int64_t>(lexer));
    case DType::u64:
      return put(to, parse_int<uint64_t>(lexer));
    case DType::boolean: {
      if (!lexer.at("true") && !lexer.at("false")) lexer.expected("true or false");
      return put(to, lexer.take().text == "true");
    }
  }
}

std::string print_short_float(uint16_t bits, uint16_t usual_nan, float value) {
  return value != value ? print_nan(bits, usual_nan) : print_float(value);
}

std::string print_element(DType dtype, const std::byte* from) {
  switch (dtype) {
    case DType::f32:
      return print_float(get<float>(from));
    case DType::f64:
      return print_float(get<double>(from));
    case DType::f16:
      return print_short_float(get<uint16_t>(from), half_nan, half_to_float(get<uint16_t>(from)));
    case DType::bf16:
      return print_short_float(get<uint16_t>(from), bfloat16_nan,
                               bfloat16_to_float(get<uint16_t>(from)));
    case DType::i8:
      return fmt::format("{}", static_cast<int>(get<int8_t>(from)));
    case DType::u8:
      return fmt::format("{}", static_cast<int>(get<uint8_t>(from)));
    case DType::i16:
      return fmt::format("{}", get<int16_t>(from));
    case DType::u16:
      return fmt::format("{}", get<uint16_t>(from));
    case DType::i32:
      return fmt::format("{}", get<int32_t>(from));
    case DType::u32:
      return fmt::format("{}", get<uint32_t>(from));
    case DType::i64:
      return fmt::format("{}", get<int64_t>(from));
    case DType::u64:
      return fmt::format("{}", get<uint64_t>(from));
    case DType::boolean:
      return get<uint8_t>(from) ? "true" : "false";
  }
  throw InternalError("unknown dtype");
}

void check_generated(Lexer& lexer, const Dims& dims) {
  if (element_count(dims) > most_generated)
    lexer.fail(fmt::format("{} is too large to be made up", dims_str(dims)));
}

Tensor iota(DType dtype, const Dims& dims) {
  std::vector<int64_t> values(static_cast<size_t>(element_count(dims)));
  for (size_t i = 0; i < values.size(); ++i) values[i] = static_cast<int64_t>(i);
  return convert(Tensor::from(dims, values), dtype);
}

// splitmix64: the same numbers on every machine.
Tensor random_tensor(uint64_t state, double lo, double hi, DType dtype, const Dims& dims) {
  const auto next = [&] {
    state += 0x9e3779b97f4a7c15u;
    uint64_t z = (state ^ (state >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return static_cast<double>((z ^ (z >> 31)) >> 11) * 0x1p-53;
  };
  const auto count = static_cast<size_t>(element_count(dims));
  if (is_float(dtype)) {
    std::vector<double> values(count);
    for (double& v : values) v = lo + (hi - lo) * next();
    return convert(Tensor::from(dims, values), dtype);
  }
  std::vector<int64_t> values(count);
  for (int64_t& v : values) v = static_cast<int64_t>(std::floor(lo + (hi - lo + 1) * next()));
  return convert(Tensor::from(dims, values), dtype);
}

Tensor parse_random(Lexer& lexer, DType dtype, const Dims& dims) {
  lexer.expect("(");
  const int64_t seed = parse_integer(lexer);
  double lo = is_float(dtype) ? -1 : 0, hi = 1;
  if (lexer.accept(",")) {
    const size_t offset = lexer.peek().offset;
    lo = parse_real(lexer);
    lexer.expect(",");
    hi = parse_real(lexer);
    constexpr double most = 1e15;  // exact as integers, no overflow as floats
    if (!(lo >= -most && lo <= hi && hi <= most))
      lexer.fail(offset, "the bounds must be in order and at most 1e15");
  }
  lexer.expect(")");
  return random_tensor(static_cast<uint64_t>(seed), lo, hi, dtype, dims);
}

Tensor parse_hex(Lexer& lexer, DType dtype, const Dims& dims) {
  const Token token = lexer.expect(TokenKind::string, "a string of hexadecimal digits");
  const size_t bytes = static_cast<size_t>(element_count(dims)) * dtype_size(dtype);
  if (token.text.size() % 2 || token.text.size() / 2 != bytes)
    lexer.fail(token.offset, fmt::format("{} digits for {} bytes", token.text.size(), bytes));
  Tensor tensor(dtype, dims);
  for (size_t i = 0; i < bytes; ++i) {
    uint8_t byte = 0;
    const char* digits = token.text.data() + 2 * i;
    if (const auto [stop, error] = std::from_chars(digits, digits + 2, byte, 16);
        error != std::errc() || stop != digits + 2)
      lexer.fail(token.offset + 1 + 2 * i, "expected hexadecimal digits");
    if (dtype == DType::boolean && byte > 1)
      lexer.fail(token.offset + 1 + 2 * i, "a bool is 00 or 01");
    tensor.mutable_data()[i] = static_cast<std::byte>(byte);
  }
  return tensor;
}

Tensor parse_list(Lexer& lexer, DType dtype, const Dims& dims) {
  const size_t offset = lexer.peek().offset;
  lexer.expect("[");
  const size_t size = dtype_size(dtype);
  const auto count = static_cast<size_t>(element_count(dims));
  std::vector<std::byte> bytes;  // grows with the text, whatever the dims promise
  size_t found = 0;
  while (!lexer.at("]")) {
    if (found > 0) lexer.expect(",");
    bytes.resize((found + 1) * size);
    parse_element(lexer, dtype, bytes.data() + found * size);
    ++found;
  }
  lexer.expect("]");
  if (found != count) lexer.fail(offset, fmt::format("{} elements for {}", found, dims_str(dims)));
  Tensor tensor(dtype, dims);
  std::copy(bytes.begin(), bytes.end(), tensor.mutable_data());
  return tensor;
}

}  // namespace

std::string print_real(double value) {
  std::string text = print_float(value);
  if (text.find_first_of(".en") == std::string::npos) text += ".0";  // "n": inf, nan
  return text;
}

double parse_real(Lexer& lexer) { return parse_float<double>(lexer); }
int64_t parse_integer(Lexer& lexer) { return parse_int<int64_t>(lexer); }

std::string print_type(const TensorType& type) {
  std::string text = fmt::format("{}[", dtype_name(type.dtype));
  for (size_t i = 0; i < type.shape.size(); ++i) {
    const Dim& dim = type.shape[i];
    if (i > 0) text += ", ";
    text += dim.is_static() || dim.is_unknown() || is_plain_symbol(dim.symbol())
                ? dim.str()
                : quote(dim.symbol());
  }
  return text + "]";
}

TensorType parse_type(Lexer& lexer) {
  const Token word = lexer.expect(TokenKind::word, "a type such as f32[1, 8]");
  TensorType type;
  try {
    type.dtype = parse_dtype(word.text);
  } catch (const UserError& e) {
    lexer.fail(word.offset, e.message());
  }
  lexer.expect("[");
  int64_t count = 1;
  while (!lexer.at("]")) {
    if (!type.shape.empty()) lexer.expect(",");
    const Token& token = lexer.peek();
    if (token.kind == TokenKind::number) {
      const size_t offset = token.offset;
      const int64_t dim = parse_integer(lexer);
      if (dim < 0) lexer.fail(offset, "a dimension must not be negative");
      if (dim > 0 && count > (int64_t{1} << 40) / dim)
        lexer.fail(offset, "more than 2^40 elements");
      count *= std::max<int64_t>(dim, 1);
      type.shape.emplace_back(dim);
    } else if (lexer.accept("?")) {
      type.shape.push_back(Dim::unknown());
    } else if (token.kind == TokenKind::word || token.kind == TokenKind::string) {
      type.shape.push_back(Dim::symbol(lexer.take().text));
    } else {
      lexer.expected("a dimension");
    }
  }
  lexer.expect("]");
  return type;
}

void print_elements(std::string& out, const Tensor& tensor, const PrintOptions& options) {
  const size_t size = dtype_size(tensor.dtype());
  const auto count = static_cast<size_t>(tensor.size());
  if (tensor.rank() == 0) {
    out += print_element(tensor.dtype(), tensor.data());
  } else if (count <= options.inline_elements) {
    out += "[";
    for (size_t i = 0; i < count; ++i) {
      if (i > 0) out += ", ";
      out += print_element(tensor.dtype(), tensor.data() + i * size);
    }
    out += "]";
  } else if (options.full) {
    constexpr char digits[] = "0123456789abcdef";
    out += "hex \"";
    out.reserve(out.size() + 2 * tensor.bytes() + 2);
    for (size_t i = 0; i < tensor.bytes(); ++i) {
      const auto byte = static_cast<unsigned>(tensor.data()[i]);
      out += digits[byte >> 4];
      out += digits[byte & 15];
    }
    out += "\"";
  } else {
    out +=
        fmt::format("<{} bytes, {:016x}>", tensor.bytes(), fnv1a({tensor.data(), tensor.bytes()}));
  }
}

Tensor parse_elements(Lexer& lexer, DType dtype, const Dims& dims) {
  if (lexer.at("[")) return parse_list(lexer, dtype, dims);
  if (lexer.at("<"))
    lexer.fail("these elements were left out when the graph was printed; print it in full");
  if (lexer.accept("hex")) return parse_hex(lexer, dtype, dims);
  check_generated(lexer, dims);
  if (lexer.accept("zeros"))
    return convert(Tensor::from(dims, std::vector<float>(static_cast<size_t>(element_count(dims)))),
                   dtype);
  if (lexer.accept("iota")) return iota(dtype, dims);
  if (lexer.accept("random")) return parse_random(lexer, dtype, dims);
  std::array<std::byte, 8> one{};
  parse_element(lexer, dtype, one.data());
  Tensor tensor(dtype, dims);
  const size_t size = dtype_size(dtype);
  for (size_t i = 0; i < static_cast<size_t>(tensor.size()); ++i)
    std::copy_n(one.begin(), size, tensor.mutable_data() + i * size);
  return tensor;
}

}  // namespace octavo
