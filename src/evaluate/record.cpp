#include "evaluate/record.h"

#include <chrono>
#include <cmath>
#include <ctime>

#include "support/cpu.h"
#include "support/file.h"
#include "support/thread_pool.h"

namespace octavo {

const char* const octavo_version = "0.1.0";

nlohmann::json new_record(const std::string& command) {
  const std::time_t now = std::chrono::system_clock::to_time_t(std::chrono::system_clock::now());
  std::tm utc{};
  gmtime_r(&now, &utc);
  char text[32];
  std::strftime(text, sizeof text, "%Y-%m-%dT%H:%M:%SZ", &utc);
  return {{"schema_version", 1},
          {"octavo", octavo_version},
          {"created", text},
          {"command", command},
          {"environment",
           {{"cpu", cpu_model_name()},
            {"isa", isa_name(best_isa())},
            {"hardware_isa", isa_name(hardware_isa())},
            {"threads", default_pool().size()}}},
          {"warnings", nlohmann::json::array()}};
}

nlohmann::json finite_or_null(double value) {
  return std::isfinite(value) ? nlohmann::json(value) : nlohmann::json(nullptr);
}

void save_record(const nlohmann::json& record, const std::string& path) {
  // Names come from model files and may not be UTF-8: replaced, not refused.
  const std::string text = record.dump(1, ' ', false, nlohmann::json::error_handler_t::replace);
  write_file_atomically(path, [&](std::ostream& out) { out << text << '\n'; });
}

}  // namespace octavo
