// The end of JoinKernels::second, the same for every vector width. Everything is local to the file
// that includes it, as kernels.h demands.
#pragma once

#include "join_kernels.h"

namespace fastdim {
namespace {

// Adds the further axes to sums[i] of the first `left` columns and keeps those within limits[i].
// square(x, y, count): |x - y|^2 over `count` floats, a multiple of kGroup.
template <class Square>
int keep_within(const Second& s, const float* sums, const float* limits, int left, Square square) {
  constexpr std::size_t kAxes = 64;  // between two looks at the sum
  if (s.width == 0) return left;
  int kept = 0;
  for (int i = 0; i < left; ++i) {
    const float* y = s.y + static_cast<std::size_t>(s.column[i]) * s.width;
    float total = sums[i];
    for (std::size_t k = 0; k < s.width && total <= limits[i]; k += kAxes)
      total += square(s.x + k, y + k, s.width - k < kAxes ? s.width - k : kAxes);
    s.column[kept] = s.column[i];
    kept += total <= limits[i];
  }
  return kept;
}

}  // namespace
}  // namespace fastdim
