// The symmetric search: each pair of tiles is multiplied once, and both its sides are updated.
//
// Tiles of 128 x 128 pairs on and above the diagonal, numbered row by row and cut into equal runs.
// A block that takes tile (I, J), I < J, has s = a_i.b_j of its pairs and forms p = s + h_j for
// query i, whose list it keeps as the filter does, and p = s + h_i for query j, which it offers to
// keys in memory: the `keep` best of j among the rows of all tiles before its own. Adding h to the
// sum in place of beginning with it rounds once more; the margin of rows.cuh holds that. The limits
// that candidates of j are held against may be old, for they only rise: an old one lets more pass.
// Keys end as the same ones whatever the order of offers (`offer_key`), so results and counts have
// the same bits on every run; the smallest key bounds what was left out, as of any other list.
#pragma once

#include "pruned.cuh"

namespace fastdim::cuda {
namespace {

// Tiles before each row of tiles, of those on and above the diagonal (row_tiles + 1,).
__global__ void upper_starts(std::int64_t row_tiles, std::int64_t* starts) {
  const std::int64_t row = static_cast<std::int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
  if (row <= row_tiles) starts[row] = row * row_tiles - row * (row - 1) / 2;
}

// Keys of every row as a list that `refine` reads, one slot a row of tiles from `first` on.
__global__ void unpack_keys(const unsigned long long* keys, std::int64_t row_tiles, int keep,
                            std::int64_t first, float* scores, int* columns) {
  const std::int64_t row = static_cast<std::int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
  if (row >= row_tiles * kSide) return;
  for (int e = 0; e < keep; ++e) {
    const unsigned long long key = keys[row * keep + e];
    const std::int64_t at = ((first + row / kSide) * keep + e) * kSide + row % kSide;
    scores[at] = score_of(key);
    columns[at] = row_of_key(key);
  }
}

}  // namespace
}  // namespace fastdim::cuda
