// The k best scores of a scan.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <vector>

#include "select.h"

namespace fastdim {

// The k best of many scores, with their positions. They are gathered until there are several times
// k and thinned out then: a heap would move log k of them for each that is kept.
class Best {
 public:
  struct Scored {
    float score;
    std::int64_t position;
  };

  void clear() {
    scores_.clear();
    least_ = -std::numeric_limits<float>::infinity();
  }

  bool wants(float score) const { return score > least_; }

  void add(float score, std::int64_t position, std::size_t k) {
    scores_.push_back({score, position});
    if (scores_.size() >= 4 * k + 32) thin_out(k);
  }

  // At most k, in no order.
  const std::vector<Scored>& result(std::size_t k) {
    thin_out(k);
    return scores_;
  }

 private:
  void thin_out(std::size_t k) {
    if (scores_.size() < k) return;
    select_first(scores_.data(), scores_.size(), k, [](const Scored& a, const Scored& b) {
      return (a.score > b.score) | ((a.score == b.score) & (a.position < b.position));
    });
    scores_.resize(k);
    least_ = std::numeric_limits<float>::infinity();
    for (const Scored& kept : scores_) least_ = std::min(least_, kept.score);
  }

  std::vector<Scored> scores_;
  float least_ = -std::numeric_limits<float>::infinity();  // no score up to it is among the k best
};

}  // namespace fastdim
