// From the caller's rows to the float32 panels that Kernels::product reads.
#pragma once

#include <cstdint>
#include <cstring>
#include <functional>
#include <limits>
#include <vector>

#include "aligned.h"
#include "rows.h"

namespace fastdim {

// How a row becomes float32: post * (pre * x - mean). Scales are powers of two where exactness
// matters; `row_scale`, if not null, replaces `pre` by one factor a row.
struct Transform {
  double pre = 1.0;
  double post = 1.0;
  std::vector<double> mean;
  const double* row_scale = nullptr;
};

// Per-thread memory of one row.
struct RowScratch {
  std::vector<double> decoded;
  Aligned<float> centered;
  explicit RowScratch(std::int64_t d)
      : decoded(static_cast<std::size_t>(d)), centered(static_cast<std::size_t>(d)) {}
};

// One transformed row into scratch.centered, with its squared norm and squared rounding error.
void transform_row(const Kernels& kernels, const Rows& rows, const Transform& transform,
                   std::int64_t row, RowScratch& scratch, double* norm2, double* error2);

// Rows by number, and what it takes to visit them on all threads.
struct RowSet {
  const Rows& rows;
  const std::int64_t* ids;  // n row numbers
  std::int64_t n;
  const Kernels* kernels;
  int threads;
  const std::function<void()>* poll;
};

// max |x| of each row (n).
std::vector<double> row_magnitudes(const RowSet& set);

// max |x| over all elements.
double largest_magnitude(const RowSet& set);

// Mean of scale * x. Any vector would be a valid center; the mean makes norms, and with them the
// margin, small.
std::vector<double> scaled_mean(const RowSet& set, double scale, std::vector<RowScratch>& scratch);

// `pre`: 1, but for float64 a power of two that brings `largest` > 0 into [1/2, 1), unless x is so
// small that the scale would overflow.
double difference_scale(Dtype dtype, double largest);

// `post`: a power of two by which no centered norm exceeds 2^56, so squares and products stay below
// 2^113. `largest`: of |pre * x|.
double centered_scale(double largest, std::int64_t d);

// Bound of |exact - centered row| from what Kernels::center returned. error2 sees the rounding to
// float32; the float64 subtraction before it is good to 2^-53 of its result, the scaling of float64
// input to 2^-1074 * post an element.
double centering_error(double norm2, double error2, std::int64_t d);

// Relative error of a float64 sum of d squares and of the few operations on it.
double float64_error_of(std::int64_t d);

// The panel that holds rows ids[0], ..., ids[count - 1], 1 <= count <= width; missing rows are
// zero.
void pack_panel(const Kernels& kernels, const Rows& rows, const Transform& transform,
                const std::int64_t* ids, int count, int width, RowScratch& scratch, float* panel);

// Operations that one product may be wrong by, in units of rounding: |computed - exact| <=
// product_error(d) * |a| * |b| + underflow(d), for either order of sums that Kernels allows.
double product_error(std::int64_t d);
double underflow(std::int64_t d);

// The largest float32 that is not above (not below) the value. Thresholds of every block pair pass
// through here, so it has no branch that could go either way and calls nothing.
static inline float round_down(double value) {
  constexpr float largest = std::numeric_limits<float>::max();
  if (value >= static_cast<double>(largest)) return largest;
  if (value < -static_cast<double>(largest)) return -std::numeric_limits<float>::infinity();
  const float rounded = static_cast<float>(value);
  std::int32_t bits;
  std::memcpy(&bits, &rounded, sizeof bits);
  // One step towards -infinity: down in magnitude above 0, up below; from +-0 to the least number.
  const std::int32_t below =
      rounded == 0.0f ? std::numeric_limits<std::int32_t>::min() + 1 : bits + (bits < 0 ? 1 : -1);
  bits = static_cast<double>(rounded) > value ? below : bits;
  float result;
  std::memcpy(&result, &bits, sizeof result);
  return result;
}
static inline float round_up(double value) { return -round_down(-value); }

}  // namespace fastdim
