// The search of knn.h over rows that are known to differ from one another.
// Queries are some of them, or rows of another matrix.
#pragma once

#include <cstdint>
#include <functional>

#include "rows.h"

namespace fastdim {

struct SearchParams {
  Rows rows;
  const std::int64_t* ids;  // n ascending row numbers: the references
  std::int64_t n;
  const Rows* others;           // null; or rows of the same type and as many columns
  const std::int64_t* queries;  // m positions in ids; with `others`, row numbers of those
  std::int64_t m;
  std::int64_t k;  // 1 <= k < n
  int threads;
  std::int64_t chunk_rows;
  const Kernels* kernels;
  const std::function<void()>* poll;
  double* distances;      // m x k
  std::int64_t* indices;  // m x k positions in ids
};

// Returns the number of pairs recomputed.
std::int64_t search(const SearchParams& params);

}  // namespace fastdim
