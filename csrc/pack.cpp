#include "pack.h"

#include <algorithm>
#include <cmath>
#include <limits>

namespace fastdim {

void transform_row(const Kernels& kernels, const Rows& rows, const Transform& transform,
                   std::int64_t row, RowScratch& scratch, double* norm2, double* error2) {
  const std::size_t d = static_cast<std::size_t>(rows.d);
  kernels.decode[static_cast<int>(rows.dtype)](rows.row(row), d, scratch.decoded.data());
  const double pre = transform.row_scale ? transform.row_scale[row] : transform.pre;
  kernels.center(scratch.decoded.data(), pre, transform.mean.data(), transform.post, d,
                 scratch.centered.data(), norm2, error2);
}

void pack_panel(const Kernels& kernels, const Rows& rows, const Transform& transform,
                const std::int64_t* ids, int count, int width, RowScratch& scratch, float* panel) {
  const std::size_t d = static_cast<std::size_t>(rows.d);
  const std::size_t step = static_cast<std::size_t>(width);
  for (int r = 0; r < width; ++r) {
    float* out = panel + r;
    if (r >= count) {
      for (std::size_t i = 0; i < d; ++i) out[i * step] = 0.0f;
      continue;
    }
    double norm2, error2;
    transform_row(kernels, rows, transform, ids[r], scratch, &norm2, &error2);
    const float* values = scratch.centered.data();
    for (std::size_t i = 0; i < d; ++i) out[i * step] = values[i];
  }
}

double product_error(std::int64_t d) {
  // A term passes through its own product (rounded apart where there is no fma), at most `block`
  // sums inside its block and at most `blocks` sums of blocks; each factor is 1 + delta with
  // |delta| <= u, hence n u / (1 - n u) (Higham, Accuracy and Stability, section 3.1).
  const double block = static_cast<double>(std::min<std::int64_t>(d, kBlock));
  const double blocks = std::ceil(static_cast<double>(d) / static_cast<double>(kBlock));
  const double rounding = (block + blocks + 2.0) * 0x1p-24;
  return rounding / (1.0 - rounding);
}

double underflow(std::int64_t d) { return static_cast<double>(d + 2) * 0x1p-148; }

float round_down(double value) {
  constexpr float largest = std::numeric_limits<float>::max();
  if (value >= static_cast<double>(largest)) return largest;
  if (value < -static_cast<double>(largest)) return -std::numeric_limits<float>::infinity();
  const float rounded = static_cast<float>(value);
  return static_cast<double>(rounded) <= value
             ? rounded
             : std::nextafter(rounded, -std::numeric_limits<float>::infinity());
}

float round_up(double value) { return -round_down(-value); }

}  // namespace fastdim
