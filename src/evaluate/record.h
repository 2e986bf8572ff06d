// The run record: what was done, to what, with which result. JSON, schemas/run_record.schema.json;
// terminal tables, --json and the report all read it.
#pragma once
#include <nlohmann/json.hpp>
#include <string>

namespace octavo {

// Schema version, Octavo's version, time, machine (CPU, ISA, threads), command line.
nlohmann::json new_record(const std::string& command);
// null for what JSON has no number for: infinity, NaN.
nlohmann::json finite_or_null(double value);
// UserError (file) if it cannot be written; whole or not at all.
void save_record(const nlohmann::json& record, const std::string& path);

extern const char* const octavo_version;

}  // namespace octavo
