// Tensors of an ONNX file, untrusted: sizes are checked against dims before anything is read.
#pragma once
#include <memory>
#include <string>
#include <unordered_map>

#include "graph/tensor.h"
#include "onnx.pb.h"
#include "support/file.h"

namespace octavo::onnx_import {

// The files beside a model that hold its large tensors. Each is mapped once.
class ExternalFiles {
 public:
  explicit ExternalFiles(std::string folder) : folder_(std::move(folder)) {}
  // `bytes` bytes of the file that `tensor` names, aligned for `dtype` (a copy only if they are
  // not).
  std::shared_ptr<Buffer> read(const ::onnx::TensorProto& tensor, DType dtype, size_t bytes,
                               const std::string& where);

 private:
  std::shared_ptr<MappedFile> open(const std::string& location, const std::string& where);
  std::string folder_;
  std::unordered_map<std::string, std::shared_ptr<MappedFile>> files_;
};

// UserError (unsupported) for element types that graph/dtype.h lacks. Integers of 2 and 4 bits have
// a byte each in a graph: i8 or u8.
DType read_dtype(int32_t onnx_type, const std::string& where);
// 4 for INT4 and UINT4, 2 for INT2 and UINT2, 0 for elements of whole bytes.
int narrow_bits(int32_t onnx_type);

// Takes the bytes out of `proto`, which is left without data.
Tensor take_tensor(::onnx::TensorProto& proto, ExternalFiles& files, const std::string& where);

}  // namespace octavo::onnx_import
