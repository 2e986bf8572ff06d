// Errors. A user's mistake and a bug of Octavo's are different types; the library neither prints
// nor aborts. Python sees UserError as ValueError's and InternalError as RuntimeError's subclass.
#pragma once
#include <fmt/format.h>

#include <stdexcept>
#include <string>
#include <utility>

namespace octavo {

// What kind of mistake, so that the CLI's exit code and Python's exception type follow from it.
enum class ErrorKind {
  value,        // a value, shape, dtype or option that does not fit
  file,         // a file that cannot be read, written, or does not parse
  unsupported,  // a valid request that Octavo does not implement
};

// `what()` reads "<where>: <message>; <hint>".
class UserError : public std::runtime_error {
 public:
  UserError(ErrorKind kind, std::string where, std::string message, std::string hint = "")
      : std::runtime_error(where + (where.empty() ? "" : ": ") + message +
                           (hint.empty() ? "" : "; " + hint)),
        kind_(kind),
        where_(std::move(where)),
        message_(std::move(message)),
        hint_(std::move(hint)) {}
  ErrorKind kind() const { return kind_; }
  const std::string& where() const { return where_; }
  const std::string& message() const { return message_; }
  const std::string& hint() const { return hint_; }
  // This error, with that hint if it has none.
  UserError or_hint(const char* hint) const {
    return {kind_, where_, message_, hint_.empty() ? hint : hint_};
  }

 private:
  ErrorKind kind_;
  std::string where_, message_, hint_;
};

// A broken invariant inside Octavo.
class InternalError : public std::logic_error {
 public:
  using std::logic_error::logic_error;
};

// Throws InternalError with the place unless `condition` holds.
#define OCTAVO_CHECK(condition)                                                           \
  do {                                                                                    \
    if (!(condition))                                                                     \
      throw ::octavo::InternalError(                                                      \
          fmt::format("internal error at {}:{}: {} is false; please report it", __FILE__, \
                      __LINE__, #condition));                                             \
  } while (false)

}  // namespace octavo
