#include "cli/command.h"

#include <unistd.h>

#include <charconv>
#include <chrono>
#include <csignal>
#include <cstdio>

namespace octavo::cli {

namespace {
volatile std::sig_atomic_t caught = 0;
}

const char* const exit_codes_text =
    "Exit codes:\n"
    "  0    done\n"
    "  1    inspect --lint found something\n"
    "  2    wrong command line\n"
    "  3    a value, shape, dtype or name that does not fit\n"
    "  4    a file that cannot be read or written, or is damaged\n"
    "  5    valid, but not supported\n"
    "  6    not enough memory\n"
    "  70   a bug of Octavo's: please report it\n"
    "  130  interrupted by Ctrl-C (SIGTERM: 143); nothing half written is left\n"
    "An error is one line on standard error: octavo: error: WHERE: WHAT (WHAT TO DO)";

std::string footer(const std::string& text, const std::string& examples) {
  return text + (text.empty() ? "" : "\n\n") + "Examples:\n" + examples +
         "\n--json and --isa NAME go with every subcommand: see `octavo --help`.\n\n" +
         exit_codes_text;
}

void catch_signals() {
  for (const int signal : {SIGINT, SIGTERM, SIGHUP}) {
    struct sigaction action {};
    if (sigaction(signal, nullptr, &action) == 0 && action.sa_handler == SIG_IGN) continue;
    action = {};
    action.sa_handler = [](int number) { caught = number; };
    action.sa_flags = static_cast<int>(SA_RESETHAND);
    sigaction(signal, &action, nullptr);
  }
}

void check_interrupted() {
  if (caught) throw Interrupted{caught};
}

Progress progress_bar(const Context& context) {
  if (context.json || !isatty(STDERR_FILENO))
    return [](const char*, size_t, size_t) { check_interrupted(); };
  using Clock = std::chrono::steady_clock;
  struct State {
    std::string phase;
    Clock::time_point start, drawn;
    size_t first = 0;   // what was done when the phase began: taken over from a checkpoint
    bool open = false;  // the cursor stands behind a bar
    ~State() {
      if (open) std::fputc('\n', stderr);
    }
  };
  auto state = std::make_shared<State>();
  return [state](const char* phase, size_t done, size_t total) {
    check_interrupted();
    const auto now = Clock::now();
    if (state->phase != phase) {
      state->phase = phase;
      state->start = now;
      state->first = done ? done - 1 : 0;
      state->drawn = {};
    }
    if (done < total && now - state->drawn < std::chrono::milliseconds(100)) return;
    state->drawn = now;
    const double elapsed = std::chrono::duration<double>(now - state->start).count();
    const double part = total ? static_cast<double>(done) / static_cast<double>(total) : 1;
    constexpr int width = 30;
    const int filled = static_cast<int>(part * width);
    const std::string remaining =
        done > state->first
            ? fmt::format("ETA {:.1f} s", elapsed / static_cast<double>(done - state->first) *
                                              static_cast<double>(total - std::min(done, total)))
            : std::string("ETA ?");
    const std::string line = fmt::format("\r{:<28.28} [{}{}] {}/{}  {:.1f} s, {}\x1b[K", phase,
                                         std::string(static_cast<size_t>(filled), '#'),
                                         std::string(static_cast<size_t>(width - filled), '.'),
                                         done, total, elapsed, remaining);
    std::fputs(line.c_str(), stderr);
    state->open = done < total;
    if (!state->open) std::fputc('\n', stderr);
    std::fflush(stderr);
  };
}

std::string table(const std::vector<std::vector<std::string>>& rows) {
  std::vector<size_t> widths;
  for (const auto& row : rows) {
    widths.resize(std::max(widths.size(), row.size()), 0);
    for (size_t i = 0; i < row.size(); ++i) widths[i] = std::max(widths[i], row[i].size());
  }
  std::string text;
  for (const auto& row : rows) {
    std::string line;
    for (size_t i = 0; i < row.size(); ++i)
      line += i == 0 ? fmt::format("{:<{}}", row[i], widths[i])
                     : fmt::format("  {:>{}}", row[i], widths[i]);
    text += line + "\n";
  }
  return text;
}

void add_symbol_options(CLI::App* sub, SymbolOptions& options) {
  sub->add_option("--batch", options.batch,
                  "what symbolic dimensions of inputs count as (default: 1, or for all but leading "
                  "axes the least power of two that fits)")
      ->check(CLI::PositiveNumber);
  sub->add_option("--dim", options.dims, "NAME=NUMBER: what one of them counts as (repeated)");
}

Symbols SymbolOptions::choose(Program& program) const {
  Symbols given;
  for (const std::string& text : dims) {
    const size_t equals = text.rfind('=');
    int64_t value = 0;
    const char* end = text.data() + text.size();
    if (equals == std::string::npos ||
        std::from_chars(text.data() + equals + 1, end, value).ptr != end ||
        equals + 1 == text.size())
      throw UserError(ErrorKind::value, "--dim " + text, "is no NAME=NUMBER");
    given[text.substr(0, equals)] = value;
  }
  return choose_symbols(program, batch, given);
}

std::string bound_text(const Symbols& symbols) {
  std::string text;
  for (const auto& [name, value] : symbols) text += fmt::format(", {} {}", name, value);
  return text;
}

void print_json(const nlohmann::json& value) {
  std::puts(value.dump(2, ' ', false, nlohmann::json::error_handler_t::replace).c_str());
}

std::string bytes_text(double bytes) {
  if (bytes >= 1e9) return fmt::format("{:.2f} GB", bytes / 1e9);
  if (bytes >= 1e6) return fmt::format("{:.2f} MB", bytes / 1e6);
  if (bytes >= 1e3) return fmt::format("{:.1f} kB", bytes / 1e3);
  return fmt::format("{:.0f} B", bytes);
}

}  // namespace octavo::cli
