// The leaf operations of csrc/cosine.cpp, written once per instruction set; kernels.h says what the
// files that implement them must not do.
#pragma once

#include "kernels.h"

namespace fastdim {

struct CosineKernels {
  // As in Kernels.
  int tile_rows;
  int tile_cols;
  void (*product)(const float* a, const float* b, std::size_t d, float* tile);

  // Histogram bins of a tile of cosines: bin = clamp(floor((cosine + 1) * half_bins)). Bit c of
  // unsure[r] is set if (cosine + 1) * half_bins is within `margin` of an inner edge, or the cosine
  // is <= low or >= high.
  void (*bin)(const float* tile, float half_bins, float margin, float low, float high,
              std::int32_t* bins, std::uint32_t* unsure);

  // sum of (x_scale * x) * (y_scale * y) in float64.
  double (*dot[kDtypes])(const void* x, const void* y, std::size_t d, double x_scale,
                         double y_scale);
};

const CosineKernels* scalar_cosine_kernels();
const CosineKernels* avx2_cosine_kernels();
const CosineKernels* avx512_cosine_kernels();

}  // namespace fastdim
