// The pruned and the full search over prepared rows: blocks of rows against blocks of rows, each
// pair of rows once, both rows' lists updated. What may be left out, and why, stands in prepare.h;
// what is returned is that of knn.h bit for bit, since lists hold the k least by (distance,
// position) and those do not depend on the order in which pairs are met.
#pragma once

#include <cstdint>
#include <functional>

#include "prepare.h"

namespace fastdim {

struct JoinParams {
  const Prepared* prepared;
  const std::int64_t* queries;  // m positions; null: every position, in order
  std::int64_t m;
  std::int64_t k;  // 1 <= k < n
  int threads;
  const std::function<void()>* poll;
  double* distances;      // m x k
  std::int64_t* indices;  // m x k positions
};

struct JoinCounts {
  std::int64_t filtered;  // pairs that went through the first level
  std::int64_t rough;     // pairs that went through the level between, if there is one
  std::int64_t second;    // pairs that went through the second
  std::int64_t refined;   // pairs measured on the original rows (some stop early)
  bool by_row = false;    // whether row_search.h did it
};

// Memory: what Prepared holds, 40 bytes a query, copies of the queries if they are chosen, and, of
// a full search for few neighbours, 4 k bytes a query and up to 3 MB a thread, 24 in all.
JoinCounts join(const JoinParams& params);

}  // namespace fastdim
