// The k best neighbours of many queries, where k is large: gathered until there are some more than
// k and thinned out then. A heap would move log k of them for each that is kept.
#pragma once

#include <cstddef>
#include <cstdint>
#include <limits>
#include <vector>

#include "aligned.h"

namespace fastdim {

struct Neighbor {
  double distance;
  std::int64_t position;
};

// An object, for a pointer to a function is called where this is inlined.
struct Nearer {
  bool operator()(const Neighbor& a, const Neighbor& b) const {
    return (a.distance < b.distance) | ((a.distance == b.distance) & (a.position < b.position));
  }
};

class Gathered {
 public:
  // One for each thread.
  using Scratch = std::vector<Neighbor>;

  // Lists lie in the output arrays, (lists, k) each, and what is more than k in memory of its own.
  Gathered(double* distances, std::int64_t* indices, std::int64_t k, std::int64_t lists);

  // Whether lists are gathered: not where k is small, for a heap's threshold falls at once, nor
  // where there are so many lists that the memory would not be small.
  bool used() const { return spare_ > 0; }

  // Adds one to a list of `count`, which is brought up to date. Returns a distance that the k-th
  // best does not exceed: infinity but where the list has been thinned out. `bounded`: whether the
  // caller knows such a distance.
  double add(std::int64_t list, std::uint16_t& count, Neighbor neighbor, bool bounded,
             Scratch& scratch) {
    const std::int64_t at = count++;
    if (at >= k_) {
      more_.data()[list * spare_ + at - k_] = neighbor;
    } else {
      distances_[list * k_ + at] = neighbor.distance;
      indices_[list * k_ + at] = neighbor.position;
    }
    if (at + 1 == k_ + spare_ || (at + 1 == k_ && !bounded)) return shorten(list, count, scratch);
    return std::numeric_limits<double>::infinity();
  }

  // Leaves the k best of `count` in the output, by distance, then by position. There are fewer only
  // where rows changed under the search: the rest is at infinity and of no row, as of a heap.
  void finish(std::int64_t list, std::uint16_t count, Scratch& scratch) const;

 private:
  double shorten(std::int64_t list, std::uint16_t& count, Scratch& scratch);
  void thin_out(std::int64_t list, std::int64_t count, Scratch& scratch) const;
  void put(std::int64_t list, const Scratch& scratch) const;

  double* distances_;
  std::int64_t* indices_;
  std::int64_t k_;
  std::int64_t spare_;      // places beyond k
  Aligned<Neighbor> more_;  // (lists, spare); not cleared: what was not gathered is not read
};

}  // namespace fastdim
