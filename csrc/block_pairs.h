// The pairs of blocks of a search of all rows, each once, blocks near in order first: they bring
// thresholds down.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>

namespace fastdim {

class BlockPairs {
 public:
  struct Pair {
    std::int64_t first, second;  // first <= second
  };

  explicit BlockPairs(std::int64_t blocks) : blocks_(blocks) {}

  std::int64_t count() const { return before(blocks_); }

  Pair operator[](std::int64_t at) const {
    const double b = static_cast<double>(2 * blocks_ + 1);
    std::int64_t s = static_cast<std::int64_t>(
        (b - std::sqrt(std::max(0.0, b * b - 8.0 * static_cast<double>(at)))) / 2.0);
    while (before(s) > at) --s;
    while (before(s + 1) <= at) ++s;
    const std::int64_t first = at - before(s);
    return {first, first + s};
  }

 private:
  // Pairs less than s blocks apart: of s blocks off the diagonal there are blocks - s.
  std::int64_t before(std::int64_t s) const { return s * blocks_ - s * (s - 1) / 2; }

  std::int64_t blocks_;
};

}  // namespace fastdim
