#include "backends/cpu/conv.h"

#include "support/error.h"

namespace octavo::cpu {

std::unique_ptr<ConvKernel> make_conv(const ConvProblem& problem, std::vector<Declined>* declined) {
  const auto list = problem.x == Element::f32 ? conv_f32_list() : conv_int8_list();
  for (const ConvImplementation& implementation : list) {
    std::string why;
    if (best_isa() < implementation.isa) {
      why = fmt::format("needs {}", isa_name(implementation.isa));
    } else if (auto kernel = implementation.create(problem, why)) {
      return kernel;
    }
    if (declined) declined->push_back({implementation.name, why});
  }
  return nullptr;
}

}  // namespace octavo::cpu
