// Exact k nearest neighbours on an NVIDIA GPU: a filter on the tensor cores whose errors are
// bounded, then distances from differences of the original rows.
//
// What is returned: as csrc/knn.h does. Distances are float64 sums of squared differences of the
// rows as given, in one order of summation, square root taken; order by (distance, row number); the
// row itself excluded by its number; the same bits on every run.
//
// How pairs are left out. Rows are shifted by the mean and scaled by a power of two, s, then
// rounded to 16 bits: a for a query x, b for a row y, with e_x >= |exact - a|, summed in float64.
// With D = s |x - y| and T = s times the k-th smallest distance:
//     D <= T  implies  |a - b| <= T + e_x + e_y                           (triangle inequality)
//     |a - b|^2 <= (1 + t) (T + e_x)^2 + (1 + 1/t) e_y^2                  (any t > 0; t = 2^-9)
//     |a - b|^2  = |a|^2 + |b|^2 - 2 a.b
// The tensor core starts from h_y and adds the products: p = h_y + a.b, wrong by at most
// g (|a| |b| + |h_y|) + w. So a pair can matter only if p >= L_x(T), where
//     h_y (1 -+ g) >= ((1 + 1/t) e_y^2 - (1 - g) |b|^2) / 2     (sign against that of h_y)
//     L_x(T) = ((1 - g) |a|^2 - (1 + t) (T + e_x)^2) / 2 - w
// h_y is rounded up to float32 and L_x down: both need no further margin. The filter keeps, per
// query, the m largest p and the largest p that it left out is at most the smallest kept. If that
// is below L_x(T) with T taken from the kept rows, the row is certain: no other can belong to it.
// Rows that are not certain are searched again in float64, all pairs.
//
// The margin g of the arithmetic. A tensor core adds L products and the running sum in one step:
// each term is cut off at the last bit of the largest (at most 2^-23 of it), then the total is cut
// off to float32 (2^-23 of it); terms and totals are at most S = |a| |b| + |h_y|, but for the
// second order. A step errs by (L + 2) 2^-23 S; d / L steps and L >= 4 give 1.5 d 2^-23 S. Cards
// sum 8 or 16 at a time and keep more bits, so this is wider than theirs. Products of 16-bit
// floats are exact in float32 but for underflow: w = d 2^-120, the values being below 2^15.
//
// bfloat16 takes the place of float16 when the latter's range does not hold the rows: when, for
// more than one row in 16, float16 would round worse than 2^-10 relative.
#pragma once

#include <cstdint>

#include "simt.cuh"

namespace fastdim::cuda {

enum class Dtype { float16, bfloat16, float32, float64 };

// Tiles of the filter; the larger ones need more shared memory than every card has.
enum class Tile { small, medium, large };

struct KnnParams {
  const void* data;  // n rows of d adjacent values, row_stride values apart
  std::int64_t n, d, row_stride;
  Dtype dtype;
  const std::int64_t* queries;  // m row numbers on the device; null: every row in order
  std::int64_t m;
  std::int64_t k;     // 1 <= k < n
  std::int64_t keep;  // candidates kept by the filter, >= k
  Tile tile;
  int blocks;             // blocks at a time: multiprocessors
  void* workspace;        // knn_workspace bytes
  double* distances;      // m x k
  std::int64_t* indices;  // m x k
  std::int64_t* counts;   // 3: rows searched again; rows bf16 was asked for by; tiles that the
                          // pruned filter went through, -1 where all
  simt::Stream stream;
  // The pruned filter (pruned.cuh) where `order` is not null: a permutation of the rows that puts
  // near rows near each other, and axes_count x d values, about the longest principal axes. Any
  // permutation and axes give the same result. All rows are queries, `tile` is small.
  const std::int64_t* order = nullptr;
  const double* axes = nullptr;
  std::int64_t axes_count = 0;
  // Each pair of tiles once, both sides updated (symmetric.cuh). All rows are queries, `tile` is
  // small, there is no order.
  bool symmetric = false;
};

// Bytes of device memory beyond input and output.
std::int64_t knn_workspace(const KnnParams& params);

// Queues everything on the stream; waits for nothing.
void knn(const KnnParams& params);

int tile_shared_bytes(Tile tile);

}  // namespace fastdim::cuda
