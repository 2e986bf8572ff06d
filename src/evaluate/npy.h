// NumPy's files: .npy (format 1.0 to 3.0) and .npz, plain or deflated.
#pragma once
#include <map>
#include <span>
#include <string>
#include <vector>

#include "graph/tensor.h"

namespace octavo {

// UserError (file) on anything that is not a C- or Fortran-ordered array of a dtype we have.
// Fortran order is refused with a hint; big-endian data too.
Tensor parse_npy(std::span<const std::byte> bytes, const std::string& where);
// Mapped, not copied: an array may be larger than the memory. Not to be written to.
Tensor load_npy(const std::string& path);
std::map<std::string, Tensor> load_npz(const std::string& path);
void save_npy(const Tensor& tensor, const std::string& path);
void save_npz(const std::map<std::string, Tensor>& tensors, const std::string& path);

// Tensors of one type that differ in the first dim only, one behind the other along it.
Tensor stack_rows(const std::vector<Tensor>& parts);

}  // namespace octavo
