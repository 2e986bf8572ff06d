// How attention is cut into tasks: heads, and parts of their queries where heads are too few.
#pragma once
#include <algorithm>

#include "backends/cpu/attention.h"

namespace octavo::cpu {

constexpr int64_t attention_tile = 48;  // queries whose scores exist at once; whole register blocks

struct AttentionTask {
  int64_t batch, head, first, end;  // queries
};

struct AttentionTasks {
  int64_t heads, parts, part_queries, queries;
  AttentionTasks(const AttentionProblem& p, int threads) : heads(p.heads), queries(p.queries) {
    const int64_t tiles = (p.queries + attention_tile - 1) / attention_tile;
    // Each part packs keys and values anew, so no more parts than an even end needs.
    const int64_t wanted =
        threads == 1 ? 1 : (4 * threads + p.batch * heads - 1) / (p.batch * heads);
    const int64_t part_tiles = (tiles + std::min(tiles, wanted) - 1) / std::min(tiles, wanted);
    part_queries = part_tiles * attention_tile;
    parts = (p.queries + part_queries - 1) / part_queries;
    count = p.batch * heads * parts;
  }
  int64_t count;
  AttentionTask at(int64_t i) const {
    const int64_t part = i % parts, head = i / parts % heads;
    const int64_t first = part * part_queries;
    return {i / parts / heads, head, first, std::min(first + part_queries, queries)};
  }
};

inline bool attention_has_sizes(const AttentionProblem& p, std::string& why) {
  if (std::min({p.batch, p.heads, p.queries, p.keys, p.depth, p.v_depth}) >= 1) return true;
  why = "a size is zero";
  return false;
}

}  // namespace octavo::cpu
