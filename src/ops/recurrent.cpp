// rnn, gru and lstm: recurrences over [time, batch, features], in one or two directions.
#include <cmath>
#include <functional>

#include "ops/op.h"

namespace octavo::ops {
namespace {

using Function = std::function<double(double)>;
using Row = std::vector<double>;

struct Named {
  std::string_view name;
  double alpha, beta;  // ONNX's defaults
  double (*f)(double x, double a, double b);
};
double sigmoid(double x) { return 1 / (1 + std::exp(-x)); }
constexpr Named functions[] = {
    {"Relu", 0, 0, [](double x, double, double) { return std::max(x, 0.0); }},
    {"Tanh", 0, 0, [](double x, double, double) { return std::tanh(x); }},
    {"Sigmoid", 0, 0, [](double x, double, double) { return sigmoid(x); }},
    {"Affine", 1, 0, [](double x, double a, double b) { return a * x + b; }},
    {"LeakyRelu", 0.01, 0, [](double x, double a, double) { return x < 0 ? a * x : x; }},
    {"ThresholdedRelu", 1, 0, [](double x, double a, double) { return x > a ? x : 0; }},
    {"ScaledTanh", 1, 1, [](double x, double a, double b) { return a * std::tanh(b * x); }},
    {"HardSigmoid", 0.2, 0.5,
     [](double x, double a, double b) { return std::clamp(a * x + b, 0.0, 1.0); }},
    {"Elu", 1, 0, [](double x, double a, double) { return x < 0 ? a * std::expm1(x) : x; }},
    {"Softsign", 0, 0, [](double x, double, double) { return x / (1 + std::fabs(x)); }},
    {"Softplus", 0, 0, [](double x, double, double) { return std::log1p(std::exp(x)); }},
};

bool same_name(std::string_view a, std::string_view b) {
  return std::equal(a.begin(), a.end(), b.begin(), b.end(), [](char x, char y) {
    return std::tolower(static_cast<unsigned char>(x)) ==
           std::tolower(static_cast<unsigned char>(y));
  });
}

struct Kind {
  int64_t gates;
  size_t functions_each;  // per direction
  std::string_view defaults;
};
Kind kind_of(const Node& node) {
  if (node.is("lstm")) return {4, 3, "Sigmoid,Tanh,Tanh"};
  if (node.is("gru")) return {3, 2, "Sigmoid,Tanh"};
  return {1, 1, "Tanh"};
}

int64_t directions_of(const Node& node) {
  const std::string& direction = node.text("direction");
  require(node, direction == "forward" || direction == "reverse" || direction == "bidirectional",
          "direction must be forward, reverse or bidirectional");
  return direction == "bidirectional" ? 2 : 1;
}

// All functions, of one direction after the other.
std::vector<Function> functions_of(const Node& node) {
  const Kind kind = kind_of(node);
  const auto count = kind.functions_each * static_cast<size_t>(directions_of(node));
  std::string text = node.text("functions");
  if (text.empty()) text = kind.defaults;
  const auto given = static_cast<size_t>(std::count(text.begin(), text.end(), ',')) + 1;
  // Those of one direction serve both.
  if (given == kind.functions_each && count == 2 * given) text += "," + std::string(text);
  const Floats &alphas = node.reals("alphas"), &betas = node.reals("betas");
  std::vector<Function> result;
  size_t alpha = 0, beta = 0;
  for (size_t at = 0; at <= text.size();) {
    const size_t end = std::min(text.find(',', at), text.size());
    const std::string_view name = std::string_view(text).substr(at, end - at);
    const auto* named = std::find_if(std::begin(functions), std::end(functions),
                                     [&](const Named& f) { return same_name(f.name, name); });
    if (named == std::end(functions)) fail(node, fmt::format("'{}' is no function", name));
    // Lists of parameters hold those of the functions that have them, in order.
    const bool has_alpha = named->alpha != 0,
               has_beta = named->beta != 0 || named->name == "Affine";
    const double a = has_alpha && alpha < alphas.size() ? alphas[alpha++] : named->alpha;
    const double b = has_beta && beta < betas.size() ? betas[beta++] : named->beta;
    result.emplace_back([f = named->f, a, b](double x) { return f(x, a, b); });
    at = end + 1;
  }
  if (result.size() != count)
    fail(node, fmt::format("needs {} functions, not {}", count, result.size()));
  return result;
}

std::vector<TensorType> infer(const Node& node) {
  const TensorType& x = float_input(node);
  for (size_t i : {1u, 2u, 3u, 5u, 6u, 7u})
    if (node.input(i))
      require(node, node.input(i)->dtype() == x.dtype, "the inputs differ in element type");
  const int64_t hidden = node.integer("hidden"), directions = directions_of(node),
                gates = kind_of(node).gates;
  require(node, hidden > 0 && hidden <= (1 << 24), "hidden must be in 1 to 2^24");
  require(node, x.shape.rank() == 3, "the input must be [time, batch, features]");
  const auto check = [&](size_t i, const Shape& wanted) {
    const Value* input = node.input(i);
    if (!input) return;
    bool fits = input->shape().size() == wanted.size();
    for (size_t d = 0; fits && d < wanted.size(); ++d)
      fits = !wanted[d].is_static() || !input->shape()[d].is_static() ||
             input->shape()[d] == wanted[d];
    if (!fits)
      fail(node,
           fmt::format("input {} is {} instead of {}", i, input->shape().str(), wanted.str()));
  };
  check(1, {directions, gates * hidden, x.shape[2]});
  check(2, {directions, gates * hidden, hidden});
  check(3, {directions, 2 * gates * hidden});
  check(4, {x.shape[1]});
  check(5, {directions, x.shape[1], hidden});
  check(6, {directions, x.shape[1], hidden});
  check(7, {directions, 3 * hidden});
  if (node.input(4)) require(node, is_integer(node.input(4)->dtype()), "lengths must be integers");
  functions_of(node);
  const TensorType all{x.dtype, {x.shape[0], directions, x.shape[1], hidden}},
      last{x.dtype, {directions, x.shape[1], hidden}};
  if (node.is("lstm")) return {all, last, last};
  return {all, last};
}

// One direction of one sequence.
struct Cell {
  const Node& node;
  size_t hidden;
  const double *w, *r, *b, *p;  // weights [gates, hidden, …], recurrence, biases or null, peepholes
  const Function* f;
  double clip;

