#include "codegen/compile.h"

#include "backends/reference/interpreter.h"
#include "codegen/stages.h"
#include "passes/passes.h"
#include "passes/pipeline.h"
#include "support/error.h"

namespace octavo {

namespace {

Graph specialized(const Graph& graph, const std::vector<Dims>& input_dims) {
  Graph bound = graph.clone();
  for (size_t i = 0; i < input_dims.size(); ++i)
    bound.inputs()[i]->set_type({bound.inputs()[i]->dtype(), Shape(input_dims[i])});
  specialize(bound);
  bound.remove_dead();
  return bound;
}

void lower_if(Graph& graph, const CompileOptions& options) {
  if (options.optimize)
    lower(graph);
  else
    graph.stage = Stage::lowered;
}

Program::Signature signature_of(const Graph& graph) {
  Program::Signature signature;
  for (const Value* input : graph.inputs()) {
    signature.input_names.push_back(input->name());
    signature.input_types.push_back(input->type());
  }
  for (const Value* output : graph.outputs()) {
    signature.output_names.push_back(output->name());
    signature.output_types.push_back(output->type());
  }
  return signature;
}

std::shared_ptr<const Plan> make_plan(Graph graph, const CompileOptions& options);

// A program that plans `graph` for the shapes, and the values of some inputs, that it is given.
Program make_program(Graph graph, const CompileOptions& options,
                     std::vector<size_t> value_inputs = {}) {
  Program::Signature signature = signature_of(graph);
  const auto shared = std::make_shared<const Graph>(std::move(graph));
  return {std::move(signature),
          [shared, options](const std::vector<Dims>& dims, std::span<const Tensor> values) {
            Graph bound = shared->clone();
            for (size_t i = 0; i < dims.size(); ++i) {
              Value* input = bound.inputs()[i];
              input->set_type({input->dtype(), Shape(dims[i])});
              if (!values.empty() && values[i])
                bound.replace_all_uses(input, bound.add_constant("", values[i]));
            }
            specialize(bound);
            bound.remove_dead();
            return make_plan(std::move(bound), options);
          },
          options.threads, std::move(value_inputs)};
}

// `graph` is specialized.
std::shared_ptr<const Plan> make_plan(Graph graph, const CompileOptions& options) {
  if (all_static(graph)) {
    lower_if(graph, options);
    return build_plan(graph, options);
  }
  Cut parts = cut(graph);
  lower_if(parts.first, options);
  Continuation then;
  then.rest = std::make_shared<Program>(
      make_program(std::move(parts.rest), options, std::move(parts.value_inputs)));
  if (!parts.between.outputs().empty())
    then.between = [between = std::make_shared<const Graph>(std::move(parts.between)),
                    indices = std::move(parts.between_inputs)](std::span<const Tensor> outputs) {
      std::vector<Tensor> inputs;
      for (const size_t i : indices) inputs.push_back(outputs[i]);
      return interpret(*between, inputs);
    };
  return build_plan(parts.first, options, std::move(then));
}

}  // namespace

Graph lowered(const Graph& graph, const std::vector<Dims>& input_dims,
              const CompileOptions& options) {
  Graph bound = specialized(graph, input_dims);
  lower_if(bound, options);
  return bound;
}

Program compile(Graph graph, const CompileOptions& asked) {
  if (graph.stage == Stage::lowered)
    throw UserError(ErrorKind::value, graph.name, "is lowered already",
                    "compile the canonical or quantized graph");
  canonicalize(graph);
  CompileOptions options = asked;
  if (options.threads <= 0) options.threads = default_pool().size();
  std::vector<Dims> dims;
  for (const Value* input : graph.inputs()) {
    if (!input->shape().is_static()) return make_program(std::move(graph), options);
    dims.push_back(input->shape().dims());
  }
  // For one binding the graph itself is planned.
  Program::Signature signature = signature_of(graph);
  specialize(graph);
  graph.remove_dead();
  Program program(
      std::move(signature),
      [plan = make_plan(std::move(graph), options)](const auto&, auto) { return plan; },
      options.threads);
  program.plan(dims);
  program.release_planner();
  return program;
}

}  // namespace octavo
