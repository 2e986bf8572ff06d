#include "graph/text_lexer.h"

#include "support/error.h"

namespace octavo {
namespace {

// Not <cctype>: the locale has no say in a file format.
bool is_digit(char c) { return c >= '0' && c <= '9'; }
bool is_letter(char c) { return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || c == '_'; }
bool is_word(char c) { return is_letter(c) || is_digit(c); }
bool starts_name(char c) { return is_letter(c) || c == '/'; }
bool continues_name(char c) { return is_word(c) || c == '/' || c == '.'; }

int hex_digit(char c) {
  if (is_digit(c)) return c - '0';
  if (c >= 'a' && c <= 'f') return c - 'a' + 10;
  if (c >= 'A' && c <= 'F') return c - 'A' + 10;
  return -1;
}

// Bytes of the UTF-8 character at `i`; 0 if there is none.
size_t utf8_length(std::string_view text, size_t i) {
  const auto byte = [&](size_t k) {
    return k < text.size() ? static_cast<unsigned char>(text[k]) : 0u;
  };
  const unsigned first = byte(i);
  const size_t length = first < 0x80                    ? 1
                        : first >= 0xc2 && first < 0xe0 ? 2
                        : first >= 0xe0 && first < 0xf0 ? 3
                        : first >= 0xf0 && first < 0xf5 ? 4
                                                        : 0;
  for (size_t k = 1; k < length; ++k)
    if ((byte(i + k) & 0xc0) != 0x80) return 0;
  // Overlong forms, surrogates and what lies beyond Unicode.
  const unsigned second = byte(i + 1);
  if ((first == 0xe0 && second < 0xa0) || (first == 0xed && second >= 0xa0) ||
      (first == 0xf0 && second < 0x90) || (first == 0xf4 && second >= 0x90))
    return 0;
  return length;
}

}  // namespace

std::string quote(std::string_view text) {
  std::string out = "\"";
  for (size_t i = 0; i < text.size();) {
    const char c = text[i];
    const size_t length = utf8_length(text, i);
    if (c == '"' || c == '\\') {
      out += {'\\', c};
    } else if (c == '\n') {
      out += "\\n";
    } else if (length == 0 || (length == 1 && (c < 0x20 || c == 0x7f))) {
      out += fmt::format("\\x{:02x}", static_cast<unsigned char>(c));
    } else {
      out += text.substr(i, length);
      i += length;
      continue;
    }
    ++i;
  }
  return out + "\"";
}

bool is_plain_value_name(std::string_view name) {
  if (name.empty() || !starts_name(name[0])) return false;
  for (char c : name)
    if (!continues_name(c)) return false;
  return true;
}

bool is_plain_symbol(std::string_view name) {
  if (name.empty() || !is_letter(name[0])) return false;
  for (char c : name)
    if (!is_word(c)) return false;
  return true;
}

Lexer::Lexer(std::string_view text, std::string where) : text_(text), where_(std::move(where)) {
  token_ = next();
}

Token Lexer::take() {
  Token taken = std::move(token_);
  token_ = next();
  return taken;
}

bool Lexer::at(std::string_view text) const {
  return (token_.kind == TokenKind::word || token_.kind == TokenKind::punctuation) &&
         token_.text == text;
}

bool Lexer::accept(std::string_view text) {
  if (!at(text)) return false;
  take();
  return true;
}

void Lexer::expect(std::string_view text) {
  if (!accept(text)) expected(fmt::format("'{}'", text));
}

Token Lexer::expect(TokenKind kind, const char* what) {
  if (token_.kind != kind) expected(what);
  return take();
}

void Lexer::expected(std::string_view what) const {
  if (token_.kind == TokenKind::end) fail(fmt::format("expected {}, found the end", what));
  std::string_view found = text_.substr(token_.offset, std::min<size_t>(at_ - token_.offset, 40));
  while (!found.empty() && utf8_length(found, 0) == 0) found.remove_prefix(1);
  fail(fmt::format("expected {}, found {}", what, quote(found)));
}

void Lexer::fail(size_t offset, const std::string& message) const {
  throw UserError(ErrorKind::value, place(offset), message);
}

std::string Lexer::place(size_t offset) const {
  const std::string_view before = text_.substr(0, offset);
  const auto line = std::count(before.begin(), before.end(), '\n') + 1;
  const size_t start = before.rfind('\n');
  const size_t column = start == std::string_view::npos ? offset + 1 : offset - start;
  return fmt::format("{}:{}:{}", where_, line, column);
}

Token Lexer::next() {
  const auto skip_comment = [&] { at_ = std::min(text_.find('\n', at_), text_.size()); };
  while (at_ < text_.size()) {
    const char c = text_[at_];
    if (c == ' ' || c == '\t' || c == '\n' || c == '\r') {
      ++at_;
    } else if (c == '#' || text_.substr(at_, 2) == "//") {
      skip_comment();
    } else {
      break;
    }
  }
  Token token;
  token.offset = at_;
  if (at_ == text_.size()) return token;
  const auto peek_at = [&](size_t i) { return i < text_.size() ? text_[i] : '\0'; };
  const char c = text_[at_];
  if (c == '"') {
    token.kind = TokenKind::string;
    token.text = quoted_text();
  } else if (c == '%') {
    token.kind = TokenKind::value;
    ++at_;
    const size_t start = at_;
    if (peek_at(at_) == '"') {
      token.quoted = true;
      token.text = quoted_text();
      if (token.text.empty()) fail(token.offset, "a quoted name must not be empty");
    } else if (is_digit(peek_at(at_))) {
      while (is_digit(peek_at(at_))) ++at_;
      token.text = text_.substr(start, at_ - start);
    } else {
      if (!starts_name(peek_at(at_))) fail(token.offset, "expected a name after %");
      while (continues_name(peek_at(at_))) ++at_;
      token.text = text_.substr(start, at_ - start);
    }
  } else if (is_letter(c)) {
    token.kind = TokenKind::word;
    while (is_word(peek_at(at_))) ++at_;
    token.text = text_.substr(token.offset, at_ - token.offset);
  } else if (is_digit(c) || c == '-' || c == '.') {
    token.kind = TokenKind::number;  // from_chars judges it later
    ++at_;
    for (char d = peek_at(at_);
         is_word(d) || d == '.' || ((d == '-' || d == '+') && (text_[at_ - 1] | 32) == 'e');
         d = peek_at(at_))
      ++at_;
    token.text = text_.substr(token.offset, at_ - token.offset);
  } else {
    token.kind = TokenKind::punctuation;
    ++at_;
    token.text = std::string(1, c);
  }
  return token;
}

std::string Lexer::quoted_text() {
  const size_t start = at_++;
  std::string out;
  for (;;) {
    // Runs without escapes at once: hexadecimal weights are long.
    const size_t stop = text_.find_first_of("\"\\\n", at_);
    if (stop == std::string_view::npos || text_[stop] == '\n')
      fail(start, "this string has no end");
    out += text_.substr(at_, stop - at_);
    at_ = stop + 1;
    if (text_[stop] == '"') return out;
    const char escape = at_ < text_.size() ? text_[at_] : '\0';
    ++at_;
    if (escape == 'n') {
      out += '\n';
    } else if (escape == '"' || escape == '\\') {
      out += escape;
    } else if (escape == 'x' && at_ + 1 < text_.size() && hex_digit(text_[at_]) >= 0 &&
               hex_digit(text_[at_ + 1]) >= 0) {
      out += static_cast<char>(hex_digit(text_[at_]) * 16 + hex_digit(text_[at_ + 1]));
      at_ += 2;
    } else {
      fail(stop, "unknown escape: use \\\", \\\\, \\n or \\xNN");
    }
  }
}

}  // namespace octavo
