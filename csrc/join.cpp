#include "join.h"

#include <algorithm>
#include <atomic>
#include <cmath>
#include <limits>
#include <memory>
#include <numeric>
#include <thread>

#include "neighbor_list.h"
#include "refine.h"
#include "threads.h"

namespace fastdim {
namespace {

constexpr float kInfinity = std::numeric_limits<float>::infinity();
constexpr std::int64_t kSeedWindow = 256;  // rows in order among which first neighbours are sought
constexpr double kUpward = 1.0 + 0x1p-30;  // pays for the float64 roundings of a distance

// What the search knows of one query so far. Thresholds only fall, so a stale one is safe.
struct State {
  std::atomic<double> limit{std::numeric_limits<double>::infinity()};  // true distance
  std::atomic<float> reach{kInfinity};  // sigma T of prepare.h
  std::atomic_flag busy = ATOMIC_FLAG_INIT;
};

class Search {
 public:
  explicit Search(const JoinParams& params);
  JoinCounts run();

 private:
  struct Counters {
    std::int64_t second = 0, refined = 0;
  };
  // Per-thread memory.
  struct Worker {
    Aligned<float> score{kScanRows * kScanCols};
    std::uint32_t hits[kScanRows];
    std::vector<float> bound_x, limit_x;
    Aligned<float> bound_y{kBlockRows}, limit_y{kBlockRows};
    std::vector<float> scores;
    std::vector<std::pair<float, std::int64_t>> best;
    Refiner refiner;
    Counters counters;
    explicit Worker(const Prepared& p)
        : bound_x(kBlockRows), limit_x(kBlockRows), refiner(*p.kernels, p.rows, p.refine_scale) {}
  };

  void seed(std::int64_t group, Worker& worker);
  void compare(std::int64_t query_block, std::int64_t block, Worker& worker);
  void visit_hits(std::int64_t query, std::int64_t first_column, std::int64_t block,
                  std::uint32_t hits, const float* score, Worker& worker);
  void measure(std::int64_t query, std::int64_t slot, Worker& worker);
  void offer(std::int64_t query, double distance, std::int64_t position);
  void lower(State& state, double limit) const;
  float bound(float reach, float error) const;
  float limit2(float reach, float base) const;
  const std::uint32_t* units(const Side& side, std::int64_t slot) const {
    const std::size_t at = static_cast<std::size_t>(slot);
    return side.near.data() + at / kGroup * static_cast<std::size_t>(p_.units) * kGroup +
           at % kGroup;
  }
  const float* far(const Side& side, std::int64_t slot) const {
    const std::size_t at = static_cast<std::size_t>(slot);
    return side.far.data() + at / kGroup * p_.far_width() * kGroup + at % kGroup;
  }
  NeighborList list(std::int64_t query) const {
    const std::int64_t at = output_[static_cast<std::size_t>(query)];
    return {params_.distances + at * params_.k, params_.indices + at * params_.k, params_.k};
  }

