#include "frontends/onnx/tags.h"

#include <algorithm>
#include <limits>

namespace octavo::onnx_import {
namespace {

constexpr int64_t most_elements = 64;
constexpr int64_t first_tag = std::numeric_limits<int64_t>::min() / 2;
constexpr int64_t last_tag = first_tag + (int64_t{1} << 40);
bool is_tag(int64_t value) { return first_tag <= value && value < last_tag; }

}  // namespace

bool has_tags(const Tensor& tensor) {
  if (tensor.dtype() != DType::i64 || tensor.size() > most_elements) return false;
  const auto values = tensor.values<int64_t>();
  return std::any_of(values.begin(), values.end(), is_tag);
}

int64_t Tags::make() { return first_tag + made_++; }

const Tensor* Tags::known(const Value* value) const {
  if (value->is_constant()) return &value->constant();
  const auto it = known_.find(value);
  return it == known_.end() ? nullptr : &it->second;
}

void Tags::note(const Value* value, Tensor tensor) { known_[value] = std::move(tensor); }

int64_t Tags::of(const Value* value, size_t axis) {
  const Dim& dim = value->shape()[axis];
  if (dim.is_static()) return dim.value();
  int64_t& tag = dim.is_unknown() ? unknowns_[{value, axis}] : symbols_[dim.symbol()];
  return tag == 0 ? tag = make() : tag;
}

std::optional<Tensor> Tags::make_all(const TensorType& type) {
  if (type.dtype != DType::i64 || !type.shape.is_static()) return std::nullopt;
  const Dims dims = type.shape.dims();
  if (element_count(dims) > most_elements) return std::nullopt;
  Tensor tags(DType::i64, dims);
  for (int64_t& element : tags.mutable_values<int64_t>()) element = make();
  return tags;
}

std::optional<Ints> Tags::reshape_target(const Value* data, const Tensor& target) {
  Ints dims = target.to_ints();
  int64_t left_over = 0;
  for (size_t i = 0; i < dims.size(); ++i) {
    if (is_tag(dims[i])) dims[i] = i < data->shape().size() && of(data, i) == dims[i] ? 0 : -1;
    left_over += dims[i] == -1;
  }
  if (left_over > 1) return std::nullopt;
  return dims;
}

}  // namespace octavo::onnx_import
