// Cosines of all pairs of rows on an NVIDIA GPU: moments, extremes and histogram, in float64.
//
// With unit rows u_i, their mean u, s = |u|^2, w_i = u_i - u and a_i = u.w_i, a cosine is
//     c_ij = s + a_i + a_j + w_i.w_j,
// in which nothing cancels when the cosines are close together. The products are formed on the
// tensor cores in float64 (mma.sync, which cards without such units imitate slowly): IEEE sums of d
// terms, |error| <= (d + 4) 2^-53 |w_i| |w_j|. Every pair i < j is visited once. Counts are whole
// numbers and the moments are summed in an order that the number of rows alone decides: the same
// bits on every run and card. A cosine within rounding of an edge may fall on either side of it.
#pragma once

#include <cstdint>

#include "knn.h"
#include "simt.cuh"

namespace fastdim::cuda {

struct RowsParams {
  const void* data;  // n rows of d adjacent values, row_stride values apart
  std::int64_t n, d, row_stride;
  Dtype dtype;
  simt::Stream stream;
};

// Euclidean norms (n,) of the rows, summed in float64.
void row_norms(const RowsParams& rows, double* norms);

// The unit rows less their mean, of m rows that are not zero.
struct UnitRowsParams {
  RowsParams rows;
  const std::int64_t* chosen;  // m row numbers
  std::int64_t m;
  const double* inverse;  // (n,), 1 / |row|
  std::int64_t padded;    // m rounded up to whole tiles of kCosineTile
  std::int64_t width;     // d rounded up to whole slices of kCosineSlice
  double* parts;          // kMeanParts x d, of the sums
  double* mean;           // (d,)
  double* w;              // padded x width, zero beyond m and d
  double* slopes;         // (padded,), a_i, zero beyond m
  double* center;         // 1: s
};
constexpr std::int64_t kCosineTile = 64, kCosineSlice = 16, kMeanParts = 128;
void unit_rows(const UnitRowsParams& params);

struct CosineParams {
  const double* w;  // padded rows of `width` values, w_stride values apart
  std::int64_t m, width, w_stride;
  const double* slopes;
  const double* center;
  const double* edges;  // (bins + 1,), ascending from -1 to 1
  std::int64_t bins;    // at most kLargestBins
  std::int64_t runs;    // equal parts of the tiles; the order of the sums depends on it
  double* moments;      // runs x 4: sum and sum of squares of c - s, smallest and largest c
  unsigned long long* histogram;  // (bins,), zero before; the last bin closed, ends clipped
  simt::Stream stream;
};
constexpr std::int64_t kLargestBins = 8192;
void cosine_pairs(const CosineParams& params);

// Cosines (count,) of rows left[p] and right[p], clipped to [-1, 1].
void pair_cosines(const RowsParams& rows, const std::int64_t* left, const std::int64_t* right,
                  const double* inverse, std::int64_t count, double* out);

}  // namespace fastdim::cuda
