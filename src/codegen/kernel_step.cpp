#include "codegen/kernel_step.h"

namespace octavo {

StridedBox merged(const StridedBox& box) {
  StridedBox result;
  result.steps.resize(box.steps.size());
  for (size_t d = 0; d < box.rank(); ++d) {
    if (box.dims[d] == 1) continue;
    bool joins = !result.dims.empty();
    for (size_t k = 0; joins && k < box.steps.size(); ++k)
      joins = result.steps[k].back() == box.steps[k][d] * box.dims[d];
    if (joins) {
      result.dims.back() *= box.dims[d];
      for (size_t k = 0; k < box.steps.size(); ++k) result.steps[k].back() = box.steps[k][d];
    } else {
      result.dims.push_back(box.dims[d]);
      for (size_t k = 0; k < box.steps.size(); ++k) result.steps[k].push_back(box.steps[k][d]);
    }
  }
  return result;
}

}  // namespace octavo
