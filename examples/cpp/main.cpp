// Loads a model, quantizes it on noise unless told "float", compiles it, runs it on ones, prints.
// Usage: run_model MODEL [float]
#include <octavo/octavo.h>

#include <cstdio>
#include <random>
#include <string>

namespace {

// Symbolic dimensions count as 1.
octavo::Tensor filled(const octavo::ValueInfo& info, const std::function<float()>& next) {
  octavo::Dims dims = info.dims;
  size_t size = 1;
  for (int64_t& dim : dims) size *= static_cast<size_t>(dim = dim < 0 ? 1 : dim);
  std::vector<float> values(size);
  for (float& value : values) value = next();
  return octavo::Tensor::from(dims, values);
}

}  // namespace

int main(int count, char** arguments) try {
  if (count < 2) {
    std::fprintf(stderr, "usage: run_model MODEL [float]\n");
    return 2;
  }
  octavo::Graph graph = octavo::load_model(arguments[1]);
  octavo::Program program = octavo::compile(graph);
  const auto inputs = program.inputs();
  if (count < 3) {
    std::mt19937 generator(1);
    std::normal_distribution<float> normal;
    std::vector<std::vector<octavo::Tensor>> samples(16);
    for (auto& sample : samples)
      for (const auto& info : inputs)
        sample.push_back(filled(info, [&] { return normal(generator); }));
    program = octavo::compile(octavo::quantize(graph, samples));
  }
  std::vector<octavo::Tensor> ones;
  for (const auto& info : inputs) ones.push_back(filled(info, [] { return 1.0f; }));
  const auto outputs = program.run(ones);
  for (size_t i = 0; i < outputs.size(); ++i) {
    std::printf("%s:", program.outputs()[i].name.c_str());
    for (const float value : outputs[i].values<float>()) std::printf(" %.9g", value);
    std::printf("\n");
  }
  return 0;
} catch (const octavo::UserError& error) {
  std::fprintf(stderr, "run_model: %s\n", error.what());
  return 1;
}
