// Float16 and bfloat16 on the kernels of float32, see passes.h. A product's sum is: halves
// multiplied exactly and added in float32, then rounded to half once. Sums, differences, products,
// quotients and roots of halves rounded to float32 and then to half are what one rounding gives:
// float32 has more than twice half's bits.
#include <algorithm>
#include <unordered_map>

#include "graph/op_def.h"
#include "graph/rewrite.h"
#include "graph/tensor.h"
#include "passes/passes.h"

namespace octavo {
namespace {

bool is_half(DType dtype) { return dtype == DType::f16 || dtype == DType::bf16; }

// Beside products: what the reference computes from halves and rounds once, where there is a kernel
// for f32.
constexpr std::string_view rounded_once[] = {
    "abs",        "add",        "avg_pool",   "ceil",       "celu",         "clip",
    "div",        "elu",        "erf",        "exp",        "floor",        "gelu",
    "hard_swish", "layer_norm", "leaky_relu", "log",        "hard_sigmoid", "max_pool",
    "maximum",    "minimum",    "mish",       "mul",        "neg",          "pow",
    "prelu",      "reciprocal", "reduce_max", "reduce_min", "reduce_mean",  "reduce_prod",
    "reduce_sum", "relu",       "round",      "selu",       "sigmoid",      "silu",
    "softplus",   "softsign",   "sqrt",       "sub",        "swish",        "tanh"};

bool is_computed(const Graph& graph, const Node& node) {
  if (!is_half(node.output()->dtype())) return false;
  if (node.op().quant != QuantTrait::weighted &&
      std::ranges::find(rounded_once, node.op_name()) == std::end(rounded_once))
    return false;
  for (const Value* input : node.inputs())
    if (input && is_float(input->dtype()) && input->dtype() != node.output()->dtype()) return false;
  for (size_t i = 1; i < node.outputs().size(); ++i)
    if (!node.output(i)->uses().empty() || graph.is_output(node.output(i))) return false;
  return true;
}

bool holds(DType half, double number) {
  const Tensor value = Tensor::scalar(number);
  const double back = convert(convert(value, half), DType::f64).values<double>()[0];
  return back == number;
}

// Every element of this f32 value is one of `half`.
bool holds(DType half, const Value* value) {
  const Node* node = value->producer();
  if (!node) return false;
  if (node->is("round_to")) return parse_dtype(node->text("to")) == half;
  if (node->is("cast")) return node->input(0)->dtype() == half;
  if (node->is("relu") || node->is("neg") || node->is("abs")) return holds(half, node->input(0));
  if (node->is("clip"))
    return node->inputs().size() == 1 && holds(half, node->real("min")) &&
           holds(half, node->real("max")) && holds(half, node->input(0));
  if (node->is("concat"))
    return std::all_of(node->inputs().begin(), node->inputs().end(),
                       [&](const Value* input) { return holds(half, input); });
  // Elements of input 0: interpolation and a padding of any number are neither.
  return node->op().quant == QuantTrait::same_scale && !node->is("resize") && !node->is("pad") &&
         holds(half, node->input(0));
}

class Widener {
 public:
  explicit Widener(Graph& graph) : graph_(graph) {}

  void run() {
    graph_.for_each([&](Node& node) {
      if (is_computed(graph_, node) || moves_f32(node))
        widen(node);
      else if (node.is("softmax") && is_half(node.output()->dtype()))
        widen_softmax(node);
      else if (node.is("cast") && node.output()->dtype() == DType::f32)
        skip_half(node);
    });
  }

 private:
  static bool is_narrowing(const Node* node) {
    return node && node->is("cast") && is_half(node->output()->dtype()) &&
           node->input(0)->dtype() == DType::f32;
  }
  // Only moves elements that come from f32: no half is needed between.
  bool moves_f32(const Node& node) const {
    const bool concat = node.is("concat");
    if (!is_half(node.output()->dtype()) || node.op().kind != OpKind::movement ||
        (!concat && node.op().quant != QuantTrait::same_scale))
      return false;
    const auto known = [&](const Value* value) {
      return wide_.contains(value) || is_narrowing(value->producer());
    };
    const auto inputs = node.inputs().first(concat ? node.inputs().size() : 1);
    return std::all_of(inputs.begin(), inputs.end(), known);
  }

  Value* rounded(Value* value, DType half, Node& before) {
    if (holds(half, value)) return value;
    return graph_.apply("round_to", {value}, {{"to", std::string(dtype_name(half))}}, "", &before);
  }

  // The f32 value with the elements of `half`; nodes come in before `before`.
  Value* wide(Value* half, Node& before) {
    Value*& known = wide_[half];
    if (known) return known;
    const DType type = half->dtype();
    if (half->is_constant())
      return known =
                 graph_.add_constant(half->name() + "/f32", convert(half->constant(), DType::f32));
    if (is_narrowing(half->producer()))
      return known = rounded(half->producer()->input(0), type, before);
    return known = graph_.apply("cast", {half}, {{"to", std::string("f32")}}, "", &before);
  }

  // A cast from a half that is cast from f32.
  void skip_half(Node& node) {
    if (!is_narrowing(node.input(0)->producer())) return;
    Value* value = wide(node.input(0), node);
    if (graph_.is_output(node.output()) && graph_.is_output(value)) return;  // two names
    take_place(node, value);
  }

  void take_place(Node& node, Value* value) {
    replace(graph_, node.output(), value);
    graph_.erase(&node);
  }

  void widen(Node& node) {
    const DType type = node.output()->dtype();
    std::vector<Value*> inputs;
    for (Value* input : node.inputs())
      inputs.push_back(input && input->dtype() == type ? wide(input, node) : input);
    Node* wider = graph_.add(node.op_name(), std::move(inputs), node.attributes(), "", &node);
    wider->set_name(node.name());
    become(node, rounded(wider->output(), type, node));
  }

  // Of f16 each of its steps is rounded (docs/decisions/0012).
  void widen_softmax(Node& node) {
    if (node.output()->dtype() == DType::bf16) return widen(node);
    const int64_t axis = node.integer("axis"), rank = node.output()->shape().rank();
    const Dim length = node.output()->shape()[static_cast<size_t>(axis < 0 ? axis + rank : axis)];
    // The sum of more may be beyond float16, and then is not rounded.
    if (!length.is_static() || length.value() > 65504) return;
    const auto step = [&](const char* op, std::vector<Value*> inputs, const Attributes& a = {}) {
      return rounded(graph_.apply(op, std::move(inputs), a, "", &node), DType::f16, node);
    };
    const Attributes over{{"axes", Ints{axis}}, {"keepdims", int64_t{1}}};
    Value* x = wide(node.input(0), node);
    Value* most = graph_.apply("reduce_max", {x}, over, "", &node);
    Value* exponentials = step("exp", {step("sub", {x, most})});
    become(node, step("div", {exponentials, step("reduce_sum", {exponentials}, over)}));
  }

  // Replaces `node` by `y`, which has its elements in f32.
  void become(Node& node, Value* y) {
    const DType type = node.output()->dtype();
    // Readers in half take this; those in f32 and other products what it is made of.
    Value* half = graph_.apply("cast", {y}, {{"to", std::string(dtype_name(type))}}, "", &node);
    wide_[half] = y;
    take_place(node, half);
  }

  Graph& graph_;
  std::unordered_map<const Value*, Value*> wide_;
};

}  // namespace

void widen_halves(Graph& graph) { Widener(graph).run(); }

}  // namespace octavo
