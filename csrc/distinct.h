#pragma once

#include <cstdint>
#include <functional>
#include <vector>

#include "rows.h"

namespace fastdim {

// Groups rows that are equal in every element (-0 equals 0; values, not hashes, are compared).
// first[g] = the smallest row of group g, groups numbered in the order of their first rows;
// inverse[i] = the group of row i. `first` has room for n. Returns the number of groups.
std::int64_t distinct(const Rows& rows, int threads, const std::function<void()>& poll,
                      std::int64_t* first, std::int64_t* inverse);

// What tells most rows apart at once; for tests, which make rows that differ and share one.
std::vector<std::uint64_t> row_hashes(const Rows& rows);

}  // namespace fastdim