  double clamped(double v) const { return clip > 0 ? std::clamp(v, -clip, clip) : v; }
  // Gate g, unit j: w x + wb, and r h + rb.
  double from_input(size_t g, size_t j, const Row& x) const {
    const double* row = w + (g * hidden + j) * x.size();
    double sum = b ? b[g * hidden + j] : 0;
    for (size_t i = 0; i < x.size(); ++i) sum += row[i] * x[i];
    return sum;
  }
  double from_state(size_t g, size_t j, const Row& h, size_t gates) const {
    const double* row = r + (g * hidden + j) * hidden;
    double sum = b ? b[(gates + g) * hidden + j] : 0;
    for (size_t i = 0; i < hidden; ++i) sum += row[i] * h[i];
    return sum;
  }

  void rnn(const Row& x, Row& h) const {
    Row next(hidden);
    for (size_t j = 0; j < hidden; ++j)
      next[j] = f[0](clamped(from_input(0, j, x) + from_state(0, j, h, 1)));
    h = next;
  }

  void gru(const Row& x, Row& h) const {  // gates z, r, h
    const bool after = node.integer("linear_before_reset") != 0;
    Row z(hidden), reset(hidden), next(hidden), gated(hidden);
    for (size_t j = 0; j < hidden; ++j) {
      z[j] = f[0](clamped(from_input(0, j, x) + from_state(0, j, h, 3)));
      reset[j] = f[0](clamped(from_input(1, j, x) + from_state(1, j, h, 3)));
      gated[j] = reset[j] * h[j];
    }
    for (size_t j = 0; j < hidden; ++j) {
      const double state = after ? reset[j] * from_state(2, j, h, 3) : from_state(2, j, gated, 3);
      next[j] = (1 - z[j]) * f[1](clamped(from_input(2, j, x) + state)) + z[j] * h[j];
    }
    h = next;
  }

