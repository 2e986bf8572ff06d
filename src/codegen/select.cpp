#include "codegen/select.h"

#include <cstring>

#include "codegen/selectors.h"
#include "graph/op_def.h"
#include "support/error.h"

namespace octavo {
namespace {

constexpr Selector table[] = {
    {"fused_conv", select_conv},
    {"fused_gemm", select_conv},
    {"fused_attention", select_attention},
    {"fused_layer_norm", select_layer_norm},
    {"fused_gather", select_fused_gather},
    {"matmul", select_matmul},
    {"quantized_add", select_quantized_binary},
    {"quantized_mul", select_quantized_binary},
    {"lookup", select_lookup},
    {"pool", select_pool},
    {"quantize", select_quantize},
    {"dequantize", select_dequantize},
    {"dynamic_quantize", select_dynamic_quantize},
    {"quantize_to_nhwc", select_quantize_to_nhwc},
    {"add", select_binary},
    {"sub", select_binary},
    {"mul", select_binary},
    {"div", select_binary},
    {"pow", select_binary},
    {"maximum", select_binary},
    {"minimum", select_binary},
    {"prelu", select_binary},
    {"relu", select_unary},
    {"clip", select_unary},
    {"leaky_relu", select_unary},
    {"elu", select_unary},
    {"sigmoid", select_unary},
    {"hard_sigmoid", select_unary},
    {"hard_swish", select_unary},
    {"silu", select_unary},
    {"swish", select_unary},
    {"gelu", select_unary},
    {"mish", select_unary},
    {"celu", select_unary},
    {"selu", select_unary},
    {"softsign", select_unary},
    {"softplus", select_unary},
    {"tanh", select_unary},
    {"erf", select_unary},
    {"exp", select_unary},
    {"log", select_unary},
    {"sqrt", select_unary},
    {"reciprocal", select_unary},
    {"neg", select_unary},
    {"abs", select_unary},
    {"floor", select_unary},
    {"ceil", select_unary},
    {"round", select_unary},
    {"round_to", select_unary},
    {"reduce_mean", select_reduce},
    {"reduce_sum", select_reduce},
    {"reduce_max", select_reduce},
    {"reduce_min", select_reduce},
    {"reduce_prod", select_reduce},
    {"softmax", select_softmax},
    {"transpose", select_transpose},
    {"slice", select_slice},
    {"concat", select_concat},
    {"expand", select_expand},
    {"tile", select_tile},
    {"depth_to_space", select_depth_to_space},
    {"space_to_depth", select_depth_to_space},
    {"pad", select_pad},
    {"gather", select_gather},
    {"where", select_where},
    {"cast", select_cast},
    {"resize", select_resize},
};

// `node` alone, in a graph of its own: the constants that it reads, and no others.
Node& copy_alone(const Node& node, Graph& graph) {
  std::vector<Value*> inputs;
  for (const Value* input : node.inputs()) {
    const std::string name = fmt::format("x{}", inputs.size());
    inputs.push_back(!input                 ? nullptr
                     : input->is_constant() ? graph.add_constant(name, input->constant())
                                            : graph.add_input(name, input->type()));
  }
  return *graph.add(node.op_name(), std::move(inputs), node.attributes(), node.name());
}

// Any op by its plain definition, slow and allocating.
class ReferenceKernel final : public StepKernel {
 public:
  explicit ReferenceKernel(const Node& node) : node_(copy_alone(node, graph_)) {
    if (!node.op().impl->reference)
      throw UserError(ErrorKind::unsupported, node.where(), "has no kernel");
    for (const Value* output : node.outputs())
      if (!output->shape().is_static())
        throw UserError(ErrorKind::unsupported, node.where(),
                        fmt::format("the output's shape {} is not known at compile time",
                                    output->shape().str()),
                        "give the inputs fixed shapes, or cut the network before the node");
  }
  const char* name() const override { return "reference"; }
  Isa isa() const override { return Isa::portable; }
  void run(std::span<const void* const> in, std::span<void* const> out,
           StepContext) const override {
    std::vector<Tensor> inputs(in.size());
    std::vector<const Tensor*> pointers(in.size(), nullptr);
    for (size_t i = 0; i < in.size(); ++i) {
      const Value* value = node_.input(i);
      if (!value) continue;
      if (value->is_constant()) {
        pointers[i] = &value->constant();
        continue;
      }
      inputs[i] = Tensor(value->dtype(), value->shape().dims());
      std::memcpy(inputs[i].mutable_data(), in[i], inputs[i].bytes());
      pointers[i] = &inputs[i];
    }
    std::vector<Tensor> outputs;
    for (const Value* value : node_.outputs())
      outputs.emplace_back(value->dtype(), value->shape().dims());
    node_.op().impl->reference(node_, pointers, outputs);
    for (size_t i = 0; i < out.size(); ++i)
      if (out[i]) std::memcpy(out[i], outputs[i].data(), outputs[i].bytes());
  }

 private:
  Graph graph_;
  const Node& node_;
};

}  // namespace

std::span<const Selector> selectors() { return table; }

Selected select_kernel(const Node& node) {
  Selected selected;
  for (const Selector& selector : table)
    if (node.is(selector.op)) {
      selector.select(node, selected);
      if (selected.kernel) return selected;
    }
  selected.absorbed.clear();
  selected.kernel = std::make_unique<ReferenceKernel>(node);
  return selected;
}

}  // namespace octavo
