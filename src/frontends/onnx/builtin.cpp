#include "frontends/onnx/builtin.h"

#include <cstring>

#include "support/error.h"

namespace octavo::onnx_import {
namespace {

constexpr int64_t most_elements = 4096;  // of what is computed here

template <class T>
Tensor list(const std::vector<T>& values) {
  return Tensor::from(Dims{static_cast<int64_t>(values.size())}, values);
}

std::vector<Value*> constant(Reader& reader) {
  if (const Tensor* tensor = reader.tensor("value")) return {reader.constant_value(*tensor)};
  if (reader.has("value_float"))
    return {
        reader.constant_value(Tensor::scalar(static_cast<float>(reader.real("value_float", 0))))};
  if (reader.has("value_int"))
    return {reader.constant_value(Tensor::scalar(reader.integer("value_int", 0)))};
  if (reader.has("value_floats")) {
    const Floats values = reader.reals("value_floats", {});
    return {reader.constant_value(list(std::vector<float>(values.begin(), values.end())))};
  }
  if (reader.has("value_ints"))
    return {reader.constant_value(list(reader.integers("value_ints", {})))};
  reader.unsupported("a constant that is not a dense tensor of numbers");
}

std::vector<Value*> shape(Reader& reader) {
  const Value* x = reader.input(0);
  if (!x) reader.invalid("needs an input");
  const int64_t rank = x->shape().rank();
  const auto clamped = [&](int64_t i) {
    return std::clamp<int64_t>(i < 0 ? i + rank : i, 0, rank);
  };
  const int64_t start = clamped(reader.integer("start", 0)),
                end = clamped(reader.integer("end", rank));
  Ints dims;
  for (int64_t i = start; i < end; ++i) dims.push_back(reader.tags().of(x, static_cast<size_t>(i)));
  return {reader.constant_value(list(dims))};
}

std::vector<Value*> size(Reader& reader) {
  const Value* x = reader.input(0);
  if (!x) reader.invalid("needs an input");
  const int64_t count =
      x->shape().is_static() ? element_count(x->shape().dims()) : reader.tags().make();
  return {reader.constant_value(Tensor::scalar(count))};
}

// Of small constants along axis 0: sizes picked out of a shape.
std::vector<Value*> gather(Reader& reader) {
  const Tensor *data = reader.any_constant(0), *indices = reader.constant(1);
  if (!data || !indices || data->rank() < 1 || !is_integer(indices->dtype())) return {};
  if (reader.integer("axis", 0) != 0 && (data->rank() != 1 || reader.integer("axis", 0) != -1))
    return {};
  if (data->size() > most_elements || indices->size() > most_elements) return {};
  Dims dims = indices->dims();
  dims.insert(dims.end(), data->dims().begin() + 1, data->dims().end());
  if (element_count(dims) > most_elements) return {};
  Tensor out(data->dtype(), dims);
  const int64_t rows = data->dims()[0];
  const size_t row = rows == 0 ? 0 : data->bytes() / static_cast<size_t>(rows);
  std::byte* to = out.mutable_data();
  for (const int64_t index : indices->to_ints()) {
    if (index < -rows || index >= rows)
      reader.invalid(fmt::format("index {} is outside an axis of {}", index, rows));
    std::memcpy(to, data->data() + static_cast<size_t>(index < 0 ? index + rows : index) * row,
                row);
    to += row;
  }
  return {reader.constant_value(out)};
}

std::vector<Value*> constant_of_shape(Reader& reader) {
  const auto dims = reader.constant_ints(0, "shape");
  if (!dims) reader.invalid("needs a shape");
  const Tensor* value = reader.tensor("value");
  if (value && value->size() != 1) reader.invalid("value must have one element");
  if (element_count(*dims) > most_elements)
    reader.unsupported(fmt::format("more than {} elements", most_elements));
  Tensor out(value ? value->dtype() : DType::f32, *dims);
  const size_t step = dtype_size(out.dtype());
  for (size_t at = 0; at < out.bytes(); at += step) {
    if (value)
      std::memcpy(out.mutable_data() + at, value->data(), step);
    else
      std::memset(out.mutable_data() + at, 0, step);
  }
  return {reader.constant_value(out)};
}

std::vector<Value*> cast(Reader& reader) {
  const Tensor* x = reader.any_constant(0);
  if (!x || x->size() > most_elements) return {};
  const DType to = read_dtype(static_cast<int32_t>(reader.integer("to", 0)), reader.where());
  if (to != x->dtype() && has_tags(*x)) reader.unsupported("the size of a dynamic dimension");
  return {reader.constant_value(convert(*x, to))};
}

std::vector<Value*> identity(Reader& reader) {
  if (!reader.input(0)) reader.invalid("needs an input");
  return {reader.input(0)};
}

std::vector<Value*> dropout(Reader& reader) {
  if (reader.input(2)) {
    const auto training = reader.constant_ints(2, "training_mode");
    if (training->empty() || training->front() != 0) reader.unsupported("training_mode 1");
  }
  return identity(reader);
}

}  // namespace

Builtin find_builtin(std::string_view domain, std::string_view op_type) {
  static const std::unordered_map<std::string_view, Builtin> table{
      {"Constant", constant}, {"ConstantOfShape", constant_of_shape},
      {"Shape", shape},       {"Size", size},
      {"Gather", gather},     {"Cast", cast},
      {"Identity", identity}, {"Dropout", dropout},
  };
  const auto it = domain.empty() ? table.find(op_type) : table.end();
  return it == table.end() ? nullptr : it->second;
}

}  // namespace octavo::onnx_import
