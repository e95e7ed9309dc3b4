// Rows as 16-bit integers, for products with int32 sums.
//
// A row y becomes q = round(s y) with |q| <= 46340 (Euclidean) and |q_c| <= 32767. By Cauchy and
// Schwarz |q.p| <= 46340^2 < 2^31, so the product of two such rows is exact in int32 although sums
// on the way may wrap. The rounding error |y - q / s| is summed in float64.
#pragma once

#include <cstdint>

#include "cpu/cosine_kernels.h"

namespace fastdim {

struct Quantized {
  double scale;   // y is close to q / scale; 1 for a zero row
  double error;   // |y - q / scale|
  double length;  // |y|
};

// Columns of a panel: d, made even.
inline std::int64_t int16_columns(std::int64_t d) { return d + d % 2; }

// q of the row into `out` (int16_columns(d)).
Quantized quantize(const CosineKernels& kernels, const double* row, std::int64_t d,
                   std::int16_t* out);

// One row into place r of a panel of `width` rows: the columns 2 c and 2 c + 1 of row r lie at
// panel[2 (c width + r)] and behind it. A null row is zero.
void interleave(const std::int16_t* row, std::int64_t d, int width, int r, std::int16_t* panel);

}  // namespace fastdim
