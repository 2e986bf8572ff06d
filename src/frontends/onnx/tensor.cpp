#include "frontends/onnx/tensor.h"

#include <charconv>
#include <cstring>
#include <filesystem>
#include <limits>

namespace octavo::onnx_import {
namespace {

namespace fs = std::filesystem;
using ::onnx::TensorProto;

[[noreturn]] void fail(const std::string& where, const std::string& message,
                       const std::string& hint = "export or copy the model again") {
  throw UserError(ErrorKind::file, where, message, hint);
}

void check_count(int64_t have, int64_t want, const std::string& where) {
  if (have != want) fail(where, fmt::format("holds {} values, its shape wants {}", have, want));
}

// A view of a repeated field that has the tensor's own element type; the field moves out of the
// message and lives as long as the view.
template <class T>
std::shared_ptr<Buffer> take_field(google::protobuf::RepeatedField<T>& field) {
  auto owner = std::make_shared<google::protobuf::RepeatedField<T>>();
  owner->Swap(&field);
  return Buffer::view(owner->data(), static_cast<size_t>(owner->size()) * sizeof(T), owner);
}

// Narrow types travel in wider fields.
template <class To, class From>
std::shared_ptr<Buffer> narrow(const google::protobuf::RepeatedField<From>& field,
                               const std::string& where) {
  auto buffer = Buffer::allocate(static_cast<size_t>(field.size()) * sizeof(To));
  auto* out = reinterpret_cast<To*>(buffer->mutable_data());
  for (const From value : field) {
    if (value < std::numeric_limits<To>::min() || value > std::numeric_limits<To>::max())
      fail(where, fmt::format("value {} does not fit its element type", value));
    *out++ = static_cast<To>(value);
  }
  return buffer;
}

std::shared_ptr<Buffer> take_typed(TensorProto& proto, DType dtype, int64_t count,
                                   const std::string& where) {
  const auto ints = [&]() -> auto& {
    check_count(proto.int32_data_size(), count, where);
    return *proto.mutable_int32_data();
  };
  switch (dtype) {
    case DType::f32:
      check_count(proto.float_data_size(), count, where);
      return take_field(*proto.mutable_float_data());
    case DType::f64:
      check_count(proto.double_data_size(), count, where);
      return take_field(*proto.mutable_double_data());
    case DType::i64:
      check_count(proto.int64_data_size(), count, where);
      return take_field(*proto.mutable_int64_data());
    case DType::u64:
      check_count(proto.uint64_data_size(), count, where);
      return take_field(*proto.mutable_uint64_data());
    case DType::u32:
      check_count(proto.uint64_data_size(), count, where);
      return narrow<uint32_t>(proto.uint64_data(), where);
    case DType::i32:
      return take_field(ints());
    case DType::f16:
    case DType::bf16:
    case DType::u16:
      return narrow<uint16_t>(ints(), where);
    case DType::i16:
      return narrow<int16_t>(ints(), where);
    case DType::u8:
      return narrow<uint8_t>(ints(), where);
    case DType::boolean:
      return narrow<bool>(ints(), where);
    case DType::i8:
      return narrow<int8_t>(ints(), where);
  }
  throw InternalError("unknown dtype");
}

int64_t parse_number(const std::string& text, const std::string& where) {
  int64_t value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error != std::errc() || end != text.data() + text.size() || value < 0)
    fail(where, fmt::format("external data: '{}' is not an offset or length", text));
  return value;
}

}  // namespace

std::shared_ptr<MappedFile> ExternalFiles::open(const std::string& location,
                                                const std::string& where) {
  if (const auto it = files_.find(location); it != files_.end()) return it->second;
  if (folder_.empty())
    fail(where, "external data in a model that was not loaded from a file", "load it by its path");
  const fs::path relative(location);
  bool inside = !location.empty() && relative.is_relative();
  for (const fs::path& part : relative) inside = inside && part != "..";
  std::error_code error;
  const fs::path folder = fs::canonical(folder_, error);
  const fs::path path = inside && !error ? fs::canonical(folder / relative, error) : fs::path();
  if (inside && error)
    fail(where, fmt::format("external data file '{}': {}", location, error.message()),
         "it belongs beside the model, under this name");
  // A symbolic link may lead out too.
  const auto [end, rest] = std::mismatch(folder.begin(), folder.end(), path.begin(), path.end());
  if (!inside || end != folder.end())
    fail(where, fmt::format("external data file '{}' is outside the model's folder", location),
         "move it into that folder and save the model again");
  if (!fs::is_regular_file(path, error))
    fail(where, fmt::format("external data file '{}' is not a file", location));
  return files_[location] = MappedFile::open(path.string());
}

std::shared_ptr<Buffer> ExternalFiles::read(const TensorProto& tensor, DType dtype, size_t bytes,
                                            const std::string& where) {
  std::string location;
  uint64_t offset = 0, length = bytes;
  for (const auto& entry : tensor.external_data()) {
    if (entry.key() == "location") location = entry.value();
    if (entry.key() == "offset") offset = static_cast<uint64_t>(parse_number(entry.value(), where));
    if (entry.key() == "length") length = static_cast<uint64_t>(parse_number(entry.value(), where));
  }
  if (length != bytes)
    fail(where, fmt::format("holds {} bytes, its shape wants {}", length, bytes));
  const auto file = open(location, where);
  if (offset > file->size() || bytes > file->size() - offset)
    fail(where,
         fmt::format("bytes {} to {} lie outside '{}', which has {}", offset, offset + bytes,
                     location, file->size()),
         "is the data file of another model?");
  const std::byte* data = file->data() + offset;
  if (reinterpret_cast<uintptr_t>(data) % dtype_size(dtype) == 0)
    return Buffer::view(data, bytes, file);
  auto copy = Buffer::allocate(bytes);
  std::memcpy(copy->mutable_data(), data, bytes);
  return copy;
}

