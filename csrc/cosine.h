// Histogram and extremes of the cosines of all pairs i < j of nonzero rows.
//
// Counts are those of the float64 cosines sum (x_c / |x|) (y_c / |y|), clipped to [-1, 1], in the
// bins [edge_b, edge_{b+1}) with edge_b = -1 + b (2 / bins), the last bin closed: the edges of
// numpy.linspace(-1, 1, bins + 1). Three arithmetics filter the pairs:
//
// float32. Unit rows are rounded to float32 (|c_x| <= 1 + e, |error| <= e) and multiplied in tiles;
// the product differs from the float64 cosine by at most
//     g (1 + e)^2 + w + 2 e + e^2 + (d + 16) 2^-51,        g and w as in pack.h.
//
// int16, on processors with VNNI. A unit row u = V z + r is split along up to 16 orthonormal axes V
// (columns; |V'V - I| <= 1e-12, checked); z is multiplied in float32 as above, r becomes integers
// q / s as in int16.h with an error e that is summed, not estimated. The product of integers is
// exact, so a pair is wrong by at most
//     |r| e' + e |r'| + e e' + 2^-21 + axes 4e-12           beyond the float32 part of the axes.
// e is about 1.5e-4 |r| at d = 576, and the axes make |r|^2 small: 0.2 to 0.4 on hidden states.
//
// int8, likewise, where counts need not be exact. The Walsh-Hadamard transform of r, an orthogonal
// one, is rounded to -127 ... 127 times one step s a row, and z to int16 in steps of s / 16. The
// sum of the products of places is shifted down by 8 bits, which loses less than s s', and those of
// the bytes are added to it: one int32, exact but for the shift, since the integers of a row are no
// longer than 46340 steps. The bound is the same with |u| = 1 in place of |r|, e that of both parts
// (0.007 |r|, and 2^-20 for the rounding of the transform) and s s' added; it serves minimum and
// maximum alone. A pair is typically off by 0.007 |r| |r'| sqrt(2 / d): whether that leaves 99 % of
// the pairs in their bins is measured on the pairs of 256 rows, and asked to hold with a tenth to
// spare.
//
// exact_counts: a pair whose value lies within its margin (and the rounding of the bin position) of
// an inner edge is recomputed in float64, so counts are those of the float64 cosines. Sets with
// very many pairs there (sparse rows: cosine exactly 0, an edge) stay right but become slow.
// Without exact_counts these pairs stay where they are, at most one bin off. Minimum and maximum
// are those of the float64 cosines in either case; within 1e-12 of -1 or 1 they are reported as -1
// or 1, since float64 rounding decides no more. All results are the same for any number of threads.
//
// Equal rows are grouped first and counted with their multiplicity.
#pragma once

#include <cstdint>
#include <functional>

#include "isa.h"
#include "rows.h"

namespace fastdim {

enum class Arithmetic { any, float32, int16, int8 };
constexpr int kMaxCosineAxes = 48;

struct CosineParams {
  Rows rows;
  const double*
      inv_norms;  // n: 1 / |row|; 0 for a row that takes part in no pair, as zero rows must
  int threads;
  Isa isa;
  bool exact_counts;
  Arithmetic arithmetic;  // any: the one that is likely to be faster
  const double* axes;     // axis_count x d, orthonormal; used by int16
  std::int64_t axis_count;
  std::function<void()> poll;  // called now and then by the calling thread; may throw to stop
};

struct CosineRange {
  double min, max;              // NaN if there is no pair
  std::int64_t pairs_filtered;  // pairs that went through the tiles
  std::int64_t pairs_refined;   // pairs recomputed in float64
  const char* arithmetic;       // of the tiles
};

// Memory beyond input and output: one packed chunk (64 MB) and 64 bytes a row; with int16 also two
// bytes an element.
CosineRange cosine_histogram(const CosineParams& params, std::int64_t bins,
                             std::int64_t* histogram);

// out[p] = cosine of rows i[p] and j[p], float64, clipped to [-1, 1]; NaN if one of them is zero.
void cosine_pairs(const CosineParams& params, const std::int64_t* i, const std::int64_t* j,
                  std::int64_t count, double* out);

}  // namespace fastdim
