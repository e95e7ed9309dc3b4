// The k best neighbours of one query, kept in the output arrays: a binary heap with the worst at
// the root while the search runs, ascending once it is sorted. Order is (distance, index).
#pragma once

#include <cstdint>
#include <limits>
#include <utility>

namespace fastdim {

class NeighborList {
 public:
  NeighborList(double* distances, std::int64_t* indices, std::int64_t k)
      : distances_(distances), indices_(indices), k_(k) {}

  void clear() {
    for (std::int64_t i = 0; i < k_; ++i) {
      distances_[i] = std::numeric_limits<double>::infinity();
      indices_[i] = std::numeric_limits<std::int64_t>::max();
    }
  }

  // The k-th distance so far; infinite until k neighbours are known.
  double threshold() const { return distances_[0]; }

  void offer(double distance, std::int64_t index) {
    if (before(distance, index, distances_[0], indices_[0])) sift_down(distance, index, k_);
  }

  void sort() {
    for (std::int64_t size = k_ - 1; size > 0; --size) {
      const double distance = distances_[size];
      const std::int64_t index = indices_[size];
      distances_[size] = distances_[0];
      indices_[size] = indices_[0];
      sift_down(distance, index, size);
    }
  }

 private:
  static bool before(double d1, std::int64_t i1, double d2, std::int64_t i2) {
    return d1 < d2 || (d1 == d2 && i1 < i2);
  }

  // Puts an element at the root of the first `size` elements and restores the heap.
  void sift_down(double distance, std::int64_t index, std::int64_t size) {
    std::int64_t hole = 0;
    for (;;) {
      std::int64_t child = 2 * hole + 1;
      if (child >= size) break;
      if (child + 1 < size &&
          before(distances_[child], indices_[child], distances_[child + 1], indices_[child + 1]))
        ++child;
      if (!before(distance, index, distances_[child], indices_[child])) break;
      distances_[hole] = distances_[child];
      indices_[hole] = indices_[child];
      hole = child;
    }
    distances_[hole] = distance;
    indices_[hole] = index;
  }

  double* distances_;
  std::int64_t* indices_;
  std::int64_t k_;
};

}  // namespace fastdim