DType read_dtype(int32_t onnx_type, const std::string& where) {
  switch (onnx_type) {
    case TensorProto::FLOAT:
      return DType::f32;
    case TensorProto::DOUBLE:
      return DType::f64;
    case TensorProto::FLOAT16:
      return DType::f16;
    case TensorProto::BFLOAT16:
      return DType::bf16;
    case TensorProto::INT8:
    case TensorProto::INT4:
    case TensorProto::INT2:
      return DType::i8;
    case TensorProto::UINT8:
    case TensorProto::UINT4:
    case TensorProto::UINT2:
      return DType::u8;
    case TensorProto::INT16:
      return DType::i16;
    case TensorProto::UINT16:
      return DType::u16;
    case TensorProto::INT32:
      return DType::i32;
    case TensorProto::UINT32:
      return DType::u32;
    case TensorProto::INT64:
      return DType::i64;
    case TensorProto::UINT64:
      return DType::u64;
    case TensorProto::BOOL:
      return DType::boolean;
    default:
      break;
  }
  if (onnx_type == TensorProto::UNDEFINED || !::onnx::TensorProto_DataType_IsValid(onnx_type))
    fail(where, fmt::format("{} is not an element type", onnx_type));
  const auto type = static_cast<::onnx::TensorProto_DataType>(onnx_type);
  throw UserError(
      ErrorKind::unsupported, where,
      fmt::format("elements of type {} are not supported", ::onnx::TensorProto_DataType_Name(type)),
      "numbers can be cast to another type on the way into the model");
}

int narrow_bits(int32_t onnx_type) {
  switch (onnx_type) {
    case TensorProto::INT4:
    case TensorProto::UINT4:
      return 4;
    case TensorProto::INT2:
    case TensorProto::UINT2:
      return 2;
    default:
      return 0;
  }
}

namespace {

// Two or four elements to a byte, the first one lowest, whatever the shape; typed data has a byte
// in each int32.
Tensor take_narrow(TensorProto& proto, ExternalFiles& files, Dims dims, int64_t count,
                   const std::string& where) {
  const int bits = narrow_bits(proto.data_type()), in_byte = 8 / bits;
  const int64_t bytes = count / in_byte + (count % in_byte != 0);
  std::shared_ptr<Buffer> packed;
  if (proto.data_location() == TensorProto::EXTERNAL) {
    packed = files.read(proto, DType::u8, static_cast<size_t>(bytes), where);
  } else if (proto.has_raw_data()) {
    const std::shared_ptr<std::string> raw(proto.release_raw_data());
    check_count(static_cast<int64_t>(raw->size()), bytes, where);
    packed = Buffer::view(raw->data(), raw->size(), raw);
  } else {
    check_count(proto.int32_data_size(), bytes, where);
    packed = Buffer::allocate(static_cast<size_t>(bytes));
    for (int64_t i = 0; i < bytes; ++i)
      packed->mutable_data()[i] = static_cast<std::byte>(proto.int32_data(static_cast<int>(i)));
  }
  const DType dtype = read_dtype(proto.data_type(), where);
  Tensor tensor(dtype, std::move(dims));
  const int most = (1 << bits) - 1;
  const std::byte* from = packed->data();
  std::byte* to = tensor.mutable_data();
  for (int64_t i = 0; i < count; ++i) {
    int element = std::to_integer<int>(from[i / in_byte]) >> (i % in_byte * bits) & most;
    if (dtype == DType::i8 && element > most / 2) element -= most + 1;
    to[i] = static_cast<std::byte>(element);
  }
  return tensor;
}

}  // namespace

Tensor take_tensor(TensorProto& proto, ExternalFiles& files, const std::string& where) {
  const DType dtype = read_dtype(proto.data_type(), where);
  Dims dims(proto.dims().begin(), proto.dims().end());
  int64_t count = 0;
  try {
    count = element_count(dims);
  } catch (const UserError& e) {
    fail(where, fmt::format("shape [{}]: {}", fmt::join(dims, ", "), e.message()));
  }
  const auto bytes = static_cast<uint64_t>(count) * dtype_size(dtype);
  if (proto.has_segment())
    throw UserError(ErrorKind::unsupported, where, "segmented tensors are not supported",
                    "load and save the model with the onnx package");
  if (narrow_bits(proto.data_type()) != 0)
    return take_narrow(proto, files, std::move(dims), count, where);
  std::shared_ptr<Buffer> buffer;
  if (proto.data_location() == TensorProto::EXTERNAL) {
    buffer = files.read(proto, dtype, bytes, where);
  } else if (proto.has_raw_data()) {
    const std::shared_ptr<std::string> raw(proto.release_raw_data());
    if (raw->size() != bytes)
      fail(where, fmt::format("holds {} bytes, its shape wants {}", raw->size(), bytes));
    buffer = Buffer::view(raw->data(), raw->size(), raw);
  } else {
    buffer = take_typed(proto, dtype, count, where);
  }
  if (dtype == DType::boolean)
    for (size_t i = 0; i < bytes; ++i)
      if (buffer->data()[i] > std::byte{1}) fail(where, "a bool is neither 0 nor 1");
  if (bytes == 0) buffer = Buffer::allocate(0);  // an empty field has no address
  return {dtype, std::move(dims), std::move(buffer)};
}

}  // namespace octavo::onnx_import
