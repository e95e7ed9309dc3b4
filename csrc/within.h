// Whether all values of a matrix are usable.
#pragma once

#include <cstdint>
#include <functional>

#include "rows.h"

namespace fastdim {

// Whether no value is NaN, infinite or, of float64 rows, beyond `largest`: read once. ids: `count`
// row numbers, the only ones that are looked at; null for all rows.
bool all_within(const Rows& rows, const std::int64_t* ids, std::int64_t count, double largest,
                int threads, const std::function<void()>& poll);

}  // namespace fastdim
