// Log lines go to one sink that the embedding program chooses; OCTAVO_LOG sets the default level
// (error, warning, info, debug) of the default sink, standard error.
#pragma once
#include <functional>
#include <string>

namespace octavo {

enum class LogLevel { error, warning, info, debug };
using LogSink = std::function<void(LogLevel, const std::string&)>;

// Replaces the sink; an empty one restores the default. Thread-safe.
void set_log_sink(LogSink sink);
void log(LogLevel level, const std::string& message);

}  // namespace octavo
