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
#include <set>
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

  // Constants whose file says INT4 or UINT4; their elements are i8 or u8.
  void note_four_bits(const Value* value) { four_bits_.insert(value); }
  bool four_bits(const Value* value) const { return four_bits_.contains(value); }

 private:
  int64_t made_ = 0;
  std::unordered_map<const Value*, Tensor> known_;
  std::set<const Value*> four_bits_;
  std::map<std::string, int64_t> symbols_;
  std::map<std::pair<const Value*, size_t>, int64_t> unknowns_;  // dimensions without a symbol
};

bool has_tags(const Tensor& tensor);

}  // namespace octavo::onnx_import
