#include "int16.h"

#include <algorithm>
#include <cmath>
#include <cstring>

namespace fastdim {

Quantized quantize(const CosineKernels& kernels, const double* row, std::int64_t d,
                   std::int16_t* out) {
  const std::size_t size = static_cast<std::size_t>(d);
  double norm2, largest;
  kernels.extent(row, size, &norm2, &largest);
  if (d % 2) out[d] = 0;
  if (!(largest > 0.0)) {
    std::fill(out, out + d, std::int16_t{0});
    return {1.0, 0.0, 0.0};
  }
  // Rounding adds at most sqrt(d) / 2 to the length; 1 pays for the rounding of these lines.
  const double longest = 46340.0 - 0.5 * std::sqrt(static_cast<double>(d)) - 1.0;
  const double scale = std::min(longest / std::sqrt(norm2), 32766.0 / largest);
  return {scale, std::sqrt(kernels.quantize(row, size, scale, out)), std::sqrt(norm2)};
}

void interleave(const std::int16_t* row, std::int64_t d, int width, int r, std::int16_t* panel) {
  std::int16_t* out = panel + 2 * r;
  const std::int64_t step = 2 * width;
  for (std::int64_t c = 0; c < d; c += 2, out += step) {
    if (row)
      std::memcpy(out, row + c, 2 * sizeof(std::int16_t));
    else
      out[0] = out[1] = 0;
  }
}

}  // namespace fastdim
