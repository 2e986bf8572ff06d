#include "quantize/checkpoint.h"

#include <sys/stat.h>

#include <nlohmann/json.hpp>

#include "evaluate/record.h"
#include "support/error.h"
#include "support/file.h"
#include "support/hash.h"

namespace octavo {
namespace {

using nlohmann::json;

std::string hex(uint64_t hash) { return fmt::format("{:016x}", hash); }

// JSON has no NaN and no infinity.
double finite_or_null(const json& value) { return value.is_null() ? NAN : value.get<double>(); }

}  // namespace

Checkpoint::Checkpoint(std::string path, const std::string& identity, double seconds)
    : path_(std::move(path)),
      identity_(hex(fnv1a(std::as_bytes(std::span(identity))))),
      seconds_(seconds),
      written_(std::chrono::steady_clock::now()) {
  if (path_.empty()) return;
  check_writable(path_);
  struct stat info {};
  if (::stat(path_.c_str(), &info) == 0 && info.st_size > 0) load();
}

void Checkpoint::load() {
  const auto file = MappedFile::open(path_);
  const auto damaged = [&](const std::string& why) {
    throw UserError(ErrorKind::file, path_, "is no checkpoint: " + why, "remove it to begin anew");
  };
  std::string identity;
  try {
    const json content = json::parse(reinterpret_cast<const char*>(file->data()),
                                     reinterpret_cast<const char*>(file->data()) + file->size());
    if (content.at("kind") != "sensitivity_checkpoint" || content.at("schema_version") != 1)
      damaged("it is another file, or of another version");
    identity = content.at("identity").get<std::string>();
    inputs_ = content.at("inputs").get<std::vector<std::string>>();
    for (const auto& [layer, scores] : content.at("layers").items())
      for (const json& s : scores) {
        if (s.size() != 5) damaged("a score has five numbers");
        layers_[layer].push_back({finite_or_null(s[0]), finite_or_null(s[1]), s[2].get<int64_t>(),
                                  s[3].get<int64_t>(), finite_or_null(s[4])});
      }
  } catch (const json::exception& e) {
    damaged(e.what());
  }
  if (identity != identity_)
    throw UserError(ErrorKind::file, path_,
                    "is the checkpoint of another model, other data or other options",
                    "give another name, or remove it to begin anew");
}

void Checkpoint::check_input(size_t i, uint64_t hash) {
  if (i < inputs_.size()) {
    if (inputs_[i] != hex(hash))
      throw UserError(ErrorKind::file, path_, fmt::format("sample {} was another one then", i),
                      "give another name, or remove it to begin anew");
    return;
  }
  OCTAVO_CHECK(i == inputs_.size());
  inputs_.push_back(hex(hash));
}

void Checkpoint::save(bool always) {
  const auto now = std::chrono::steady_clock::now();
  if (path_.empty() ||
      (!always && std::chrono::duration<double>(now - written_).count() < seconds_))
    return;
  json layers = json::object();
  for (const auto& [name, scores] : layers_) {
    json& list = layers[name] = json::array();
    for (const Score& s : scores)
      list.push_back({finite_or_null(s.signal), finite_or_null(s.noise), s.rows, s.same,
                      finite_or_null(s.metric)});
  }
  const std::string text = json{
      {"schema_version", 1},
      {"kind", "sensitivity_checkpoint"},
      {"identity", identity_},
      {"inputs", inputs_},
      {"layers", layers}}.dump(-1, ' ', false, json::error_handler_t::replace);
  write_file_atomically(path_, [&](std::ostream& out) { out << text << '\n'; });
  written_ = std::chrono::steady_clock::now();
}

}  // namespace octavo
