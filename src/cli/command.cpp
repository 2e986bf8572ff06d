#include "cli/command.h"

#include <unistd.h>

#include <chrono>
#include <cstdio>

namespace octavo::cli {

Progress progress_bar() {
  if (!isatty(STDERR_FILENO)) return {};
  using Clock = std::chrono::steady_clock;
  struct State {
    std::string phase;
    Clock::time_point start, drawn;
  };
  auto state = std::make_shared<State>();
  return [state](const char* phase, size_t done, size_t total) {
    const auto now = Clock::now();
    if (state->phase != phase) {
      state->phase = phase;
      state->start = now;
      state->drawn = {};
    }
    if (done < total && now - state->drawn < std::chrono::milliseconds(100)) return;
    state->drawn = now;
    const double elapsed = std::chrono::duration<double>(now - state->start).count();
    const double part = total ? static_cast<double>(done) / static_cast<double>(total) : 1;
    const double remaining = done ? elapsed / part - elapsed : 0;
    constexpr int width = 30;
    const int filled = static_cast<int>(part * width);
    const std::string line = fmt::format("\r{:<28.28} [{}{}] {}/{}  {:.1f} s, {:.1f} s left ",
                                         phase, std::string(static_cast<size_t>(filled), '#'),
                                         std::string(static_cast<size_t>(width - filled), '.'),
                                         done, total, elapsed, remaining);
    std::fputs(line.c_str(), stderr);
    if (done >= total) std::fputc('\n', stderr);
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
