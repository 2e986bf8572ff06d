// A program: what runs. It holds one plan per binding of the symbolic dimensions, made when the
// binding is first seen; a call with a known binding takes no lock for long, allocates nothing and
// does not touch the compiler.
#pragma once
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "graph/shape.h"
#include "graph/tensor.h"
#include "runtime/plan.h"
#include "support/thread_pool.h"

namespace octavo {

struct StepProfile {
  std::string node, op, kernel, isa;
  double microseconds;  // of this call
  int64_t macs;
  size_t bytes;
};

class Program {
 public:
  struct Signature {
    std::vector<std::string> input_names, output_names;
    std::vector<TensorType> input_types, output_types;  // symbols where the graph has them
  };
  // Makes the plan for inputs of these shapes. UserError if they do not fit. `values` has the
  // tensor of each value input in its place, null for the others.
  using Planner = std::function<std::shared_ptr<const Plan>(const std::vector<Dims>& input_dims,
                                                            std::span<const Tensor> values)>;

  // threads 0: as many as the default pool. Every program of one thread count shares one pool.
  // `value_inputs`: a plan is made not only for the shapes but for the values of these inputs.
  Program(Signature signature, Planner planner, int threads = 0,
          std::vector<size_t> value_inputs = {});
  ~Program();
  Program(Program&&) noexcept;
  Program& operator=(Program&&) noexcept;

  const Signature& signature() const;
  int threads() const;

  // The plan for these shapes, made if need be. UserError on a wrong count, rank or size. Where
  // shapes depend on values it is only the first (Plan::then).
  std::shared_ptr<const Plan> plan(const std::vector<Dims>& input_dims);
  // Releases the planner and the graph it holds; all shapes that fit must have their plan.
  void release_planner();

  // UserError if dtypes or shapes do not fit; outputs are freshly allocated.
  std::vector<Tensor> run(std::span<const Tensor> inputs);
  // Raw call on a plan of this program: dense row-major data, `in` and `out` as the plan's types
  // say. Allocates nothing from the second call on. UserError (unsupported) if the plan has more
  // after it.
  void run(const Plan& plan, std::span<const void* const> in, std::span<void* const> out);
  // As run, timing each step.
  std::vector<Tensor> run_profiled(std::span<const Tensor> inputs,
                                   std::vector<StepProfile>& profile);

 private:
  std::vector<Tensor> call(std::span<const Tensor> inputs, std::vector<StepProfile>* profile);
  struct State;
  std::unique_ptr<State> s_;
};

}  // namespace octavo
