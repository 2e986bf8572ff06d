#include <map>
#include <set>

#include "ops/indexing.h"
#include "ops/op.h"

namespace octavo::ops {
namespace {

// The equation with letters only: what stands for "..." are characters from 128 on, aligned at the
// right.
struct Equation {
  std::vector<std::string> inputs;
  std::string output;
};

constexpr unsigned char first_broadcast = 128;

Equation parse(const Node& node) {
  std::string text;
  for (const char c : node.text("equation"))
    if (c != ' ') text += c;
  for (const char c : text)
    require(
        node,
        std::isalpha(static_cast<unsigned char>(c)) || c == '.' || c == ',' || c == '-' || c == '>',
        "the equation holds a character that means nothing");
  const size_t arrow = text.find("->");
  const std::string left = text.substr(0, arrow);
  // Each term with its axes of broadcasting spelled out.
  size_t most = 0;
  std::vector<std::string> terms(1);
  for (const char c : left)
    if (c == ',')
      terms.emplace_back();
    else
      terms.back() += c;
  require(node, terms.size() == node.inputs().size(),
          "the equation's terms are not as many as the inputs");
  std::vector<size_t> extra;
  for (size_t i = 0; i < terms.size(); ++i) {
    const auto rank = static_cast<size_t>(node.input(i)->shape().rank());
    const size_t dots = terms[i].find("...");
    const size_t letters = terms[i].size() - (dots == std::string::npos ? 0 : 3);
    require(node, dots == std::string::npos ? letters == rank : letters <= rank,
            "a term does not fit the rank of its input");
    extra.push_back(rank - letters);
    most = std::max(most, extra.back());
  }
  require(node, most < 64, "too many dimensions");
  const auto expanded = [&](std::string term, size_t count) {
    if (const size_t dots = term.find("..."); dots != std::string::npos) {
      std::string axes;
      for (size_t k = most - count; k < most; ++k)
        axes += static_cast<char>(static_cast<unsigned char>(first_broadcast + k));
      term.replace(dots, 3, axes);
    }
    require(node, term.find('.') == std::string::npos, "a term has a stray point");
    return term;
  };
  Equation equation;
  std::map<char, int> seen;
  for (size_t i = 0; i < terms.size(); ++i) {
    equation.inputs.push_back(expanded(terms[i], extra[i]));
    for (const char c : equation.inputs.back()) ++seen[c];
  }
  if (arrow != std::string::npos) {
    equation.output = expanded(text.substr(arrow + 2), most);
  } else {  // broadcast axes, then the letters that occur once, in order
    for (size_t k = 0; k < most; ++k)
      equation.output += static_cast<char>(static_cast<unsigned char>(first_broadcast + k));
    for (const auto& [c, count] : seen)
      if (count == 1 && static_cast<unsigned char>(c) < first_broadcast) equation.output += c;
  }
  for (const char c : equation.output)
    require(node, seen.contains(c), "the output names an axis that no input has");
  require(node,
          std::set<char>(equation.output.begin(), equation.output.end()).size() ==
              equation.output.size(),
          "the output names an axis twice");
  return equation;
}

// The size of each letter.
std::map<char, Dim> sizes_of(const Node& node, const Equation& equation) {
  std::map<char, Dim> sizes;
  for (size_t i = 0; i < equation.inputs.size(); ++i)
    for (size_t d = 0; d < equation.inputs[i].size(); ++d) {
      const Dim& dim = node.input(i)->shape()[d];
      const char c = equation.inputs[i][d];
      const auto [it, fresh] = sizes.emplace(c, dim);
      if (fresh || it->second == dim || dim == Dim(1)) continue;
      if (it->second == Dim(1) || !it->second.is_static())
        it->second = dim;
      else if (dim.is_static())
        fail(node, fmt::format("an axis is both {} and {}", it->second.str(), dim.str()));
    }
  return sizes;
}

std::vector<TensorType> infer(const Node& node) {
  number_input(node);
  require_one_dtype(node);
  const Equation equation = parse(node);
  const auto sizes = sizes_of(node, equation);
  Shape y;
  for (const char c : equation.output) y.push_back(sizes.at(c));
  return {{node.input(0)->dtype(), y}};
}

// All indices of output and summed axes, in that order.
void reference(const Node& node, std::span<const Tensor* const> in, std::span<Tensor> out) {
  const Equation equation = parse(node);
  const auto sizes = sizes_of(node, equation);
  std::string letters = equation.output;
  for (const auto& [c, size] : sizes)
    if (letters.find(c) == std::string::npos) letters += c;
  Dims dims;
  for (const char c : letters) dims.push_back(sizes.at(c).value());
  std::vector<Strides> strides;
  for (size_t i = 0; i < in.size(); ++i) {
    const Strides own = strides_of(in[i]->dims());
    strides.emplace_back(letters.size(), 0);
    for (size_t d = 0; d < own.size(); ++d)
      if (in[i]->dims()[d] != 1) strides[i][letters.find(equation.inputs[i][d])] += own[d];
  }
  int64_t inner = 1;
  for (size_t d = equation.output.size(); d < dims.size(); ++d) inner *= dims[d];
  visit_dtype(out[0].dtype(), [&](auto tag) {
    using T = decltype(tag);
    using Sum = std::conditional_t<is_float_element<T>, double, uint64_t>;
    std::vector<std::vector<Sum>> x(in.size());
    for (size_t i = 0; i < in.size(); ++i)
      for (const T v : elements<T>(*in[i])) x[i].push_back(static_cast<Sum>(load_element(v)));
    auto y = mutable_elements<T>(out[0]);
    Dims index(dims.size());
    for (size_t o = 0; o < y.size(); ++o) {
      Sum sum = 0;
      for (int64_t k = 0; k < inner; ++k) {
        int64_t rest = static_cast<int64_t>(o) * inner + k;
        for (size_t d = dims.size(); d-- > 0; rest /= dims[d]) index[d] = rest % dims[d];
        Sum product = 1;
        for (size_t i = 0; i < in.size(); ++i) {
          int64_t at = 0;
          for (size_t d = 0; d < dims.size(); ++d) at += index[d] * strides[i][d];
          product *= x[i][static_cast<size_t>(at)];
        }
        sum += product;
      }
      y[o] = store_element<T>(sum);
    }
  });
}

constexpr OnnxImportRule import_rules[] = {
    {.op_type = "Einsum", .since = 12, .import = [](OnnxNodeReader& r) -> std::vector<Value*> {
       return {r.apply("einsum", inputs_of(r), {{"equation", r.text("equation", "")}})};
     }}};
constexpr OnnxExportRule export_rule{[](const Node& node, OnnxNodeWriter& writer) {
  write_as(node, writer, "Einsum", {{"equation", node.text("equation")}});
}};

}  // namespace

const OpImpl op_einsum{
    .doc =
        "Einstein's sum: products over all indices of the `equation`, \"ij,jk->ik\", summed over "
        "those that the output lacks; \"...\" stands for axes that broadcast.",
    .max_inputs = 64,
    .attributes = {{"equation", AttributeKind::text, true}},
    .infer = infer,
    .reference = reference,
    .onnx_import = import_rules,
    .onnx_export = &export_rule};

}  // namespace octavo::ops
