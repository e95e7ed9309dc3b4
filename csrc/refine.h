// Distances as they are returned: float64, from differences of the original rows.
#pragma once

#include <cstdint>
#include <limits>
#include <vector>

#include "rows.h"

namespace fastdim {

// A distance up to which pairs matter, with what a subnormal one may have lost: it is rounded to a
// multiple of 2^-1074, so that pairs up to half of that beyond it may tie with it.
static inline double widened(double limit) {
  return limit + std::numeric_limits<double>::denorm_min();
}

class Refiner {
 public:
  // `scale`: a power of two that brings the largest |x| of float64 rows near 1; 1 for other dtypes.
  Refiner(const Kernels& kernels, const Rows& rows, double scale)
      : Refiner(kernels, rows, rows, scale) {}

  // Rows of one matrix against those of another of the same type.
  Refiner(const Kernels& kernels, const Rows& from, const Rows& to, double scale);

  // |x_i - x_j|, i a row of `from` and j of `to`, if that is <= limit, else any number > limit.
  double distance(std::int64_t i, std::int64_t j, double limit);

  // |x_i - y| of `count` rows, bit for bit those of distance(); others: pointers to them.
  void distances(std::int64_t i, const void* const* others, std::size_t count, double* out);

 private:
  double true_distance(double sum, const void* x, const void* y);
  double rescaled_distance(const void* x, const void* y);

  const Kernels& kernels_;
  const Rows& from_;
  const Rows& to_;
  double scale_;
  std::vector<double> x_, y_;
};

}  // namespace fastdim
