// Random sound graphs with awkward names, types and numbers, for tests of whatever writes graphs.
#pragma once
#include <cstring>
#include <limits>
#include <random>
#include <string>

#include "graph/graph.h"
#include "support/error.h"

namespace octavo::testing {

class RandomGraph {
 public:
  explicit RandomGraph(uint64_t seed) : random_(seed) {}

  Graph make() {
    Graph g;
    g.name = name();
    g.stage = Stage::quantized;
    std::vector<Value*> pool;
    for (int i = below(3); i >= 0; --i) pool.push_back(g.add_input(name(), {DType::f32, image()}));
    for (int i = below(3); i > 0; --i) {
      const auto dtype = static_cast<DType>(below(dtype_count));
      Value* input = g.add_input(name(), {dtype, {Dim::symbol(symbol()), Dim::unknown(), 0, 7}});
      if (below(2)) g.add_output(input);
    }
    for (int i = below(4); i > 0; --i) {
      Value* constant = g.add_constant(name(), any_tensor());
      if (below(2)) g.add_output(constant);
    }
    for (int i = 2 + below(12); i > 0; --i) {
      try {
        Value* value =
            step(g, pool[static_cast<size_t>(below(static_cast<int>(pool.size())))], pool);
        if (below(2)) g.rename(value, name());
        if (below(2)) value->producer()->set_name(name());
        if (value->dtype() == DType::f32) pool.push_back(value);
        if (below(4) == 0) g.add_output(value);
      } catch (const UserError&) {
        continue;  // an op that does not fit this value
      }
    }
    g.add_output(pool.back());
    return g;
  }

 private:
  int below(int n) { return static_cast<int>(random_() % static_cast<uint64_t>(n)); }

  std::string name() {
    static const std::vector<std::string> names{"",
                                                "x",
                                                "/block.0/Conv_out",
                                                "a b",
                                                "0",
                                                "_",
                                                "12",
                                                "\"\\\n\t",
                                                "naïve λ",
                                                std::string("nul\0in", 6),
                                                "a%b",
                                                "\xff\xfe",
                                                "//",
                                                ".5",
                                                "x:1,[]{}",
                                                "x",
                                                "",
                                                "#",
                                                "return",
                                                "\xed\xa0\x80"};
    return names[static_cast<size_t>(below(static_cast<int>(names.size())))] +
           (below(2) ? "" : std::to_string(below(9)));
  }

  std::string symbol() {
    return std::vector<std::string>{
        "N", "batch size", "?", "2*N", "_", "7"}[static_cast<size_t>(below(6))];
  }
  Shape image() { return {Dim::symbol(symbol()), 1 + below(4), 5 + below(4), 5 + below(4)}; }

  double real() {
    switch (below(6)) {
      case 0:
        return std::numeric_limits<double>::infinity();
      case 1:
        return -0.0;
      case 2:
        return static_cast<double>(below(10));
      case 3:
        return 5e-324;
      default: {
        double value;  // any bits, NaNs too
        const uint64_t bits = random_();
        std::memcpy(&value, &bits, sizeof value);
        return value;
      }
    }
  }

  Tensor any_tensor() {
    const auto dtype = static_cast<DType>(below(dtype_count));
    Dims dims;
    for (int i = below(4); i > 0; --i) dims.push_back(below(5));
    Tensor tensor(dtype, dims);
    for (size_t i = 0; i < tensor.bytes(); ++i)
      tensor.mutable_data()[i] =
          static_cast<std::byte>(dtype == DType::boolean ? below(2) : below(256));
    return tensor;
  }

  Tensor floats(const Dims& dims) {
    Tensor tensor(DType::f32, dims);
    for (float& v : tensor.mutable_values<float>())
      v = static_cast<float>(below(2000) - 1000) / 256;
    return tensor;
  }

  Value* step(Graph& g, Value* x, const std::vector<Value*>& pool) {
    Value* other = pool[static_cast<size_t>(below(static_cast<int>(pool.size())))];
    switch (below(9)) {
      case 0:
        return g.apply("relu", {x}, {}, name());
      case 1:
        return g.apply("add", {x, other}, {}, name());
      case 2:
        return g.apply("clip", {x}, {{"min", real()}, {"max", real()}}, name());
      case 3: {
        if (!x->shape().at(1).is_static()) throw UserError(ErrorKind::value, "", "");
        const int64_t in = x->shape()[1].value(), out = 1 + below(4);
        Value* w = g.add_constant(name(), floats({out, in, 3, 3}));
        Value* bias = below(2) ? g.add_constant(name(), floats({out})) : nullptr;
        return g.apply("conv", {x, w, bias}, {{"pads", Ints{1, 1, 1, 1}}}, name());
      }
      case 4:
        return g.apply("transpose", {x}, {{"perm", below(2) ? Ints{0, 2, 3, 1} : Ints{0, 1, 3, 2}}},
                       name());
      case 5:
        return g.apply("concat", {x, other, x}, {{"axis", int64_t{2}}}, name());
      case 6:
        return g.apply("leaky_relu", {x}, {{"alpha", real()}}, name());
      case 7:
        return g.apply("mul", {x, g.add_constant(name(), floats({}))}, {}, name());
      default: {
        Value* scale = g.add_constant(name(), Tensor::scalar(0.1f));
        Value* zero = below(2)
                          ? g.add_constant(name(), Tensor::scalar(static_cast<uint8_t>(below(256))))
                          : nullptr;
        Value* q = g.apply("quantize", {x, scale, zero}, {}, name());
        return g.apply("dequantize", {q, scale, zero}, {}, name());
      }
    }
  }

  std::mt19937_64 random_;
};

}  // namespace octavo::testing
