#include "support/log.h"

#include <cstdio>
#include <mutex>

#include "support/env.h"

namespace octavo {
namespace {
std::mutex mutex;
LogSink& sink() {
  static LogSink instance;
  return instance;
}
LogLevel default_level() {
  static const LogLevel level = [] {
    const std::string text = env_string("OCTAVO_LOG", "warning");
    if (text == "error") return LogLevel::error;
    if (text == "info") return LogLevel::info;
    if (text == "debug") return LogLevel::debug;
    return LogLevel::warning;
  }();
  return level;
}
}  // namespace

void set_log_sink(LogSink new_sink) {
  const std::lock_guard lock(mutex);
  sink() = std::move(new_sink);
}

void log(LogLevel level, const std::string& message) {
  const std::lock_guard lock(mutex);
  if (sink()) {
    sink()(level, message);
  } else if (level <= default_level()) {
    constexpr const char* names[] = {"error", "warning", "info", "debug"};
    std::fprintf(stderr, "octavo %s: %s\n", names[static_cast<int>(level)], message.c_str());
  }
}

}  // namespace octavo
