#include "distance_bounds.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "filter.h"
#include "pack.h"

namespace fastdim {
namespace {

constexpr float kInfinity = std::numeric_limits<float>::infinity();
constexpr std::int64_t kMost = 11;      // neighbours; beyond, lists are gathered: gathered.h
constexpr double kMostGamma = 0x1p-4;   // beyond, scores say little
constexpr double kRoundings = 0x1p-28;  // those in float64, here and of a distance
constexpr double kSubnormal = 2.0 * std::numeric_limits<double>::denorm_min();

}  // namespace

DistanceBounds::DistanceBounds(const Prepared& prepared, std::int64_t k, std::int64_t queries)
    : p_(prepared),
      k_(prepared.strategy == Strategy::full && k <= kMost && scan_error(prepared) <= kMostGamma
             ? k
             : 0),
      flushed_(flushed2_of(prepared)),
      bounds_(std::make_unique<std::atomic<float>[]>(static_cast<std::size_t>(k_ * queries))) {
  const double gamma = scan_error(prepared);
  widening_ = round_up((8.0 * gamma + 0x1p-21) / (1.0 - 2.0 * gamma - 0x1p-22));
  for (std::int64_t i = 0; i < k_ * queries; ++i)
    bounds_[static_cast<std::size_t>(i)].store(kInfinity, std::memory_order_relaxed);
}

float DistanceBounds::most(const Side& x, std::int64_t query, const Side& y, std::int64_t slot,
                           float score) const {
  const std::size_t i = static_cast<std::size_t>(query), j = static_cast<std::size_t>(slot);
  if (x.folded[i] || y.folded[j]) return kInfinity;
  // Terms that are not negative: float32 rounds each result here by 2^-24 of it, eight times.
  const float square =
      std::max(0.0f, -2.0f * score) + widening_ * (x.half.data()[i] + y.half.data()[j]) + flushed_;
  return (std::sqrt(square) + (x.error[i] + y.error[j])) * (1.0f + 0x1p-20f);
}

double DistanceBounds::least(const Side& x, std::int64_t query, const Side& y, std::int64_t slot,
                             float score) const {
  const std::size_t i = static_cast<std::size_t>(query), j = static_cast<std::size_t>(slot);
  if (x.folded[i] || y.folded[j]) return 0.0;
  const double square = -2.0 * static_cast<double>(score) - static_cast<double>(flushed_);
  const double errors = static_cast<double>(x.error[i]) + static_cast<double>(y.error[j]);
  const double bound = std::sqrt(std::max(0.0, square)) - errors;
  return bound / p_.post / p_.pre * (1.0 - kRoundings) - kSubnormal;
}

double DistanceBounds::limit(float bound) const {
  // Not one division: pre * post may overflow.
  return static_cast<double>(bound) / p_.post / p_.pre * (1.0 + kRoundings) + kSubnormal;
}

float DistanceBounds::add(std::int64_t query, float bound) {
  std::atomic<float>* bounds = bounds_.get() + query * k_;
  const auto get = [&](std::int64_t i) { return bounds[i].load(std::memory_order_relaxed); };
  const auto put = [&](std::int64_t i, float value) {
    bounds[i].store(value, std::memory_order_relaxed);
  };
  const std::int64_t last = k_ - 1;
  if (!(bound < get(last))) return get(last);
  std::int64_t at = last;
  for (; at > 0 && get(at - 1) > bound; --at) put(at, get(at - 1));
  put(at, bound);
  return get(last);
}

}  // namespace fastdim
