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

void check_float(const Tensor& given) {
  TORCH_CHECK_TYPE(given.scalar_type() == at::kFloat, "recurrent: takes float32, not ",
                   given.scalar_type());
}

void check_matrix(const Tensor& given, int64_t rows, int64_t columns, const char* what) {
  check_float(given);
  TORCH_CHECK_VALUE(given.dim() == 2 && given.size(0) == rows && given.size(1) == columns,
                    "recurrent: ", what, " of ", given.sizes(), ", not [", rows, ", ", columns,
                    "]");
}

int64_t total_rows(at::IntArrayRef sizes) {
  TORCH_CHECK_VALUE(!sizes.empty() && sizes.back() >= 0 &&
                        std::is_sorted(sizes.begin(), sizes.end(), std::greater<>()),
                    "recurrent: steps of ", sizes, " rows");
  return std::accumulate(sizes.begin(), sizes.end(), int64_t{0});
}

// y, not yet written, and copies of the states to compute in.
std::vector<Tensor> results_of(const Tensor& h, const std::optional<Tensor>& c, RecurrentMode mode,
                               at::IntArrayRef sizes, int64_t width) {
  TORCH_CHECK_VALUE(c.has_value() == (mode == RecurrentMode::lstm),
                    "recurrent: an LSTM alone has a cell state");
  check_matrix(h, sizes[0], width, "a state");
  std::vector<Tensor> results{at::empty({total_rows(sizes), width}, h.options()),
                              h.clone(at::MemoryFormat::Contiguous)};
  if (c) {
    check_matrix(*c, sizes[0], width, "a state");
    results.push_back(c->clone(at::MemoryFormat::Contiguous));
  }
  return results;
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
                    "recurrent: weights of ", args.x_layer->n(), " and ", args.h_layer->n(),
                    " outputs, not ", gates);
  check_matrix(input, total_rows(sizes), args.x_layer->k(), "an input");
  const auto x = input.expect_contiguous();
  std::vector<Tensor> results = results_of(h, c, args.mode, sizes, width);
  args.x = x->const_data_ptr<float>();
  args.y = results[0].mutable_data_ptr<float>();
  args.h = results[1].mutable_data_ptr<float>();
  if (c) args.c = results[2].mutable_data_ptr<float>();
  TORCH_CHECK_VALUE(cpu::run_recurrent_int8(args, default_pool()),
                    "recurrent: the input or a state holds NaN or infinity");
  return results;
}

// The same with a float weight [gates, width] of the state; `x_part` [rows, gates] is the input's
// product already.
std::vector<Tensor> recurrent_float(const Tensor& x_part, const Tensor& weight,
                                    const std::optional<Tensor>& bias, const Tensor& h,
                                    const std::optional<Tensor>& c, at::IntArrayRef sizes,
                                    c10::string_view mode, bool reverse) {
  cpu::RecurrentStep step;
  step.mode = mode_of({mode.data(), mode.size()});
  const int64_t gates = x_part.dim() == 2 ? x_part.size(1) : 0;
  step.width = gates / cpu::recurrent_gates(step.mode);
  check_matrix(weight, step.width * cpu::recurrent_gates(step.mode), step.width, "a weight");
  check_matrix(x_part, total_rows(sizes), weight.size(0), "an input's product");
  const auto x = x_part.expect_contiguous();
  std::vector<Tensor> results = results_of(h, c, step.mode, sizes, step.width);
  Tensor h_part = at::empty({sizes[0], gates}, x->options());
  const Tensor transposed = weight.t();
  const auto& kernel = cpu::best_kernel(cpu::recurrent_step_kernels());
  step.h_gates = h_part.const_data_ptr<float>();
  step.h = results[1].mutable_data_ptr<float>();
  if (c) step.c = results[2].mutable_data_ptr<float>();
  const auto steps = static_cast<int64_t>(sizes.size());
  int64_t first = reverse ? x->size(0) : 0;
  for (int64_t i = 0; i < steps; ++i) {
    step.rows = sizes[static_cast<size_t>(reverse ? steps - 1 - i : i)];
    if (reverse) first -= step.rows;
    Tensor product = h_part.narrow(0, 0, step.rows);
    const Tensor state = results[1].narrow(0, 0, step.rows);
    if (bias)
      at::addmm_out(product, *bias, state, transposed);
    else
      at::mm_out(product, state, transposed);
    step.x_gates = x->const_data_ptr<float>() + first * gates;
    step.y = results[0].mutable_data_ptr<float>() + first * step.width;
    kernel.run(step, default_pool());
    if (!reverse) first += step.rows;
  }
  return results;
}

}  // namespace

TORCH_LIBRARY_FRAGMENT(octavo, m) {
  m.def(
      "recurrent_int8(Tensor x, __torch__.torch.classes.octavo.LinearInt8 x_layer, "
      "__torch__.torch.classes.octavo.LinearInt8 h_layer, Tensor h, Tensor? c, int[] sizes, str "
      "mode, bool reverse) -> Tensor[]");
  m.def(
      "recurrent_float(Tensor x_part, Tensor weight, Tensor? bias, Tensor h, Tensor? c, int[] "
      "sizes, str mode, bool reverse) -> Tensor[]");
}
TORCH_LIBRARY_IMPL(octavo, CPU, m) {
  m.impl("recurrent_int8", recurrent_int8);
  m.impl("recurrent_float", recurrent_float);
}

}  // namespace octavo::torch_ops