  const JoinParams& params_;
  const Prepared& p_;
  const bool self_;  // queries and references are one side, and both are updated
  Side chosen_;      // the queries, if not
  const Side& x_;
  const Side& y_;
  std::vector<std::int64_t> output_;  // row of the output of each query slot
  std::unique_ptr<State[]> states_;
  double rounding_;  // of the second level's limit
};

// Queries in the order of their slots: those of one block lie near each other.
std::vector<std::int64_t> by_slot(const JoinParams& p) {
  std::vector<std::int64_t> order(static_cast<std::size_t>(p.m));
  std::iota(order.begin(), order.end(), 0);
  const auto slot = [&](std::int64_t i) {
    return p.prepared->slot[static_cast<std::size_t>(p.queries[i])];
  };
  std::sort(order.begin(), order.end(),
            [&](std::int64_t i, std::int64_t j) { return std::make_pair(slot(i), i) < std::make_pair(slot(j), j); });
  return order;
}

Side chosen_side(const JoinParams& p, const std::vector<std::int64_t>& order) {
  std::vector<std::int64_t> slots;
  for (const std::int64_t i : order)
    slots.push_back(p.prepared->slot[static_cast<std::size_t>(p.queries[i])]);
  return pick(*p.prepared, slots);
}

Search::Search(const JoinParams& params)
    : params_(params),
      p_(*params.prepared),
      self_(params.queries == nullptr),
      x_(self_ ? p_.side : chosen_),
      y_(p_.side),
      output_(self_ ? p_.side.position : by_slot(params)) {
  if (!self_) chosen_ = chosen_side(params, output_);
  states_ = std::make_unique<State[]>(static_cast<std::size_t>(params.m));
  rounding_ = 1.0 + static_cast<double>(p_.far_width() + 16) * 0x1p-22 + 0x1p-20;
}

void Search::lower(State& state, double limit) const {
  state.limit.store(limit, std::memory_order_relaxed);
  state.reach.store(round_up(limit * p_.scale * p_.sigma * kUpward), std::memory_order_relaxed);
}

// t of prepare.h. Infinity asks for every row, but not for padding, whose score is -infinity.
float Search::bound(float reach, float error) const {
  if (std::isinf(reach)) return std::numeric_limits<float>::lowest();
  const double sum = static_cast<double>(reach) + static_cast<double>(error);
  return std::max(round_down(-0.5 * sum * sum * (1.0 + 0x1p-20) - 0x1p-100),
                  std::numeric_limits<float>::lowest());
}

float Search::limit2(float reach, float base) const {
  const double sum = static_cast<double>(reach) + static_cast<double>(base);
  return round_up(sum * sum * rounding_ + 0x1p-100);
}

void Search::offer(std::int64_t query, double distance, std::int64_t position) {
  State& state = states_[static_cast<std::size_t>(query)];
  if (!(distance <= state.limit.load(std::memory_order_relaxed))) return;
  while (state.busy.test_and_set(std::memory_order_acquire)) std::this_thread::yield();
  NeighborList mine = list(query);
  mine.offer(distance, position);
  if (mine.threshold() < state.limit.load(std::memory_order_relaxed)) lower(state, mine.threshold());
  state.busy.clear(std::memory_order_release);
}

// First thresholds: exact distances to the best of some rows near in order. The lists stay empty,
// so that no row can enter one twice.
void Search::seed(std::int64_t group, Worker& worker) {
  const std::int64_t k = params_.k;
  const std::int64_t wanted = std::max(kSeedWindow, tasks(4 * k, kScanCols) * kScanCols);
  const std::int64_t width = std::min(y_.padded, wanted);
  alignas(64) float bound_y[kScanCols];
  float bound_x[kScanRows];
  std::fill(bound_x, bound_x + kScanRows, -kInfinity);
  std::fill(bound_y, bound_y + kScanCols, -kInfinity);
  const std::size_t stride = static_cast<std::size_t>(width);
  worker.scores.resize(kScanRows * stride);
  for (std::int64_t first = group * kGroup; first < std::min(x_.rows, (group + 1) * kGroup);
       first += kScanRows) {
    const std::int64_t home = p_.slot[static_cast<std::size_t>(
        x_.position[static_cast<std::size_t>(first)])];
    const std::int64_t start =
        std::clamp<std::int64_t>((home - width / 2) / kScanCols * kScanCols, 0, y_.padded - width);
    for (std::int64_t c = 0; c < width; c += kScanCols) {
      const Scan scan = {units(x_, first), units(y_, start + c), static_cast<std::size_t>(p_.units),
                         x_.half.data() + first, y_.half.data() + start + c, bound_x, bound_y,
                         worker.score.data(), worker.hits};
      p_.scan->scan(scan);
      for (std::size_t r = 0; r < kScanRows; ++r)
        std::copy_n(worker.score.data() + r * kScanCols, kScanCols,
                    worker.scores.data() + r * stride + c);
    }
    for (std::int64_t query = first; query < std::min(x_.rows, first + kScanRows); ++query) {
      const float* score = worker.scores.data() + static_cast<std::size_t>(query - first) * stride;
      const std::int64_t mine = x_.position[static_cast<std::size_t>(query)];
      auto& best = worker.best;  // a heap with the least score first
      best.clear();
      const auto greater = [](const auto& a, const auto& b) { return a.first > b.first; };
      for (std::int64_t c = 0; c < width; ++c) {
        if (static_cast<std::int64_t>(best.size()) == k && score[c] <= best.front().first) continue;
        const std::int64_t other = y_.position[static_cast<std::size_t>(start + c)];
        if (other == mine || other < 0) continue;
        if (static_cast<std::int64_t>(best.size()) == k) {
          std::pop_heap(best.begin(), best.end(), greater);
          best.pop_back();
        }
        best.emplace_back(score[c], other);
        std::push_heap(best.begin(), best.end(), greater);
      }
      if (static_cast<std::int64_t>(best.size()) < k) continue;
      double farthest = 0;
      for (const auto& candidate : best)
        farthest = std::max(
            farthest, worker.refiner.distance(p_.ids[mine], p_.ids[candidate.second],
                                              std::numeric_limits<double>::infinity()));
      lower(states_[static_cast<std::size_t>(query)], farthest);
    }
  }
}

void Search::measure(std::int64_t query, std::int64_t slot, Worker& worker) {
  const std::int64_t i = x_.position[static_cast<std::size_t>(query)];
  const std::int64_t j = y_.position[static_cast<std::size_t>(slot)];
  double limit = states_[static_cast<std::size_t>(query)].limit.load(std::memory_order_relaxed);
  if (self_)
    limit = std::max(
        limit, states_[static_cast<std::size_t>(slot)].limit.load(std::memory_order_relaxed));
  ++worker.counters.refined;
  // The factor pays for a sum of float32 squares d / 16 + 16 terms deep; terms lost to underflow
  // only make it smaller. Beyond the range of float32 the screen says nothing.
  const auto screen = p_.join->screen[static_cast<int>(p_.rows.dtype)];
  const double square =
      limit * limit * (1.0 + (static_cast<double>(p_.rows.d) / 16.0 + 32.0) * 0x1p-22) + 0x1p-120;
  if (screen && square < 0x1p120) {
    const float most = round_up(square);
    if (screen(p_.rows.row(p_.ids[i]), p_.rows.row(p_.ids[j]), static_cast<std::size_t>(p_.rows.d),
               most) > most)
      return;
  }
  const double distance = worker.refiner.distance(p_.ids[i], p_.ids[j], limit);
  if (!(distance <= limit)) return;
  offer(query, distance, j);
  if (self_) offer(slot, distance, i);
}

void Search::visit_hits(std::int64_t query, std::int64_t first_column, std::int64_t block,
                        std::uint32_t hits, const float* score, Worker& worker) {
  const std::size_t at = static_cast<std::size_t>(query);
  const float reach = states_[at].reach.load(std::memory_order_relaxed);
  const std::size_t other = static_cast<std::size_t>(block);
  const float error = round_up((static_cast<double>(x_.error[at]) +
                                static_cast<double>(y_.block_error[other])) * (1.0 + 0x1p-20));
  const float most = limit2(reach, round_up(static_cast<double>(x_.base[at]) +
                                            static_cast<double>(y_.block_base[other])));
  for (int half = 0; half < kScanCols; half += kGroup) {
    std::uint32_t lanes = hits >> half & 0xffffu;
    if (lanes == 0) continue;
    const std::int64_t column = first_column + half;
    if (p_.far_width() > 0 || p_.strategy == Strategy::pruned) {
      const Second second = {score + half, x_.tail[at], y_.tail.data() + column, error,
                             far(x_, query), far(y_, column), p_.far_width(), x_.rest[at],
                             y_.rest.data() + column, most,
                             worker.limit_y.data() + column - block * kBlockRows, lanes};
      ++worker.counters.second;
      lanes = p_.join->second(second);
    }
    for (; lanes != 0; lanes &= lanes - 1) {
      int lane = 0;
      while (!(lanes >> lane & 1u)) ++lane;
      measure(query, column + lane, worker);
    }
  }
}

void Search::compare(std::int64_t query_block, std::int64_t block, Worker& worker) {
  const std::int64_t row0 = query_block * kBlockRows;
  const std::int64_t row1 = std::min(x_.rows, row0 + kBlockRows);
  const std::int64_t col0 = block * kBlockRows;
  const std::int64_t col1 = std::min(y_.padded, col0 + kBlockRows);
  const bool diagonal = self_ && query_block == block;
  const std::size_t xb = static_cast<std::size_t>(query_block), yb = static_cast<std::size_t>(block);
  const auto x_bound = [&](std::int64_t row) {
    const std::size_t at = static_cast<std::size_t>(row);
    if (row >= row1) return std::numeric_limits<float>::max();
    return bound(states_[at].reach.load(std::memory_order_relaxed),
                 round_up(static_cast<double>(x_.error[at]) +
                          static_cast<double>(y_.block_error[yb])));
  };
  for (std::int64_t i = 0; i < kBlockRows; ++i)
    worker.bound_x[static_cast<std::size_t>(i)] = x_bound(row0 + i);
  for (std::int64_t i = 0; i < col1 - col0; ++i) {
    const std::size_t at = static_cast<std::size_t>(col0 + i);
    const bool real = self_ && col0 + i < y_.rows;
    const float reach = real ? states_[at].reach.load(std::memory_order_relaxed) : 0.0f;
    worker.bound_y.data()[i] =
        real ? bound(reach, round_up(static_cast<double>(y_.error[at]) +
                                     static_cast<double>(x_.block_error[xb])))
             : kInfinity;
    worker.limit_y.data()[i] =
        real ? limit2(reach, round_up(static_cast<double>(y_.base[at]) +
                                      static_cast<double>(x_.block_base[xb])))
             : -1.0f;
  }
  for (std::int64_t column = col0; column < col1; column += kScanCols)
    for (std::int64_t row = row0; row < row1; row += kScanRows) {
      // Of a diagonal block the pairs with row < column alone.
      if (diagonal && row >= column + kScanCols) break;
      const Scan scan = {units(x_, row), units(y_, column), static_cast<std::size_t>(p_.units),
                         x_.half.data() + row, y_.half.data() + column,
                         worker.bound_x.data() + (row - row0),
                         worker.bound_y.data() + (column - col0), worker.score.data(), worker.hits};
      if (!p_.scan->scan(scan)) continue;
      for (std::int64_t r = 0; r < std::min<std::int64_t>(kScanRows, row1 - row); ++r) {
        std::uint32_t hits = worker.hits[r];
        if (hits == 0) continue;
        const std::int64_t query = row + r;
        if (self_) {
          if (diagonal && query >= column) {
            const std::int64_t own = query - column;
            hits &= own >= kScanCols - 1 ? 0u : ~((2u << own) - 1u);
          }
        } else {
          const std::int64_t own =
              p_.slot[static_cast<std::size_t>(x_.position[static_cast<std::size_t>(query)])] -
              column;
          if (own >= 0 && own < kScanCols) hits &= ~(1u << own);
        }
        if (hits == 0) continue;
        visit_hits(query, column, block, hits, worker.score.data() + r * kScanCols, worker);
        worker.bound_x[static_cast<std::size_t>(query - row0)] = x_bound(query);
      }
    }
}

JoinCounts Search::run() {
  const int threads = params_.threads;
  std::vector<std::unique_ptr<Worker>> workers;
  for (int i = 0; i < threads; ++i) workers.push_back(std::make_unique<Worker>(p_));
  const auto worker_of = [&](int worker) -> Worker& {
    return *workers[static_cast<std::size_t>(worker)];
  };
  parallel_for(tasks(x_.rows, kGroup), threads, *params_.poll,
               [&](std::int64_t group, int worker) {
                 const std::int64_t stop = std::min(x_.rows, (group + 1) * kGroup);
                 for (std::int64_t query = group * kGroup; query < stop; ++query)
                   list(query).clear();
                 seed(group, worker_of(worker));
               });

  const std::int64_t rows = tasks(x_.rows, kBlockRows), columns = tasks(y_.rows, kBlockRows);
  if (self_) {
    // Blocks near in order first: they bring thresholds down. With s blocks off the diagonal there
    // are rows - s pairs, so the first s distances hold s rows - s (s - 1) / 2 of them.
    const auto before = [&](std::int64_t s) { return s * rows - s * (s - 1) / 2; };
    parallel_for(before(rows), threads, *params_.poll, [&](std::int64_t task, int worker) {
      const double b = static_cast<double>(2 * rows + 1);
      std::int64_t s = static_cast<std::int64_t>(
          (b - std::sqrt(std::max(0.0, b * b - 8.0 * static_cast<double>(task)))) / 2.0);
      while (before(s) > task) --s;
      while (before(s + 1) <= task) ++s;
      const std::int64_t block = task - before(s);
      compare(block, block + s, worker_of(worker));
    });
  } else {
    // Each query block starts at the block of its first query and goes on from there, around.
    parallel_for(rows * columns, threads, *params_.poll, [&](std::int64_t task, int worker) {
      const std::int64_t query_block = task / columns;
      const std::int64_t first = x_.position[static_cast<std::size_t>(query_block * kBlockRows)];
      const std::int64_t home = p_.slot[static_cast<std::size_t>(first)] / kBlockRows;
      compare(query_block, (home + task % columns) % columns, worker_of(worker));
    });
  }
  parallel_for(tasks(x_.rows, kBlockRows), threads, *params_.poll, [&](std::int64_t task, int) {
    const std::int64_t stop = std::min(x_.rows, (task + 1) * kBlockRows);
    for (std::int64_t query = task * kBlockRows; query < stop; ++query) list(query).sort();
  });

  JoinCounts counts = {self_ ? x_.rows * (x_.rows - 1) / 2 : x_.rows * y_.rows, 0, 0};
  for (const auto& worker : workers) {
    counts.second += worker->counters.second;
    counts.refined += worker->counters.refined;
  }
  return counts;
}

}  // namespace

JoinCounts join(const JoinParams& params) { return Search(params).run(); }

}  // namespace fastdim
