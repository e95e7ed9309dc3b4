// What the scores of a full search say of distances: point 7 of prepare.h. Thresholds fall by them
// before a pair is measured on the original rows.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <memory>

#include "prepare.h"

namespace fastdim {

class DistanceBounds {
 public:
  // Of the k nearest of so many queries; 4 k bytes a query.
  DistanceBounds(const Prepared& prepared, std::int64_t k, std::int64_t queries);

  // Whether there are any: where the scan looks at all columns and k is small. Long lists fall by
  // what they gather.
  bool used() const { return k_ > 0; }

  // A distance as the filters see it (Prepared::scaled) that a pair of that score on the first
  // level does not exceed; infinity where an error is folded into a half norm.
  float most(const Side& x, std::int64_t query, const Side& y, std::int64_t slot,
             float score) const;

  // A distance of the original rows, as it is computed, that no such pair falls below.
  double least(const Side& x, std::int64_t query, const Side& y, std::int64_t slot,
               float score) const;

  // A distance of the original rows, as it is computed, that one within `bound` does not exceed.
  double limit(float bound) const;

  // Adds `most` of a pair, each pair once, to those of a query. Returns the k-th least, which is
  // infinite while there are fewer. One thread a query at a time.
  float add(std::int64_t query, float bound);

  // What `add` returned last, or before that.
  float known(std::int64_t query) const {
    return bounds_[static_cast<std::size_t>((query + 1) * k_ - 1)].load(std::memory_order_relaxed);
  }

 private:
  const Prepared& p_;
  std::int64_t k_;                                // 0: not used
  float widening_;                                // r of prepare.h
  float flushed_;                                 // what denormals may have changed -2 score by
  std::unique_ptr<std::atomic<float>[]> bounds_;  // (queries, k), ascending
};

}  // namespace fastdim
