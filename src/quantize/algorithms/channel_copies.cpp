#include "quantize/algorithms/channel_copies.h"

#include <algorithm>
#include <numeric>
#include <queue>

#include "graph/op_def.h"
#include "support/error.h"

namespace octavo {
namespace {

// Along `axis`, index k copies[k] times; divided by that number if the copies share a value.
Tensor repeated_along(const Tensor& tensor, size_t axis, const std::vector<size_t>& copies,
                      bool share) {
  Dims dims = tensor.dims();
  const auto from = tensor.values<float>();
  const size_t inner =
      std::accumulate(dims.begin() + static_cast<ptrdiff_t>(axis) + 1, dims.end(), size_t{1},
                      [](size_t n, int64_t d) { return n * static_cast<size_t>(d); });
  const size_t outer = from.size() / (inner * copies.size());
  dims[axis] = static_cast<int64_t>(std::accumulate(copies.begin(), copies.end(), size_t{0}));
  Tensor result(DType::f32, dims);
  float* to = result.mutable_values<float>().data();
  for (size_t o = 0; o < outer; ++o)
    for (size_t k = 0; k < copies.size(); ++k)
      for (size_t m = 0; m < copies[k]; ++m)
        for (size_t i = 0; i < inner; ++i)
          *to++ = from[(o * copies.size() + k) * inner + i] /
                  (share ? static_cast<float>(copies[k]) : 1);
  return result;
}

}  // namespace

std::vector<size_t> copies_for(const std::vector<double>& load, size_t extra) {
  std::vector<size_t> copies(load.size(), 1);
  std::priority_queue<std::pair<double, size_t>> by_load;
  for (size_t k = 0; k < load.size(); ++k) by_load.emplace(load[k], k);
  for (size_t i = 0; i < extra && !by_load.empty(); ++i) {
    const size_t k = by_load.top().second;
    by_load.pop();
    ++copies[k];
    by_load.emplace(load[k] / static_cast<double>(copies[k]), k);
  }
  return copies;
}

std::vector<float> repeated(const std::vector<float>& rows, const std::vector<size_t>& copies) {
  std::vector<float> result;
  result.reserve(rows.size());
  for (size_t i = 0; i < rows.size(); ++i)
    result.insert(result.end(), copies[i % copies.size()], rows[i]);
  return result;
}

void repeat_channels(Graph& graph, const ChannelSite& site, const std::vector<size_t>& copies) {
  OCTAVO_CHECK(site.source && site.before_gelu);
  const auto change = [&](Node& node, size_t input, size_t axis, bool share) {
    const Value* old = node.input(input);
    node.set_input(input, graph.add_constant(old->name() + "/split",
                                             repeated_along(old->constant(), axis, copies, share)));
  };
  change(*site.source, 1, is_transposed(*site.source) ? 0 : 1, false);
  if (site.source->input(2)) change(*site.source, 2, 0, false);
  if (Node* add = site.source_bias) change(*add, add->input(0)->is_constant() ? 0 : 1, 0, false);
  for (Node* product : site.products) change(*product, 1, is_transposed(*product) ? 1 : 0, true);
  graph.infer_types();
}

}  // namespace octavo
