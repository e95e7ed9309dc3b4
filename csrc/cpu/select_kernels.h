// What a search by rows (row_search.h) does with the list of one query, written once per
// instruction set. The warning at the head of kernels.h holds for every file that implements them.
#pragma once

#include <cstddef>
#include <cstdint>

namespace fastdim {

// Rows that a scan listed for one query.
struct Listed {
  std::size_t count;
  float* score;
  std::int32_t* slot;
  const float* error;  // e by slot; -0 where it is folded into the row's half norm
};

// limit(e) = ((reach + error_x) + e)^2 stretch + flushed, each operation rounded once.
struct Within {
  float reach, error_x, stretch, flushed;
};

constexpr std::size_t kMostOrdered = 256;  // of SelectKernels::order

struct SelectKernels {
  // The k-th largest score of the rows whose error is not folded, -infinity if there are fewer; of
  // all rows if `folded` is false. 1 <= k. `room`: twice `count` and 32 floats. Scores are no NaN.
  float (*kth)(const Listed& listed, std::size_t k, bool folded, float* room);

  // Leaves those with -2 score <= limit(error of the row) at the front, in order; their number.
  std::size_t (*keep)(const Listed& listed, const Within& within);

  // Moves those of score >= kth whose error is not folded to best and best_score (room for all), in
  // order; the others are left at the front, in order. The number that was moved.
  std::size_t (*divide)(const Listed& listed, float kth, float* best_score, std::int32_t* best);

  // Writes the k first by distance of `count` pairs of a distance (float64, no NaN) and a number
  // (64 bits), ascending. False, and nothing of use is written, if two distances are equal.
  // k <= count <= kMostOrdered. Null where a sort is as good.
  bool (*order)(const void* pairs, std::size_t count, std::size_t k, double* distances,
                std::int64_t* numbers);
};

const SelectKernels* scalar_select_kernels();
const SelectKernels* avx512_select_kernels();

}  // namespace fastdim
