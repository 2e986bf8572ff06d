#include "backends/cpu/attention.h"

#include "backends/cpu/first_accepting.h"

namespace octavo::cpu {

std::unique_ptr<AttentionKernel> make_attention(const AttentionProblem& problem,
                                                std::vector<Declined>* declined) {
  const auto list = problem.q == Element::f32 ? attention_f32_list() : attention_int8_list();
  return first_accepting<AttentionKernel>(list, problem, declined);
}

}  // namespace octavo::cpu
