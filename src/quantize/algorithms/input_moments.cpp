#include "quantize/algorithms/input_moments.h"

#include <algorithm>
#include <cmath>
#include <map>
#include <numeric>

#include "codegen/compile.h"
#include "graph/op_def.h"
#include "quantize/algorithms/matrix_product.h"
#include "quantize/algorithms/product_input.h"
#include "quantize/samples.h"
#include "support/error.h"

namespace octavo {
namespace {

constexpr size_t chunk = 256;  // rows that float32 adds up; chunks are added in float64

// One input, and the products that see the same rows of it.
struct Input {
  ProductShape shape;
  std::vector<size_t> products;
  size_t place = 0;  // among the observed outputs
  SeenInput seen = {};
  std::vector<float> rows = {};  // not yet added: [rows, length]

  // x' x of whole chunks, or of all with zeros behind.
  void add(Program& gram, bool all) {
    const size_t k = shape.length;
    size_t first = 0;
    for (; rows.size() - first >= (all ? 1 : chunk * k);
         first += std::min(chunk * k, rows.size() - first)) {
      const size_t count = std::min(chunk, (rows.size() - first) / k);
      std::vector<float> x(chunk * k, 0.0f), transposed(chunk * k, 0.0f);
      for (size_t n = 0; n < count; ++n)
        for (size_t i = 0; i < k; ++i) {
          const float v = rows[first + n * k + i];
          x[n * k + i] = transposed[i * chunk + n] = v;
          seen.magnitudes[i] += std::fabs(static_cast<double>(v));
        }
      const auto length = static_cast<int64_t>(k), width = static_cast<int64_t>(chunk);
      const std::vector<Tensor> operands{Tensor::from(Dims{length, width}, transposed),
                                         Tensor::from(Dims{width, length}, x)};
      const std::vector<Tensor> product = gram.run(operands);
      const auto sums = product[0].values<float>();
      for (size_t i = 0; i < sums.size(); ++i) seen.moments.values[i] += sums[i];
      seen.rows += count;
    }
    rows.erase(rows.begin(), rows.begin() + static_cast<ptrdiff_t>(first));
  }

  void finish() {
    const size_t k = shape.length;
    const auto n = static_cast<double>(std::max<size_t>(seen.rows, 1));
    for (double& v : seen.magnitudes) v /= n;
    // Symmetric to the last bit, whatever the order of the sums.
    for (size_t i = 0; i < k; ++i)
      for (size_t j = 0; j <= i; ++j)
        seen.moments.values[i * k + j] = seen.moments.values[j * k + i] =
            seen.moments.values[i * k + j] / n;
  }
};

std::vector<Input> inputs_of(std::span<const PlacedWeights> products) {
  std::vector<Input> inputs;
  std::map<const Value*, size_t> known;  // of products of matrices: they see the same rows
  for (size_t i = 0; i < products.size(); ++i) {
    if (!has_product_shape(products[i])) continue;
    ProductShape shape = product_shape(products[i]);
    if (shape.groups != 1 || shape.length == 0) continue;
    const Value* x = products[i].node->input(0);
    if (shape.kernel.empty()) {
      const auto [it, fresh] = known.emplace(x, inputs.size());
      if (!fresh && inputs[it->second].shape.length == shape.length) {
        inputs[it->second].products.push_back(i);
        continue;
      }
    }
    inputs.push_back({std::move(shape), {i}});
  }
  return inputs;
}

}  // namespace

size_t see_inputs(const Graph& graph, std::span<const PlacedWeights> products, const Dataset& data,
                  const InputMomentsOptions& options, const Progress& progress,
                  const std::function<void(std::span<const size_t>, const SeenInput&)>& visit) {
  const size_t count =
      options.most_samples ? std::min(options.most_samples, data.size()) : data.size();
  if (count == 0)
    throw UserError(ErrorKind::value, "calibration data", "there is no sample",
                    "gptq and awq fit weights to data");
  std::vector<Input> all = inputs_of(products);
  ThreadPool pool(options.threads);
  std::vector<size_t> which(count);
  std::iota(which.begin(), which.end(), size_t{0});
  const size_t per_sample = (options.most_rows + count - 1) / count;
  for (size_t begin = 0; begin < all.size();) {
    size_t end = begin, bytes = 0;
    do {
      bytes += all[end].shape.length * all[end].shape.length * sizeof(double);
      ++end;
    } while (end < all.size() &&
             bytes + all[end].shape.length * all[end].shape.length * sizeof(double) <=
                 options.most_bytes);
    const std::span<Input> inputs(&all[begin], end - begin);
    Graph observed = graph.clone();
    for (Input& input : inputs) {
      const size_t k = input.shape.length;
      input.place = observed.outputs().size();
      observed.add_output(observed.find_value(input.shape.node->input(0)->name()));
      input.seen = {{k, std::vector<double>(k * k, 0)}, std::vector<double>(k, 0), 0};
    }
    Program program = compile(std::move(observed), {.threads = 1});
    std::map<size_t, Program> grams;  // by length
    for (const Input& input : inputs)
      if (!grams.contains(input.shape.length))
        grams.emplace(input.shape.length,
                      matrix_product(input.shape.length, chunk, input.shape.length, 1));
    size_t first = 0;
    run_samples(program, data, which, pool,
                [&](std::span<const std::vector<Tensor>> outputs, size_t done) {
                  auto task = [&](int64_t i, int) {
                    Input& input = inputs[static_cast<size_t>(i)];
                    for (size_t n = 0; n < outputs.size(); ++n) {
                      const std::vector<Tensor> x{outputs[n][input.place]};
                      const std::vector<float> rows =
                          InputSamples(input.shape, x, 0, per_sample, first + n).gather_floats();
                      input.rows.insert(input.rows.end(), rows.begin(), rows.end());
                    }
                    input.add(grams.at(input.shape.length), false);
                  };
                  pool.run(static_cast<int64_t>(inputs.size()), task);
                  first = done;
                  if (progress) progress("measuring inputs", done, count);
                });
    for (Input& input : inputs) {
      input.add(grams.at(input.shape.length), true);
      input.finish();
      if (input.seen.rows > 0) visit(input.products, input.seen);
      input.seen = {};
    }
    begin = end;
  }
  return count;
}

}  // namespace octavo
