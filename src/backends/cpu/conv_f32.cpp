#include "backends/cpu/conv_f32.h"

namespace octavo::cpu {
namespace {

bool accepts_f32(const ConvProblem& p, bool integers, std::string& why) {
  if (p.integers.has_value() != integers)
    why = integers ? "weights are floats" : "weights are integers";
  else if (p.x != Element::f32)
    why = "activations are not f32";
  else if (!p.weights)
    why = "weights are missing";
  else if (p.y != Element::f32)
    why = "the output is not f32";
  else if (p.residual && *p.residual != Element::f32)
    why = "the residual is not f32";
  else
    return true;
  return false;
}

constexpr char depthwise_avx512[] = "depthwise_f32_avx512", gemm_avx512[] = "gemm_f32_avx512";
constexpr char depthwise_avx2[] = "depthwise_f32_avx2", gemm_avx2[] = "gemm_f32_avx2";
constexpr char depthwise_portable[] = "depthwise_f32_portable";
constexpr char gemm_portable[] = "gemm_f32_portable";
constexpr char packed_avx512[] = "packed_gemm_f32_avx512", packed_avx2[] = "packed_gemm_f32_avx2";
constexpr char packed_portable[] = "packed_gemm_f32_portable";

template <const char* name, Isa isa, const ConvF32Kernels& (*kernels)()>
std::unique_ptr<ConvKernel> gemm(const ConvProblem& problem, std::string& why) {
  if (!accepts_f32(problem, false, why)) return nullptr;
  return make_gemm_f32(problem, name, isa, kernels());
}

template <const char* name, Isa isa, const ConvF32Kernels& (*kernels)(),
          const PackedKernels& (*packed)()>
std::unique_ptr<ConvKernel> packed_gemm(const ConvProblem& problem, std::string& why) {
  if (!accepts_f32(problem, true, why)) return nullptr;
  const ConvShape& s = problem.shape;
  if (problem.integers->group != 0 && (s.kh * s.kw != 1 || s.groups != 1)) {
    why = "groups of inputs with a scale of their own are of matrix products only";
    return nullptr;
  }
  return make_gemm_f32(problem, name, isa, kernels(), &packed());
}

template <const char* name, Isa isa, const ConvF32Kernels& (*kernels)()>
std::unique_ptr<ConvKernel> depthwise(const ConvProblem& problem, std::string& why) {
  if (!accepts_f32(problem, false, why)) return nullptr;
  const ConvShape& s = problem.shape;
  if (s.groups != s.c_in || s.groups != s.c_out) {
    why = "not depthwise";
    return nullptr;
  }
  return make_depthwise_f32(problem, name, isa, kernels());
}

constexpr ConvImplementation implementations[] = {
    {depthwise_avx512, Isa::avx512, depthwise<depthwise_avx512, Isa::avx512, conv_f32_avx512>},
    {gemm_avx512, Isa::avx512, gemm<gemm_avx512, Isa::avx512, conv_f32_avx512>},
    {packed_avx512, Isa::avx512,
     packed_gemm<packed_avx512, Isa::avx512, conv_f32_avx512, packed_kernels_avx512>},
    {depthwise_avx2, Isa::avx2, depthwise<depthwise_avx2, Isa::avx2, conv_f32_avx2>},
    {gemm_avx2, Isa::avx2, gemm<gemm_avx2, Isa::avx2, conv_f32_avx2>},
    {packed_avx2, Isa::avx2,
     packed_gemm<packed_avx2, Isa::avx2, conv_f32_avx2, packed_kernels_avx2>},
    {depthwise_portable, Isa::portable,
     depthwise<depthwise_portable, Isa::portable, conv_f32_portable>},
    {gemm_portable, Isa::portable, gemm<gemm_portable, Isa::portable, conv_f32_portable>},
    {packed_portable, Isa::portable,
     packed_gemm<packed_portable, Isa::portable, conv_f32_portable, packed_kernels_portable>},
};

}  // namespace

std::span<const ConvImplementation> conv_f32_list() { return implementations; }

}  // namespace octavo::cpu
