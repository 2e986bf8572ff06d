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

// UserError (unsupported) for element types that graph/dtype.h lacks.
DType read_dtype(int32_t onnx_type, const std::string& where);

bool is_four_bits(int32_t onnx_type);  // INT4, UINT4

// Takes the bytes out of `proto`, which is left without data. INT4 becomes i8, UINT4 u8.
Tensor take_tensor(::onnx::TensorProto& proto, ExternalFiles& files, const std::string& where);

}  // namespace octavo::onnx_import
