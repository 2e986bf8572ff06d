// The pattern of attention: matmul(softmax(matmul(q, k) * scale + mask), v).
#pragma once
#include <optional>

#include "graph/graph.h"

namespace octavo {

struct Attention {
  Node* scores;  // matmul(q, k)
  Node* softmax;
  Node* values;  // matmul(softmax, v)
  Value *q, *k;  // [N, H, Lq, D], [N, H, D, Lk]
  Value* v;      // [N, H, Lk, V]
  double scale;  // 1 if there is none
  Value* mask;   // broadcasts to [N, H, Lq, Lk]; null if there is none
};

// If `values` is the last product of one, and what is between its products is read by nothing else.
std::optional<Attention> attention_of(const Graph& graph, Node& values);

}  // namespace octavo
