// Shape arithmetic of models with symbolic dimensions. Exporters write view(x.size(0), -1) as
// Shape → Gather → Concat → Reshape; the target is not constant, but all that Reshape needs of it
// is known: which elements are numbers and which are dimensions of its own input.
//
// So what is known of a small computed value is noted beside the graph, a dimension without a
// number as a tag: a number that no shape holds. Ops that move elements carry tags along,
// arithmetic on tags gives new ones, Reshape knows how to read them. Whatever cannot use them reads
// the value itself, at run time.
#pragma once
#include <map>
#include <optional>
#include <string>
#include <unordered_map>

#include "graph/graph.h"

namespace octavo::onnx_import {

class Tags {
 public:
  // The number, or the tag, of a dimension.
  int64_t of(const Value* value, size_t axis);
  int64_t make();
  // The constant, or what was noted of a computed value; null if nothing is.
  const Tensor* known(const Value* value) const;
  void note(const Value* value, Tensor tensor);
  // An output whose elements come of tags by arithmetic: all new tags. None if it is no small i64.
  std::optional<Tensor> make_all(const TensorType& type);
  // A constant target for reshaping `data`: 0 copies a dimension, -1 is what is left over. None if
  // that cannot say it.
  std::optional<Ints> reshape_target(const Value* data, const Tensor& target);

  // Values that the file has as integers of 2 or 4 bits; their elements are i8 or u8.
  void note_narrow(const Value* value, int bits) { narrow_[value] = bits; }
  int narrow_bits(const Value* value) const {  // 0 for those of whole bytes
    const auto it = narrow_.find(value);
    return it == narrow_.end() ? 0 : it->second;
  }

 private:
  int64_t made_ = 0;
  std::unordered_map<const Value*, Tensor> known_;
  std::unordered_map<const Value*, int> narrow_;
  std::map<std::string, int64_t> symbols_;
  std::map<std::pair<const Value*, size_t>, int64_t> unknowns_;  // dimensions without a symbol
};

bool has_tags(const Tensor& tensor);

}  // namespace octavo::onnx_import
