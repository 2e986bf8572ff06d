#include "codegen/compile.h"

#include "graph/bind.h"
#include "graph/op_def.h"
#include "passes/pipeline.h"
#include "support/error.h"

namespace octavo {

Graph lowered(const Graph& graph, const std::vector<Dims>& input_dims,
              const CompileOptions& options) {
  Graph bound = graph.clone();
  for (size_t i = 0; i < input_dims.size(); ++i)
    bound.inputs()[i]->set_type({bound.inputs()[i]->dtype(), Shape(input_dims[i])});
  bound.infer_types();
  if (options.optimize)
    lower(bound);
  else
    bound.stage = Stage::lowered;
  return bound;
}

Program compile(Graph graph, const CompileOptions& options) {
  if (graph.stage == Stage::lowered)
    throw UserError(ErrorKind::value, graph.name, "is lowered already",
                    "compile the canonical or quantized graph");
  canonicalize(graph);
  Program::Signature signature;
  bool is_static = true;
  for (const Value* input : graph.inputs()) {
    signature.input_names.push_back(input->name());
    signature.input_types.push_back(input->type());
    is_static = is_static && input->shape().is_static();
  }
  for (const Value* output : graph.outputs()) {
    signature.output_names.push_back(output->name());
    signature.output_types.push_back(output->type());
  }
  const auto shared = std::make_shared<const Graph>(std::move(graph));
  const int threads = options.threads > 0 ? options.threads : default_pool().size();
  Program program(
      signature,
      [shared, options, threads](const std::vector<Dims>& dims) {
        return build_plan(lowered(*shared, dims, options), threads);
      },
      threads);
  if (is_static) {
    std::vector<Dims> dims;
    for (const TensorType& type : signature.input_types) dims.push_back(type.shape.dims());
    program.plan(dims);
  }
  return program;
}

}  // namespace octavo
