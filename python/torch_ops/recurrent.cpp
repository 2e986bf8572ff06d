// One direction of a recurrent layer of octavo.quantization, all steps in one call.
#include <torch/library.h>

#include <algorithm>
#include <functional>
#include <numeric>

#include "backends/cpu/recurrent_int8.h"
#include "linear_int8.h"
#include "support/thread_pool.h"

namespace octavo::torch_ops {
namespace {

using at::Tensor;
using cpu::RecurrentMode;

RecurrentMode mode_of(std::string_view name) {
  if (name == "LSTM") return RecurrentMode::lstm;
  if (name == "GRU") return RecurrentMode::gru;
  if (name == "RNN_TANH") return RecurrentMode::tanh;
  TORCH_CHECK_VALUE(name == "RNN_RELU", "recurrent_int8: there is no ", name);
  return RecurrentMode::relu;
}

// A copy to compute in.
Tensor state_of(const Tensor& given, int64_t rows, int64_t width) {
  TORCH_CHECK_TYPE(given.scalar_type() == at::kFloat, "recurrent_int8: takes float32, not ",
                   given.scalar_type());
  TORCH_CHECK_VALUE(given.dim() == 2 && given.size(0) == rows && given.size(1) == width,
                    "recurrent_int8: a state of ", given.sizes(), ", not [", rows, ", ", width,
                    "]");
  return given.clone(at::MemoryFormat::Contiguous);
}

// y [rows, width] and the last states.
std::vector<Tensor> recurrent_int8(const Tensor& input,
                                   const c10::intrusive_ptr<LinearInt8>& x_linear,
                                   const c10::intrusive_ptr<LinearInt8>& h_linear, const Tensor& h,
                                   const std::optional<Tensor>& c, at::IntArrayRef sizes,
                                   c10::string_view mode, bool reverse) {
  cpu::RecurrentInt8 args;
  args.mode = mode_of({mode.data(), mode.size()});
  args.reverse = reverse;
  args.x_layer = &x_linear->layer();
  args.h_layer = &h_linear->layer();
  args.sizes = {sizes.data(), sizes.size()};
  const int64_t width = args.h_layer->k(), gates = width * cpu::recurrent_gates(args.mode);
  TORCH_CHECK_VALUE(args.h_layer->n() == gates && args.x_layer->n() == gates,
                    "recurrent_int8: weights of ", args.x_layer->n(), " and ", args.h_layer->n(),
                    " outputs, not ", gates);
  TORCH_CHECK_TYPE(input.scalar_type() == at::kFloat, "recurrent_int8: takes float32, not ",
                   input.scalar_type());
  TORCH_CHECK_VALUE(!sizes.empty() && sizes.back() >= 0 &&
                        std::is_sorted(sizes.begin(), sizes.end(), std::greater<>()),
                    "recurrent_int8: steps of ", sizes, " rows");
  const int64_t rows = std::accumulate(sizes.begin(), sizes.end(), int64_t{0});
  TORCH_CHECK_VALUE(input.dim() == 2 && input.size(0) == rows && input.size(1) == args.x_layer->k(),
                    "recurrent_int8: an input of ", input.sizes(), ", not [", rows, ", ",
                    args.x_layer->k(), "]");
  TORCH_CHECK_VALUE(c.has_value() == (args.mode == RecurrentMode::lstm),
                    "recurrent_int8: an LSTM alone has a cell state");
  const auto x = input.expect_contiguous();
  Tensor y = at::empty({rows, width}, x->options());
  std::vector<Tensor> results{y, state_of(h, sizes[0], width)};
  if (c) results.push_back(state_of(*c, sizes[0], width));
  args.x = x->const_data_ptr<float>();
  args.y = y.mutable_data_ptr<float>();
  args.h = results[1].mutable_data_ptr<float>();
  if (c) args.c = results[2].mutable_data_ptr<float>();
  TORCH_CHECK_VALUE(cpu::run_recurrent_int8(args, default_pool()),
                    "recurrent_int8: the input or a state holds NaN or infinity");
  return results;
}

}  // namespace

TORCH_LIBRARY_FRAGMENT(octavo, m) {
  m.def(
      "recurrent_int8(Tensor x, __torch__.torch.classes.octavo.LinearInt8 x_layer, "
      "__torch__.torch.classes.octavo.LinearInt8 h_layer, Tensor h, Tensor? c, int[] sizes, str "
      "mode, bool reverse) -> Tensor[]");
}
TORCH_LIBRARY_IMPL(octavo, CPU, m) { m.impl("recurrent_int8", recurrent_int8); }

}  // namespace octavo::torch_ops
