// Functions of one element: float ones, and any on bytes by a table.
#include <algorithm>
#include <array>

#include "backends/cpu/elementwise.h"
#include "backends/cpu/quantized.h"
#include "codegen/kernel_step.h"
#include "codegen/selectors.h"
#include "graph/op_def.h"

namespace octavo {
namespace {

struct Row {
  std::string_view op;
  cpu::UnaryOp kernel;
  const char *alpha = nullptr, *beta = nullptr;  // attributes
};

constexpr Row rows[] = {
    {"relu", cpu::UnaryOp::relu},
    {"clip", cpu::UnaryOp::clip, "min", "max"},
    {"leaky_relu", cpu::UnaryOp::leaky_relu, "alpha"},
    {"elu", cpu::UnaryOp::elu, "alpha"},
    {"sigmoid", cpu::UnaryOp::sigmoid},
    {"hard_sigmoid", cpu::UnaryOp::hard_sigmoid, "alpha", "beta"},
    {"hard_swish", cpu::UnaryOp::hard_swish},
    {"silu", cpu::UnaryOp::silu},
    {"swish", cpu::UnaryOp::swish, "alpha"},
    {"gelu", cpu::UnaryOp::gelu},
    {"mish", cpu::UnaryOp::mish},
    {"celu", cpu::UnaryOp::celu, "alpha"},
    {"selu", cpu::UnaryOp::selu, "alpha", "gamma"},
    {"softsign", cpu::UnaryOp::softsign},
    {"softplus", cpu::UnaryOp::softplus},
    {"tanh", cpu::UnaryOp::tanh},
    {"erf", cpu::UnaryOp::erf},
    {"exp", cpu::UnaryOp::exp},
    {"log", cpu::UnaryOp::log},
    {"sqrt", cpu::UnaryOp::sqrt},
    {"reciprocal", cpu::UnaryOp::reciprocal},
    {"neg", cpu::UnaryOp::neg},
    {"abs", cpu::UnaryOp::abs},
    {"floor", cpu::UnaryOp::floor},
    {"ceil", cpu::UnaryOp::ceil},
    {"round", cpu::UnaryOp::round},
    {"round_to", cpu::UnaryOp::round_f16},
};

}  // namespace

void select_unary(const Node& node, Selected& selected) {
  if (decline_unless_f32(selected, "unary", node.output()->dtype()) ||
      decline_parameter_inputs(selected, "unary", node))
    return;
  const auto* const row =
      std::find_if(std::begin(rows), std::end(rows), [&](const Row& r) { return node.is(r.op); });
  if (row == std::end(rows)) return decline(selected, "unary", "has no such function");
  cpu::Unary args{.op = row->kernel, .count = element_count(node.output()->shape().dims())};
  if (node.is("gelu") && node.text("approximate") == "tanh") args.op = cpu::UnaryOp::gelu_tanh;
  if (node.is("round_to") && node.text("to") == "bf16") args.op = cpu::UnaryOp::round_bf16;
  if (row->alpha) args.alpha = static_cast<float>(node.real(row->alpha));
  if (row->beta) args.beta = static_cast<float>(node.real(row->beta));
  selected.kernel = make_step(cpu::unary_kernels(), args);
}

void select_lookup(const Node& node, Selected& selected) {
  if (!node.input(1)->is_constant())
    return decline(selected, "lookup", "the table is not constant");
  const int64_t count = element_count(node.output()->shape().dims());
  std::array<uint8_t, 256> table;
  std::copy_n(reinterpret_cast<const uint8_t*>(node.input(1)->constant().data()), table.size(),
              table.begin());
  selected.kernel = make_step(cpu::lookup_kernels(),
                              cpu::Lookup{.row = count, .x_pitch = count, .y_pitch = count},
                              [table](cpu::Lookup& args, StepInputs in, StepOutputs out) {
                                args.table = table.data();
                                args.x = in[0];
                                args.y = out[0];
                              });
  selected.absorbed = {1};
}

}  // namespace octavo
