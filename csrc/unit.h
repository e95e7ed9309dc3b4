// Rows divided by one number each.
#pragma once

#include <cstdint>
#include <functional>

#include "isa.h"
#include "rows.h"

namespace fastdim {

// out (count x d) = rows `ids` over their divisors: float64 quotients, rounded to float32.
// divisors: one for every row of `rows`, none of those used 0.
void divide_rows(const Rows& rows, const std::int64_t* ids, std::int64_t count,
                 const double* divisors, int threads, Isa isa, const std::function<void()>& poll,
                 float* out);

}  // namespace fastdim