  void lstm(const Row& x, Row& h, Row& c) const {  // gates i, o, f, c
    Row next(hidden);
    const auto gate = [&](size_t g, size_t j) {
      return from_input(g, j, x) + from_state(g, j, h, 4);
    };
    const auto peep = [&](size_t k, size_t j, double cell) {
      return p ? p[k * hidden + j] * cell : 0;
    };
    const bool coupled = node.integer("input_forget") != 0;
    for (size_t j = 0; j < hidden; ++j) {
      const double in = f[0](clamped(gate(0, j) + peep(0, j, c[j])));
      const double forget = coupled ? 1 - in : f[0](clamped(gate(2, j) + peep(2, j, c[j])));
      const double cell = forget * c[j] + in * f[1](clamped(gate(3, j)));
      const double out = f[0](clamped(gate(1, j) + peep(1, j, cell)));
      next[j] = out * f[2](cell);
      c[j] = cell;
    }
    h = next;
  }
};

void reference(const Node& node, std::span<const Tensor* const> in, std::span<Tensor> out) {
  const Dims& dims = in[0]->dims();
  const auto steps = static_cast<size_t>(dims[0]), batch = static_cast<size_t>(dims[1]),
             features = static_cast<size_t>(dims[2]),
             hidden = static_cast<size_t>(node.integer("hidden")),
             directions = static_cast<size_t>(directions_of(node));
  const Kind kind = kind_of(node);
  const auto gates = static_cast<size_t>(kind.gates);
  const auto given = [&](size_t i) {
    return in.size() > i && in[i] ? doubles(*in[i]) : std::vector<double>();
  };
  const auto x = doubles(*in[0]), w = doubles(*in[1]), r = doubles(*in[2]), b = given(3),
             h0 = given(5), c0 = given(6), p = given(7);
  const auto lengths =
      in.size() > 4 && in[4] ? in[4]->to_ints() : std::vector<int64_t>(batch, dims[0]);
  const auto all_functions = functions_of(node);
  std::vector<double> y(steps * directions * batch * hidden), last(directions * batch * hidden),
      last_c(last.size());
  for (size_t d = 0; d < directions; ++d) {
    const bool backward = d == 1 || node.text("direction") == "reverse";
    const Cell cell{node,
                    hidden,
                    &w[d * gates * hidden * features],
                    &r[d * gates * hidden * hidden],
                    b.empty() ? nullptr : &b[d * 2 * gates * hidden],
                    p.empty() ? nullptr : &p[d * 3 * hidden],
                    &all_functions[d * kind.functions_each],
                    node.real("clip")};
    for (size_t n = 0; n < batch; ++n) {
      const size_t state = (d * batch + n) * hidden;
      const auto start = [&](const std::vector<double>& from) {
        if (from.empty()) return Row(hidden);
        return Row(from.begin() + static_cast<std::ptrdiff_t>(state),
                   from.begin() + static_cast<std::ptrdiff_t>(state + hidden));
      };
      Row h = start(h0), c = start(c0);
      require(node, lengths[n] >= 0 && lengths[n] <= dims[0], "a length is outside the time axis");
      const auto length = static_cast<size_t>(lengths[n]);
      for (size_t i = 0; i < length; ++i) {
        const size_t t = backward ? length - 1 - i : i;
        const double* at = &x[(t * batch + n) * features];
        const Row row(at, at + features);
        if (node.is("lstm"))
          cell.lstm(row, h, c);
        else if (node.is("gru"))
          cell.gru(row, h);
        else
          cell.rnn(row, h);
        std::copy(h.begin(), h.end(), &y[((t * directions + d) * batch + n) * hidden]);
      }
      std::copy(h.begin(), h.end(), &last[state]);
      std::copy(c.begin(), c.end(), &last_c[state]);
    }
  }
  store_doubles(y, out[0]);
  store_doubles(last, out[1]);
  if (out.size() > 2) store_doubles(last_c, out[2]);
}

template <const char* op>
std::vector<Value*> import(OnnxNodeReader& reader) {
  auto inputs = inputs_of(reader, 3);
  const bool batch_first = reader.integer("layout", 0) != 0;
  const auto swapped = [&](Value* v, Ints perm) {
    return v ? reader.apply("transpose", {v}, {{"perm", std::move(perm)}}) : nullptr;
  };
  if (batch_first)
    for (const size_t i : {0u, 5u, 6u})
      if (i < inputs.size()) inputs[i] = swapped(inputs[i], {1, 0, 2});
  const Value* r = inputs[2];
  if (r->shape().rank() != 3 || !r->shape()[2].is_static())
    reader.unsupported("recurrence weights of unknown shape");
  auto outputs =
      reader.apply_all(op, inputs,
                       {{"hidden", reader.integer("hidden_size", r->shape()[2].value())},
                        {"direction", reader.text("direction", "forward")},
                        {"functions", reader.text("activations", "")},
                        {"alphas", reader.reals("activation_alpha", {})},
                        {"betas", reader.reals("activation_beta", {})},
                        {"clip", reader.real("clip", 0)},
                        {"input_forget", reader.integer("input_forget", 0)},
                        {"linear_before_reset", reader.integer("linear_before_reset", 0)}});
  if (batch_first) {
    outputs[0] = swapped(outputs[0], {2, 0, 1, 3});
    for (size_t i = 1; i < outputs.size(); ++i) outputs[i] = swapped(outputs[i], {1, 0, 2});
  }
  return outputs;
}

template <const char* onnx_name>
void write(const Node& node, OnnxNodeWriter& writer) {
  if (!node.text("functions").empty() || !node.reals("alphas").empty())
    throw UserError(ErrorKind::unsupported, node.where(),
                    "functions other than ONNX's defaults are not exported");
  Attributes onnx{{"hidden_size", node.integer("hidden")}, {"direction", node.text("direction")}};
  if (node.real("clip") > 0) onnx["clip"] = node.real("clip");
  if (node.is("lstm")) onnx["input_forget"] = node.integer("input_forget");
  if (node.is("gru")) onnx["linear_before_reset"] = node.integer("linear_before_reset");
  write_as(node, writer, onnx_name, onnx, 7);
}

std::vector<AttributeSpec> attributes() {
  return {{"hidden", AttributeKind::integer, true},
          {"direction", AttributeKind::text, false, std::string("forward")},
          {"functions", AttributeKind::text, false, std::string()},
          {"alphas", AttributeKind::reals, false, Floats{}},
          {"betas", AttributeKind::reals, false, Floats{}},
          {"clip", AttributeKind::real, false, 0.0},
          {"input_forget", AttributeKind::integer, false, int64_t{0}},
          {"linear_before_reset", AttributeKind::integer, false, int64_t{0}}};
}

}  // namespace

#define RECURRENT(op, onnx_name, inputs, results, formula)               \
  namespace {                                                            \
  constexpr char op##_name[] = #op, op##_onnx[] = onnx_name;             \
  constexpr OnnxImportRule op##_import[] = {                             \
      {.op_type = onnx_name, .since = 7, .import = import <op##_name>}}; \
  constexpr OnnxExportRule op##_export{write<op##_onnx>};                \
  }                                                                      \
  const OpImpl op_##op{.doc = formula,                                   \
                       .min_inputs = 3,                                  \
                       .max_inputs = inputs,                             \
                       .outputs = results,                               \
                       .attributes = attributes(),                       \
                       .infer = infer,                                   \
                       .reference = reference,                           \
                       .onnx_import = op##_import,                       \
                       .onnx_export = &op##_export};

RECURRENT(
    rnn, "RNN", 6, 2,
    "h = f(w x + r h + b) over time; inputs x [time, batch, features], w, r, b, lengths, h0; "
    "outputs all h [time, directions, batch, hidden] and the last. `functions`: ONNX's names, "
    "comma between, those of the second direction behind.")
RECURRENT(
    gru, "GRU", 6, 2,
    "Gates z, r = f(w x + r h + b), h = (1 - z) g(w x + r (reset * h) + b) + z h; otherwise as "
    "rnn.")
RECURRENT(lstm, "LSTM", 8, 3,
          "Gates i, o, f; c = f c + i g(w x + r h + b), h = o k(c); inputs as of rnn, then c0 and "
          "peepholes; outputs all h, the last h, the last c.")

}  // namespace octavo::ops
