// Sums over rows: first and second moments, and quadratic forms of every row in an eigenbasis.
//
// second_moments: float64 throughout. A row x enters as y = scale * x - shift (two roundings, scale
// and shift float64); products of float64 values are added in blocks of 256 rows and the blocks one
// by one, so an entry of the matrix is off by at most (256 + n / 256 + 2) 2^-53 sum |y_i| |y_j|.
// The caller takes a shift near the mean: then nothing cancels when the mean is removed.
//
// row_forms: for errors, not for values. The first axis and the length of what remains are float64;
// the other axes are multiplied in float32, or int16 with int32 sums where the processor has VNNI.
// A row h loses its part along the first axis before it is rounded, so the error of a score h.v_k
// is relative to the remaining length r: below 2^-21 r in float32 and about 2e-5 r in int16.
//
// group_forms: sums of quadratic forms over groups of rows, for errors, too. The y are rounded to
// float32, and for products to int16 where the processor has VNNI: a group's sum of outer products
// is made tile by tile, multiplied by the matrices and forgotten.
//
// All give the same bits for any number of threads.
#pragma once

#include <cstdint>
#include <functional>

#include "isa.h"
#include "rows.h"

namespace fastdim {

struct MomentsParams {
  Rows rows;
  const std::int64_t* ids;  // rows that take part, null for all
  std::int64_t count;       // how many
  const double* scale;      // one factor for every row of `rows`, null for 1
  const double* shift;      // d
  int threads;
  Isa isa;
  std::function<void()> poll;  // called now and then by the calling thread; may throw to stop
};

// sum (d) and gram (d x d, both triangles) of the y. Memory beyond them: 1,024 to 4,096 packed
// rows.
void second_moments(const MomentsParams& params, double* sum, double* gram);

// The same at twice the rate for callers that need no more: the y are rounded to float32 and sums
// of 64 products are float32, everything else float64. With u = 2^-24, an entry of the matrix is
// off by at most (2 + 64 + 1) u = 67 u = 4.0e-6 of sum |y_i| |y_j|, to first order in u (two
// roundings to float32 a product, 63 additions, the product's own where there is no fma); signs
// vary, so what is seen is near u / sqrt(count). Entries may overflow or vanish beyond the range
// of float32: the caller looks at them.
void second_moments_in_floats(const MomentsParams& params, double* sum, double* gram);

struct Axes {
  const double* vectors;  // count x d, orthonormal rows
  const double* weights;  // 2 x count
  std::int64_t count;     // at least 1
  const double* lines;    // line_count x d
  std::int64_t line_count;
};

// One entry a row that takes part; linear holds line_count, forms two.
struct RowForms {
  double* first;
  double* rest;
  double* linear;
  double* forms;
};

// With z_k = y.v_k and r = y - z_0 v_0: first = z_0, rest = |r|^2, linear[j] = y.lines[j], and
// forms[s] = weights[s][0] z_0^2 + sum over k > 0 of weights[s][k] (r.v_k)^2 for s = 0, 1.
// All but the sum over k > 0 is float64. Returns the arithmetic of that sum: "float32" or "int16".
const char* row_forms(const MomentsParams& params, const Axes& axes, const RowForms& out);

struct GroupMatrices {
  const std::int64_t* ends;  // `groups` of them, ascending: one past the last row of each, by place
  std::int64_t groups;
  const double* matrices;  // count x d x d; of each only what is on and above the diagonal is read
  std::int64_t count;
};

// totals (groups x d): sum of the y of each group, each rounded to float32. forms (groups x count):
// sum of y' A y over its rows, for every symmetric A. Sums of 256 products are float32, all further
// ones float64; with A in float32, too, a form is off by at most (2 + 256 + 1 + 1) 2^-24 = 1.6e-5
// of sum |A_ij| |y_i| |y_j|, and by about 1e-7 of it as a rule. Where has_int16, the columns of up
// to 256 rows of a group (five at least) become whole numbers of 16 bits, each with one factor, and
// their products are exact. With l_i the length of column i over such rows, its factor is at least
// min(46330 / l_i, 32766 / max) (1 - 2^-13) >= 32762 / l_i and rounding moves it by at most
// sqrt(256) / 2 / 32762 l_i = 2.5e-4 l_i: a form is off by at most 2 x 2.5e-4 + 2.5e-4^2 = 5.0e-4
// of sum |A_ij| l_i l_j and the above, and, errors of 256 rows having either sign, by some 1e-5 of
// it as a rule. Columns of nothing beyond 2^-100 count as 0: rows are of about unit length. About
// d^2 operations a row whatever the number of matrices, where groups have some tens of rows or
// more.
void group_forms(const MomentsParams& params, const GroupMatrices& given, double* totals,
                 double* forms);

}  // namespace fastdim
