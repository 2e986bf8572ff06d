#include <numeric>

#include "ops/op.h"

namespace octavo::ops {
namespace {

struct Box {
  double y1, x1, y2, x2;
  double area() const { return (y2 - y1) * (x2 - x1); }
};

Box box_of(const double* b, bool centre) {
  if (centre) return {b[1] - b[3] / 2, b[0] - b[2] / 2, b[1] + b[3] / 2, b[0] + b[2] / 2};
  // Two opposite corners, in either order.
  return {std::min(b[0], b[2]), std::min(b[1], b[3]), std::max(b[0], b[2]), std::max(b[1], b[3])};
}

// Intersection over union; boxes without area meet nothing.
double overlap(const Box& a, const Box& b) {
  const double h = std::min(a.y2, b.y2) - std::max(a.y1, b.y1),
               w = std::min(a.x2, b.x2) - std::max(a.x1, b.x1);
  if (h <= 0 || w <= 0) return 0;
  return h * w / (a.area() + b.area() - h * w);
}

double number(const Tensor* tensor, double fallback) {
  return tensor && tensor->size() > 0 ? tensor->to_doubles()[0] : fallback;
}

// Triples of image, class and box.
Ints selected(const Node& node, std::span<const Tensor* const> in) {
  const auto boxes = doubles(*in[0]), scores = doubles(*in[1]);
  const auto input = [&](size_t i) { return i < in.size() ? in[i] : nullptr; };
  const double most = number(input(2), 0), threshold = number(input(3), 0);
  const bool has_least = input(4) != nullptr;
  const double least = number(input(4), 0);
  const Dims &bd = in[0]->dims(), &sd = in[1]->dims();
  require(node, bd[2] == 4 && bd[0] == sd[0] && bd[1] == sd[2], "boxes and scores do not fit");
  const bool centre = node.integer("centre") != 0;
  const auto count = static_cast<size_t>(bd[1]);
  Ints result;
  for (int64_t n = 0; n < sd[0]; ++n)
    for (int64_t c = 0; c < sd[1]; ++c) {
      const double* score = scores.data() + static_cast<size_t>((n * sd[1] + c) * sd[2]);
      std::vector<size_t> order(count);
      std::iota(order.begin(), order.end(), 0);
      std::stable_sort(order.begin(), order.end(),
                       [&](size_t a, size_t b) { return score[a] > score[b]; });
      std::vector<Box> kept;
      for (const size_t i : order) {
        if (static_cast<double>(kept.size()) >= most) break;
        if (has_least && !(score[i] > least)) continue;
        const Box box = box_of(&boxes[(static_cast<size_t>(n) * count + i) * 4], centre);
        const bool free = std::none_of(kept.begin(), kept.end(),
                                       [&](const Box& k) { return overlap(k, box) > threshold; });
        if (!free) continue;
        kept.push_back(box);
        result.insert(result.end(), {n, c, static_cast<int64_t>(i)});
      }
    }
  return result;
}

std::vector<TensorType> infer(const Node& node) {
  float_input(node, 0);
  float_input(node, 1);
  require(node, node.input(0)->shape().rank() == 3 && node.input(1)->shape().rank() == 3,
          "boxes must be [N, boxes, 4] and scores [N, classes, boxes]");
  std::vector<const Tensor*> in;
  for (const Value* input : node.inputs()) {
    if (input && !input->is_constant()) return {{DType::i64, {Dim::unknown(), 3}}};
    in.push_back(input ? &input->constant() : nullptr);
  }
  return {{DType::i64, {static_cast<int64_t>(selected(node, in).size()) / 3, 3}}};
}

void reference(const Node& node, std::span<const Tensor* const> in, std::span<Tensor> out) {
  const Ints triples = selected(node, in);
  std::copy(triples.begin(), triples.end(), out[0].mutable_values<int64_t>().begin());
}

constexpr OnnxImportRule import_rules[] = {
    {.op_type = "NonMaxSuppression",
     .since = 10,
     .import = [](OnnxNodeReader& r) -> std::vector<Value*> {
       return {r.apply("non_max_suppression", inputs_of(r, 2),
                       {{"centre", r.integer("center_point_box", 0)}})};
     }}};
constexpr OnnxExportRule export_rule{[](const Node& node, OnnxNodeWriter& writer) {
  write_as(node, writer, "NonMaxSuppression", {{"center_point_box", node.integer("centre")}});
}};

}  // namespace

const OpImpl op_non_max_suppression{
    .doc =
        "Of each image and class the boxes by falling score that overlap no better one: i64 "
        "triples of image, class, box. Inputs boxes [N, boxes, 4] (corners, or `centre` and "
        "size), scores [N, classes, boxes], the most per class (0 if left out), the overlap "
        "above which a box is dropped, the score that it must exceed.",
    .min_inputs = 2,
    .max_inputs = 5,
    .attributes = {{"centre", AttributeKind::integer, false, int64_t{0}}},
    .infer = infer,
    .reference = reference,
    .onnx_import = import_rules,
    .onnx_export = &export_rule};

}  // namespace octavo::ops
