#include "frontends/onnx/builtin.h"

#include <cstring>

#include "support/error.h"

namespace octavo::onnx_import {
namespace {

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

std::vector<Value*> identity(Reader& reader) {
  if (!reader.input(0)) reader.invalid("needs an input");
  return {reader.input(0)};
}

}  // namespace

Builtin find_builtin(std::string_view domain, std::string_view op_type) {
  static const std::unordered_map<std::string_view, Builtin> table{
      {"Constant", constant},
      {"Identity", identity},
  };
  const auto it = domain.empty() ? table.find(op_type) : table.end();
  return it == table.end() ? nullptr : it->second;
}

}  // namespace octavo::onnx_import
