// Histogram and extremes of the cosines of all pairs i < j of nonzero rows.
//
// Counts are those of the float64 cosines sum (x_c / |x|) (y_c / |y|), clipped to [-1, 1], in the
// bins [edge_b, edge_{b+1}) with edge_b = -1 + b (2 / bins), the last bin closed: the edges of
// numpy.linspace(-1, 1, bins + 1). Rows are normalized, rounded to float32 (|c_x| <= 1 + e,
// |error| <= e) and multiplied in float32 tiles; the product differs from the float64 cosine by at
// most
//     margin = g (1 + e)^2 + w + 2 e + e^2 + (d + 16) 2^-51,
// g and w as in pack.h. A pair whose float32 value lies within the margin (and the rounding of the
// bin position) of an inner edge, or could be the smallest or largest so far, is recomputed in
// float64. Sets with very many pairs there (sparse rows: cosine exactly 0, an edge) stay right but
// become slow. Minimum and maximum are those of the float64 cosines; within 1e-12 of -1 or 1 they
// are reported as -1 or 1, since float64 rounding decides no more. All results are the same for any
// number of threads.
//
// Equal rows are grouped first and counted with their multiplicity.
#pragma once

#include <cstdint>
#include <functional>

#include "isa.h"
#include "rows.h"

namespace fastdim {

struct CosineParams {
  Rows rows;
  const double*
      inv_norms;  // n: 1 / |row|; 0 for a row that takes part in no pair, as zero rows must
  int threads;
  Isa isa;
  std::function<void()> poll;  // called now and then by the calling thread; may throw to stop
};

struct CosineRange {
  double min, max;              // NaN if there is no pair
  std::int64_t pairs_filtered;  // pairs that went through the float32 tiles
  std::int64_t pairs_refined;   // pairs recomputed in float64
};

// Memory beyond input and output: one packed chunk (64 MB) and 32 bytes a row.
CosineRange cosine_histogram(const CosineParams& params, std::int64_t bins,
                             std::int64_t* histogram);

// out[p] = cosine of rows i[p] and j[p], float64, clipped to [-1, 1]; NaN if one of them is zero.
void cosine_pairs(const CosineParams& params, const std::int64_t* i, const std::int64_t* j,
                  std::int64_t count, double* out);

}  // namespace fastdim
