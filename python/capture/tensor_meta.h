#pragma once
#include <ATen/core/Tensor.h>

namespace octavo::capture {

// The tensor wants gradients and is no leaf: an operator of the graph made it.
void set_made_here(const at::Tensor& meta);

// What writes raise; inference tensors have none.
inline int64_t version_of(const at::Tensor& tensor) {
  return tensor.is_inference() ? 0 : static_cast<int64_t>(tensor._version());
}
// Of a tensor that had that version; one of inference mode does not tell, and may be.
inline bool is_written_since(const at::Tensor& tensor, int64_t version) {
  return tensor.is_inference() || version_of(tensor) != version;
}

// What is written is read again, element after element, by an operand that is broadcast from the
// same memory: only the order in which the kernel goes tells the result.
bool read_while_written(const at::Tensor& written, const at::Tensor& read);

// Wants gradients and is a leaf or a view of one, which torch refuses to write.
bool is_leaf_or_view_of_one(const at::Tensor& tensor);

// False for a view that was made without gradients and is written since, whose history torch
// refuses to tell, or to be asked whether it is a leaf.
bool history_is_known(const at::Tensor& tensor);

}  // namespace octavo::capture
