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
  return true_distance(sum, from_.row(i), to_.row(j));
}

void Refiner::distances(std::int64_t i, const void* const* others, std::size_t count, double* out) {
  const void* x = from_.row(i);
  kernels_.distances2[static_cast<int>(to_.dtype)](x, others, count,
                                                   static_cast<std::size_t>(to_.d), scale_, out);
  for (std::size_t c = 0; c < count; ++c) out[c] = true_distance(out[c], x, others[c]);
}

double Refiner::true_distance(double sum, const void* x, const void* y) {
  return sum >= kSafeSum ? std::sqrt(sum) / scale_ : rescaled_distance(x, y);
}

double Refiner::rescaled_distance(const void* x, const void* y) {
  const std::size_t d = static_cast<std::size_t>(to_.d);
  x_.resize(d);
  y_.resize(d);
  const auto decode = kernels_.decode[static_cast<int>(to_.dtype)];
  decode(x, d, x_.data());
  decode(y, d, y_.data());
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
