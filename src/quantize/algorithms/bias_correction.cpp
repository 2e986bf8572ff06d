#include "quantize/algorithms/bias_correction.h"

#include "graph/op_def.h"
#include "passes/match.h"
#include "support/error.h"

namespace octavo {

Residual residual_of(const Graph& graph, const Node& product) {
  const Node* at = &product;
  const auto next_addition = [&]() -> const Node* {
    const Node* user = only_user(graph, at->output());
    return user && user->is("add") && user->input(0) != user->input(1) ? user : nullptr;
  };
  const auto other_index = [&](const Node* add) -> size_t {
    return add->input(0) == at->output() ? 1 : 0;
  };
  const Node* add = next_addition();
  if (add && product.is("matmul") && add->input(other_index(add))->is_constant()) {  // its bias
    at = add;
    add = next_addition();
  }
  if (!add) return {};
  const Residual residual{add, other_index(add)};
  const Value* other = residual.value();
  if (other->is_constant() || !(other->type() == product.output()->type())) return {};
  if (other->is_input()) return residual;
  for (const Node* node = other->producer(); node; node = node->next())
    if (node == &product) return residual;
  return {};
}

namespace {
template <class T>
void add_sums(const Tensor& x, size_t inner, float scale, int32_t zero_point,
              std::vector<double>& sums) {
  const auto values = x.values<T>();
  const size_t channels = sums.size();
  if (inner == 1) {
    for (size_t i = 0; i < values.size(); i += channels)
      for (size_t c = 0; c < channels; ++c)
        sums[c] += (static_cast<double>(values[i + c]) - zero_point) * scale;
    return;
  }
  for (size_t i = 0; i < values.size(); i += inner) {
    double sum = 0;
    for (size_t k = 0; k < inner; ++k) sum += static_cast<double>(values[i + k]);
    sums[i / inner % channels] += (sum - static_cast<double>(inner) * zero_point) * scale;
  }
}
}  // namespace

void ChannelSums::add(const Tensor& x, size_t axis, float scale, int32_t zero_point) {
  const Dims& dims = x.dims();
  const auto channels = static_cast<size_t>(dims[axis]);
  sums.resize(channels, 0);
  if (x.size() == 0) return;
  size_t inner = 1;
  for (size_t i = axis + 1; i < dims.size(); ++i) inner *= static_cast<size_t>(dims[i]);
  if (x.dtype() == DType::u8)
    add_sums<uint8_t>(x, inner, scale, zero_point, sums);
  else if (x.dtype() == DType::i8)
    add_sums<int8_t>(x, inner, scale, zero_point, sums);
  else
    add_sums<float>(x, inner, scale, zero_point, sums);
  count += static_cast<double>(x.size()) / static_cast<double>(channels);
}

void ChannelSums::add(const ChannelSums& other) {
  sums.resize(std::max(sums.size(), other.sums.size()), 0);
  for (size_t c = 0; c < other.sums.size(); ++c) sums[c] += other.sums[c];
  count += other.count;
}

std::vector<double> integer_means(const ProductShape& product, const InputSums& x, float x_scale,
                                  const std::vector<int8_t>& q, const std::vector<float>& scales) {
  std::vector<double> means(product.channels);
  const size_t in_group = product.channels / product.groups;
  for (size_t o = 0; o < product.channels; ++o) {
    int64_t sum = 0;
    const int64_t* sums = &x.sums[o / in_group * product.length];
    for (size_t k = 0; k < product.length; ++k) sum += q[o * product.length + k] * sums[k];
    means[o] = static_cast<double>(sum) / static_cast<double>(x.positions) *
               static_cast<double>(x_scale) * static_cast<double>(scales[o]);
  }
  return means;
}

}  // namespace octavo
