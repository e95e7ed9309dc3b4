// Lengths of rows, their distances from a point, and rows divided by one number each.
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

// out (n) = Euclidean norm of each row: float64 squares in 8 sums, so off by at most d / 16 + 5
// units of float64 rounding. The same bits at every level and for any number of threads.
void row_norms(const Rows& rows, int threads, Isa isa, const std::function<void()>& poll,
               double* out);

// out (n) = Euclidean distance of each row from a point (d): float64 differences, squared and added
// as by row_norms; where the squares leave the range of float64, those of the differences over the
// largest. NaN or infinite where a row is. The same bits at every level and any number of threads.
void row_distances(const Rows& rows, const double* from, int threads, Isa isa,
                   const std::function<void()>& poll, double* out);

}  // namespace fastdim
