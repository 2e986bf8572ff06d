#include "graph/bind.h"

#include "graph/op_def.h"
#include "support/error.h"

namespace octavo {

SymbolBinding check_inputs(const Graph& graph, std::span<const Tensor> tensors) {
  if (tensors.size() != graph.inputs().size())
    throw UserError(ErrorKind::value, graph.name,
                    fmt::format("takes {} inputs, not {}", graph.inputs().size(), tensors.size()));
  SymbolBinding binding;
  for (size_t i = 0; i < tensors.size(); ++i) {
    const Value& input = *graph.inputs()[i];
    const auto mismatch = [&](const std::string& why) {
      throw UserError(
          ErrorKind::value, fmt::format("input '{}'", input.name()),
          fmt::format("expected {}, got {}{}", input.type().str(), tensors[i].type().str(), why));
    };
    if (tensors[i].dtype() != input.dtype() || tensors[i].rank() != input.shape().rank())
      mismatch("");
    for (size_t d = 0; d < input.shape().size(); ++d) {
      const Dim& dim = input.shape()[d];
      const int64_t size = tensors[i].dims()[d];
      if (dim.is_static()) {
        if (dim.value() != size) mismatch("");
      } else if (!dim.is_unknown()) {
        const auto [it, fresh] = binding.emplace(dim.symbol(), size);
        if (!fresh && it->second != size)
          mismatch(fmt::format(" ({} is already {})", dim.symbol(), it->second));
      }
    }
  }
  return binding;
}

Graph bind_symbols(const Graph& graph, const SymbolBinding& binding) {
  Graph bound = graph.clone();
  for (Value* input : bound.inputs()) {
    TensorType type = input->type();
    for (Dim& dim : type.shape)
      if (const auto it = binding.find(dim.symbol()); !dim.is_static() && it != binding.end())
        dim = it->second;
    input->set_type(std::move(type));
  }
  bound.infer_types();
  return bound;
}

}  // namespace octavo
