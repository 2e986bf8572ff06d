// Scores that were measured before an interruption: JSON, written whole or not at all.
#pragma once
#include <chrono>
#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "quantize/scores.h"

namespace octavo {

class Checkpoint {
 public:
  // `identity` says what is measured, on what. UserError (file) if the file is damaged or of
  // something else. Empty path: nothing is read or written.
  Checkpoint(std::string path, const std::string& identity, double seconds);

  // Of one layer, in order of samples.
  std::vector<Score>& scores(const std::string& layer) { return layers_[layer]; }
  // UserError (file) if sample `i` was another one when the file was written.
  void check_input(size_t i, uint64_t hash);
  // Writes if the last time was long enough ago, or `always`.
  void save(bool always = false);

 private:
  void load();
  std::string path_, identity_;
  double seconds_;
  std::chrono::steady_clock::time_point written_;
  std::map<std::string, std::vector<Score>> layers_;
  std::vector<std::string> inputs_;  // hashes
};

}  // namespace octavo
