// The search of join.h at work: join.cpp, and join_waiting.cpp for the pairs of a full search that
// are measured late.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <memory>
#include <vector>

#include "best.h"
#include "distance_bounds.h"
#include "filter.h"
#include "gathered.h"
#include "join.h"
#include "neighbor_list.h"

namespace fastdim {

// What the search knows of one query so far. Thresholds only fall, so a stale one is safe.
struct State {
  std::atomic<double> limit{std::numeric_limits<double>::infinity()};  // true distance
  std::atomic<float> reach{std::numeric_limits<float>::infinity()};    // sigma T of prepare.h
  std::atomic_flag busy = ATOMIC_FLAG_INIT;
  std::uint16_t gathered = 0;  // neighbours of a list that gathers
};

class JoinSearch {
 public:
  explicit JoinSearch(const JoinParams& params);
  JoinCounts run();

 private:
  struct Counters {
    std::int64_t rough = 0, second = 0, refined = 0;
  };
  // A pair that waits to be measured: its score on the first level, and what its distance does not
  // exceed, or infinity.
  struct Pair {
    std::int64_t query, slot;
    float score, bound;
  };
  // Per-thread memory.
  struct Worker {
    ScanLists scanned;
    // Of the queries of a block against one other block; bound and limit belong to `reach`.
    float reach_x[kMostColumns], bound_x[kMostColumns], limit_x[kMostColumns];
    float error_x[kMostColumns], base_x[kMostColumns];
    float stretch = 1.0f;  // of the other block
    Aligned<float> bound_y{kMostColumns}, limit_y{kMostColumns}, reach_y{kMostColumns};
    Best best[kTileRows];        // of each row of a scan
    std::vector<double> limits;  // of candidates for a first threshold
    Measure measure;
    Counters counters;
    Gathered::Scratch neighbors;
    std::vector<Pair> waiting;
    explicit Worker(const Prepared& p) : scanned(p), measure(p) {}
  };

  void seed(std::int64_t group, Worker& worker);
  double first_limit(std::int64_t query, const Best::Scored& candidate, Worker& worker);
  std::int64_t candidates() const;  // for a query's first threshold, k at least
  void collect(std::int64_t mine, std::int64_t start, std::size_t list, Worker& worker) const;
  int look(std::int64_t query, std::size_t row, std::size_t list, std::int64_t first_column,
           int count, const Int8Rows& x, const Int8Rows& y, std::int64_t width,
           Worker& worker) const;
  void visit(std::int64_t query, std::size_t row, std::size_t list, std::int64_t first_column,
             Worker& worker);
  void put_off(std::int64_t query, std::size_t list, std::int64_t first_column, Worker& worker);
  void bring_down(std::int64_t query, float bound);
  void measure_all_waiting(std::vector<std::unique_ptr<Worker>>& workers);
  void measure_waiting(Pair* pairs, std::size_t count, bool likely, Worker& worker);
  void compare(std::int64_t query_block, std::int64_t block, std::int64_t part, std::int64_t parts,
               Worker& worker);
  void refresh(std::int64_t query, std::size_t row, Worker& worker) const;
  bool matters(float reach, std::size_t x, std::size_t y, float score) const;
  bool matters(std::int64_t query, std::int64_t slot, float score) const;
  void measure(std::int64_t query, std::int64_t slot, float score, Worker& worker);
  void offer(std::int64_t query, double distance, std::int64_t position, Worker& worker);
  void finish(std::int64_t query, Worker& worker) const;
  void lower(State& state, double limit) const;
  float bound(float reach, float error, float stretch) const {
    return score_bound(reach, error, stretch, flushed_);
  }
  float limit2(float reach, float base) const;
  const float* far(const Side& side, std::int64_t slot) const {
    return side.far.data() + static_cast<std::size_t>(slot) * p_.far_width();
  }
  const std::uint16_t* whole(const Side& side, std::int64_t slot) const {
    return side.whole.data() +
           static_cast<std::size_t>(slot) * static_cast<std::size_t>(p_.whole_width);
  }
  // Whether the pair of a query and a reference is met at another time, or a row with itself: each
  // pair once, and blocks come with query_block <= block.
  bool met_apart(std::int64_t query, std::int64_t slot) const {
    return self_ ? slot <= query
                 : x_.position[static_cast<std::size_t>(query)] ==
                       y_.position[static_cast<std::size_t>(slot)];
  }
  // Row of the output of a query.
  std::int64_t output(std::int64_t query) const {
    return (self_ ? p_.side.position : chosen_.output)[static_cast<std::size_t>(query)];
  }
  NeighborList list(std::int64_t query) const {
    const std::int64_t at = output(query);
    return {params_.distances + at * params_.k, params_.indices + at * params_.k, params_.k};
  }

  const JoinParams& params_;
  const Prepared& p_;
  const bool self_;  // queries and references are one side, and both are updated
  Chosen chosen_;    // the queries, if not
  const Side& x_;
  const Side& y_;
  std::unique_ptr<State[]> states_;
  std::unique_ptr<HeadFirst[]> head_first_;  // of each scan's rows
  Gathered gathered_;
  DistanceBounds bounds_;
  double rounding_;           // of the second level's limit
  float flushed_;             // what denormals of a score may have lost
  std::size_t most_waiting_;  // pairs of a thread
  float stretch_, flushed2_;  // of the largest -2 score that matters, see row_search.h
  bool limits_;               // whether the second level reads limits: that on further axes alone
};

}  // namespace fastdim
