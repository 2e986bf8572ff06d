#include "backends/cpu/conv.h"

#include "backends/cpu/first_accepting.h"

namespace octavo::cpu {

std::unique_ptr<ConvKernel> make_conv(const ConvProblem& problem, std::vector<Declined>* declined) {
  const auto list = problem.x == Element::f32 ? conv_f32_list() : conv_int8_list();
  return first_accepting<ConvKernel>(list, problem, declined);
}

}  // namespace octavo::cpu
