// Whether all values of a matrix are usable.
#pragma once

#include <functional>

#include "rows.h"

namespace fastdim {

// Whether no value is NaN, infinite or, of float64 rows, beyond `largest`: read once.
bool all_within(const Rows& rows, double largest, int threads, const std::function<void()>& poll);

}  // namespace fastdim
