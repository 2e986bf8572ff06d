// Losses: NegativeLogLikelihoodLoss and SoftmaxCrossEntropyLoss.
#include "frontends/onnx/compose.h"

namespace octavo::onnx_import {
namespace {

// -weights[target] * log_probability[target] for each target, then reduced. Classes are axis 1.
Value* likelihood(Composer& make, Value* log_probability, Value* target, Value* weights) {
  OnnxNodeReader& reader = make.reader();
  const std::string reduction = reader.text("reduction", "mean");
  Value* index = make.cast(target, DType::i64);
  Value* ignored = nullptr;
  if (reader.has("ignore_index")) {
    Value* which = reader.constant_value(Tensor::scalar(reader.integer("ignore_index", 0)));
    ignored = make("equal", {index, which});
    index = make("where", {ignored, make.number(0, index), index});
  }
  Value* picked =
      make("gather_elements", {log_probability, make("unsqueeze", {index}, {{"axes", Ints{1}}})},
           {{"axis", int64_t{1}}});
  Value* loss = make("neg", {make("squeeze", {picked}, {{"axes", Ints{1}}})});
  Value* weight = weights ? make("gather", {weights, index}) : nullptr;
  if (ignored && !weight) weight = make("expand", {make.number(1, loss), make("shape", {loss})});
  if (ignored) weight = make("where", {ignored, make.number(0, weight), weight});
  if (weight) loss = make("mul", {loss, weight});
  const Attributes all{{"keepdims", int64_t{0}}};
  if (reduction == "none") return loss;
  if (reduction == "sum") return make("reduce_sum", {loss}, all);
  if (reduction != "mean") reader.invalid("reduction must be none, sum or mean");
  if (!weight) return make("reduce_mean", {loss}, all);
  return make("div", {make("reduce_sum", {loss}, all), make("reduce_sum", {weight}, all)});
}

std::vector<Value*> import_likelihood(OnnxNodeReader& reader) {
  Composer make(reader);
  return {likelihood(make, make.input(0), make.input(1), reader.input(2))};
}

std::vector<Value*> import_cross_entropy(OnnxNodeReader& reader) {
  Composer make(reader);
  Value* logs = make("log_softmax", {make.input(0)}, {{"axis", int64_t{1}}});
  return {likelihood(make, logs, make.input(1), reader.input(2)), logs};
}

constexpr OnnxImportRule rules[] = {
    {.op_type = "NegativeLogLikelihoodLoss", .since = 12, .import = import_likelihood},
    {.op_type = "SoftmaxCrossEntropyLoss", .since = 12, .import = import_cross_entropy}};

}  // namespace

std::span<const OnnxImportRule> loss_rules() { return rules; }

}  // namespace octavo::onnx_import
