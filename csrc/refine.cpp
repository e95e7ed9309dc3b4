#include "refine.h"

#include <algorithm>
#include <cmath>
#include <limits>

namespace fastdim {
namespace {

// A sum of squares above this has lost nothing to underflow (d <= 2^30 terms below 2^-1022 each).
constexpr double kSafeSum = 0x1p-900;

}  // namespace

Refiner::Refiner(const Kernels& kernels, const Rows& from, const Rows& to, double scale)
    : kernels_(kernels), from_(from), to_(to), scale_(scale) {}

double Refiner::distance(std::int64_t i, std::int64_t j, double limit) {
  // The limit as a square, rounded generously upward: stopping early must be safe.
  const double scaled_limit = limit * scale_;
  const double limit2 = std::max(scaled_limit * scaled_limit * (1.0 + 0x1p-40), kSafeSum);
  const double sum = kernels_.distance2[static_cast<int>(to_.dtype)](
      from_.row(i), to_.row(j), static_cast<std::size_t>(to_.d), scale_, limit2);
  if (sum > limit2) return std::numeric_limits<double>::infinity();
  return sum >= kSafeSum ? std::sqrt(sum) / scale_ : rescaled_distance(i, j);
}

double Refiner::rescaled_distance(std::int64_t i, std::int64_t j) {
  const std::size_t d = static_cast<std::size_t>(to_.d);
  x_.resize(d);
  y_.resize(d);
  const auto decode = kernels_.decode[static_cast<int>(to_.dtype)];
  decode(from_.row(i), d, x_.data());
  decode(to_.row(j), d, y_.data());
  double largest = 0;
  for (std::size_t c = 0; c < d; ++c) largest = std::max(largest, std::fabs(x_[c] - y_[c]));
  if (largest == 0) return 0;
  double sum = 0;
  for (std::size_t c = 0; c < d; ++c) {
    const double ratio = (x_[c] - y_[c]) / largest;
    sum += ratio * ratio;
  }
  return largest * std::sqrt(sum);
}

}  // namespace fastdim
