#include "backends/cpu/attention.h"

#include "support/error.h"

namespace octavo::cpu {

std::unique_ptr<AttentionKernel> make_attention(const AttentionProblem& problem,
                                                std::vector<Declined>* declined) {
  const auto list = problem.q == Element::f32 ? attention_f32_list() : attention_int8_list();
  for (const AttentionImplementation& implementation : list) {
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
