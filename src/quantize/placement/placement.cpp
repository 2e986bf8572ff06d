#include "quantize/placement/placement.h"

#include "support/error.h"

namespace octavo {
namespace {
constexpr PlacementTarget targets[] = {
    {"octavo", "Octavo's own INT8 kernels: u8 activations, i8 weights per channel", place_octavo},
};
}

std::span<const PlacementTarget> placement_targets() { return targets; }

const PlacementTarget& find_placement_target(const std::string& name) {
  std::string known;
  for (const PlacementTarget& target : targets) {
    if (name == target.name) return target;
    known += (known.empty() ? "" : ", ") + std::string(target.name);
  }
  throw UserError(ErrorKind::value, "target", fmt::format("'{}' is not known", name),
                  "use one of: " + known);
}

}  // namespace octavo
