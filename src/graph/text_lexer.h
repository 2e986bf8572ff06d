// Words of the text form.
#pragma once
#include <string>
#include <string_view>

namespace octavo {

enum class TokenKind { end, word, number, string, value, punctuation };

struct Token {
  TokenKind kind = TokenKind::end;
  // Unquoted and unescaped; of a value, what follows %.
  std::string text;
  bool quoted = false;  // of a value: %"…"
  size_t offset = 0;
};

class Lexer {
 public:
  Lexer(std::string_view text, std::string where);
  const Token& peek() const { return token_; }
  Token take();
  bool at(std::string_view text) const;  // a word or punctuation
  bool accept(std::string_view text);
  void expect(std::string_view text);
  // Takes a token of this kind, or fails with "expected <what>".
  Token expect(TokenKind kind, const char* what);
  // UserError at the token, or where the next one is.
  [[noreturn]] void fail(const std::string& message) const { fail(token_.offset, message); }
  [[noreturn]] void fail(size_t offset, const std::string& message) const;
  [[noreturn]] void expected(std::string_view what) const;
  std::string place(size_t offset) const;  // "where:line:column"

 private:
  Token next();
  std::string quoted_text();
  std::string_view text_;
  std::string where_;
  size_t at_ = 0;
  Token token_;
};

// "text" with what cannot be printed, or is not UTF-8, escaped.
std::string quote(std::string_view text);
// Can stand after % or in a shape without quotes.
bool is_plain_value_name(std::string_view name);
bool is_plain_symbol(std::string_view name);

}  // namespace octavo
