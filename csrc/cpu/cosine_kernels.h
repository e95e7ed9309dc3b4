// The leaf operations of csrc/cosine.cpp, written once per instruction set; kernels.h says what the
// files that implement them must not do.
#pragma once

#include "kernels.h"

namespace fastdim {

// One panel of rows and one of columns. Pairs of int16 as csrc/int16.h lays them out; units of four
// bytes likewise, with sign on the side of the rows, q + 128 on that of the columns.
struct IntPanels {
  const std::int16_t* a;
  const std::int16_t* b;
  std::size_t pairs;
  int shift;  // bits that the sums of the pairs are shifted down by, towards -infinity
  const std::uint8_t* a_bytes;
  const std::uint8_t* b_bytes;
  std::size_t units;
  const std::int32_t* start;  // then added to each of a row: -128 times the sum of its bytes
};

// Tiles are those of Kernels.
struct CosineKernels {
  // Kernels::product of rows of integers on a tile of the same shape, exact modulo 2^32. This,
  // `extent` to `combine` are null at levels without it; where it is set it still needs
  // CpuFeatures::avx512_vnni.
  void (*product_ints)(const IntPanels& panels, std::int32_t* tile);

  // *norm2 = |x|^2, *largest = max |x_c|.
  void (*extent)(const double* x, std::size_t d, double* norm2, double* largest);

  // out = scale * x rounded to the nearest integer; returns |x - out / scale|^2. Needs
  // |scale * x_c| <= 32767.
  double (*quantize)(const double* x, std::size_t d, double scale, std::int16_t* out);

  // places[k] = x.axes[k] for count axes of d columns, then x -= sum of places[k] * axes[k].
  void (*deflate)(double* x, const double* axes, std::size_t count, std::size_t d, double* places);

  // tile[r][c] += ints[r][c] * row_scale[r] * col_scale[c].
  void (*combine)(const std::int32_t* ints, const float* row_scale, const float* col_scale,
                  float* tile);

  // Histogram bins of a tile of cosines: bin = clamp(floor((cosine + 1) * half_bins)). Bit c of
  // unsure[r] is set if (cosine + 1) * half_bins is within margin[r] of an inner edge, or the
  // cosine is <= low[r] or >= high[r].
  void (*bin)(const float* tile, float half_bins, const float* margin, const float* low,
              const float* high, std::int32_t* bins, std::uint32_t* unsure);

  // sum of (x_scale * x) * (y_scale * y) in float64; rows other than f64 are scaled after the sum.
  // The same bits for (y, x): tiles on disk and ranks meet a pair in either order.
  double (*dot[kDtypes])(const void* x, const void* y, std::size_t d, double x_scale,
                         double y_scale);
};

const CosineKernels* scalar_cosine_kernels();
const CosineKernels* avx2_cosine_kernels();
const CosineKernels* avx512_cosine_kernels();

}  // namespace fastdim
