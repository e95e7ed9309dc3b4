#include <algorithm>
#include <cmath>
#include <limits>
#include <thread>

#include "block_pairs.h"
#include "join_search.h"
#include "row_search.h"
#include "threads.h"

namespace fastdim {
namespace {

constexpr float kInfinity = std::numeric_limits<float>::infinity();
constexpr std::int64_t kSeedWindow = 256;  // rows in order among which first neighbours are sought
constexpr std::int64_t kFewSeeds = 64;     // likewise where bounds of distances follow at once
constexpr std::int64_t kMostSeeds = 1024;  // of them, unless k asks for more
// Chosen queries of one block come from everywhere and meet most rows before those near them, so
// they look for first neighbours longer: among the rows / kSeedShare, of which more are measured. A
// row that is listed costs as much whatever the filter reads, so among fewer where it reads less
// than kSeedElements; among no more where the filter reads all columns of rows in order.
constexpr std::int64_t kSeedShare = 64, kSeedElements = 96;
constexpr std::int64_t kMoreSeeds = 32;  // so many more, at most 3 k
constexpr std::int64_t kFewTasks = 64;   // of a thread: fewer comparisons of blocks are divided
constexpr std::int64_t kParts = 4;       // into so many
constexpr std::size_t kMostWaiting = std::size_t{1} << 17;  // pairs of a thread, of 24 bytes
constexpr std::size_t kAllWaiting = std::size_t{1} << 20;   // of all

}  // namespace

JoinSearch::JoinSearch(const JoinParams& params)
    : params_(params),
      p_(*params.prepared),
      self_(params.queries == nullptr),
      x_(self_ ? p_.side : chosen_.side),
      y_(p_.side),
      gathered_(params.distances, params.indices, params.k, params.m),
      bounds_(p_, params.k, params.m) {
  if (!self_) chosen_ = choose_side(p_, params.queries, params.m);
  most_waiting_ = std::min(kMostWaiting, kAllWaiting / static_cast<std::size_t>(params.threads));
  flushed_ = round_up(flushed_of(p_));
  flushed2_ = flushed2_of(p_);
  stretch_ = stretch_of(p_);
  limits_ = p_.axes_apart();
  states_ = std::make_unique<State[]>(static_cast<std::size_t>(params.m));
  head_first_ = std::make_unique<HeadFirst[]>(static_cast<std::size_t>(x_.padded / p_.scan_rows));
  rounding_ = 1.0 + static_cast<double>(p_.far_width() + 16) * 0x1p-22 + 0x1p-20;
}

void JoinSearch::lower(State& state, double limit) const {
  limit = widened(limit);
  state.limit.store(limit, std::memory_order_relaxed);
  state.reach.store(reach_of(p_, limit), std::memory_order_relaxed);
}

float JoinSearch::limit2(float reach, float base) const {
  const double sum = static_cast<double>(reach) + static_cast<double>(base);
  return round_up(sum * sum * rounding_ + 0x1p-100);
}

void JoinSearch::offer(std::int64_t query, double distance, std::int64_t position, Worker& worker) {
  State& state = states_[static_cast<std::size_t>(query)];
  if (!(distance <= state.limit.load(std::memory_order_relaxed))) return;
  while (state.busy.test_and_set(std::memory_order_acquire)) std::this_thread::yield();
  const double limit = state.limit.load(std::memory_order_relaxed);
  double threshold;
  if (gathered_.used()) {
    threshold = gathered_.add(output(query), state.gathered, {distance, position},
                              std::isfinite(limit), worker.neighbors);
  } else {
    NeighborList mine = list(query);
    mine.offer(distance, position);
    threshold = mine.threshold();
  }
  if (threshold < limit) lower(state, threshold);
  state.busy.clear(std::memory_order_release);
}

// Leaves the k nearest in the output, ascending.
void JoinSearch::finish(std::int64_t query, Worker& worker) const {
  const std::size_t at = static_cast<std::size_t>(query);
  if (gathered_.used())
    gathered_.finish(output(query), states_[at].gathered, worker.neighbors);
  else
    list(query).sort();
}

// The best scores of a list so far, one for each candidate.
void JoinSearch::collect(std::int64_t mine, std::int64_t start, std::size_t list,
                         Worker& worker) const {
  const std::size_t most = static_cast<std::size_t>(candidates());
  const float* score = worker.scanned.score.data() + list * kListStride;
  const std::int32_t* column = worker.scanned.column.data() + list * kListStride;
  Best& best = worker.best[list];
  for (int i = 0; i < worker.scanned.count[list]; ++i) {
    if (!best.wants(score[i])) continue;
    const std::int64_t other = y_.position[static_cast<std::size_t>(start + column[i])];
    if (other != mine && other >= 0) best.add(score[i], other, most);
  }
}

std::int64_t JoinSearch::candidates() const {
  return self_ ? params_.k : params_.k + std::min(3 * params_.k, kMoreSeeds);
}

// First thresholds: the k-th of the exact distances to the best of some rows near in order. The
// lists stay empty, so that no row can enter one twice.
void JoinSearch::seed(std::int64_t group, Worker& worker) {
  const std::int64_t k = params_.k;
  const std::int64_t read = std::min(p_.near_axes, kSeedElements);
  const bool longer = !self_ && (p_.strategy == Strategy::pruned || !p_.ordered);
  const std::int64_t of_rows = longer ? y_.rows * read / (kSeedShare * kSeedElements) : 0;
  const std::int64_t of_k = std::max(4 * k, std::min(32 * k, kMostSeeds));
  const std::int64_t wanted = std::max(bounds_.used() ? kFewSeeds : kSeedWindow,
                                       tasks(std::max(of_k, of_rows), kScanCols) * kScanCols);
  const std::int64_t width = std::min(y_.padded, wanted);
  float bound_x[kTileRows];
  std::fill(bound_x, bound_x + kTileRows, -kInfinity);
  std::fill_n(worker.bound_y.data(), kMostColumns, -kInfinity);
  // Chosen queries that are scanned together lie apart, so halves of a wide scan have windows of
  // their own, each around the query in the middle.
  const std::int64_t together = self_ ? p_.scan_rows : kScanRows;
  for (std::int64_t first = group * kGroup; first < std::min(x_.rows, (group + 1) * kGroup);
       first += p_.scan_rows) {
    for (Best& best : worker.best) best.clear();
    for (std::int64_t part = first; part < std::min(x_.rows, first + p_.scan_rows);
         part += together) {
      const std::int64_t stop = std::min(x_.rows, part + together);
      const std::int64_t middle = x_.position[static_cast<std::size_t>(part + (stop - part) / 2)];
      const std::int64_t home = p_.slot[static_cast<std::size_t>(middle)];
      const std::int64_t start = std::clamp<std::int64_t>(
          (home - width / 2) / kScanCols * kScanCols, 0, y_.padded - width);
      for (std::int64_t c = 0; c < width; c += kMostColumns) {
        const std::int64_t columns = std::min<std::int64_t>(kMostColumns, width - c);
        scan_rows(p_, x_, first, y_, start + c, columns, bound_x, worker.bound_y.data(),
                  worker.scanned);
        for (std::int64_t query = part; query < stop; ++query)
          collect(x_.position[static_cast<std::size_t>(query)], start + c,
                  static_cast<std::size_t>(query - first), worker);
      }
    }
    for (std::int64_t query = first; query < std::min(x_.rows, first + p_.scan_rows); ++query) {
      const auto& best = worker.best[static_cast<std::size_t>(query - first)].result(
          static_cast<std::size_t>(candidates()));
      if (static_cast<std::int64_t>(best.size()) < k) continue;
      worker.limits.clear();
      for (const auto& candidate : best)
        worker.limits.push_back(first_limit(query, candidate, worker));
      const auto last = worker.limits.begin() + (k - 1);
      std::nth_element(worker.limits.begin(), last, worker.limits.end());
      lower(states_[static_cast<std::size_t>(query)], *last);
    }
  }
}

// What the distance of a query and one that may be near does not exceed.
double JoinSearch::first_limit(std::int64_t query, const Best::Scored& candidate, Worker& worker) {
  if (bounds_.used()) {
    const std::int64_t slot = p_.slot[static_cast<std::size_t>(candidate.position)];
    const float bound = bounds_.most(x_, query, y_, slot, candidate.score);
    if (std::isfinite(bound)) return bounds_.limit(bound);
  }
  return worker.measure(x_.position[static_cast<std::size_t>(query)], candidate.position,
                        std::numeric_limits<double>::infinity());
}

void JoinSearch::measure(std::int64_t query, std::int64_t slot, float score, Worker& worker) {
  if (met_apart(query, slot)) return;
  const std::int64_t i = x_.position[static_cast<std::size_t>(query)];
  const std::int64_t j = y_.position[static_cast<std::size_t>(slot)];
  double limit = states_[static_cast<std::size_t>(query)].limit.load(std::memory_order_relaxed);
  if (self_)
    limit = std::max(limit,
                     states_[static_cast<std::size_t>(slot)].limit.load(std::memory_order_relaxed));
  ++worker.counters.refined;
  const double distance = worker.measure(i, j, limit);
  if (!(distance <= limit)) return;
  // Rows changed since they were prepared: others may have been passed over, and none is returned.
  if (bounds_.used() && distance < bounds_.least(x_, query, y_, slot, score)) return;
  offer(query, distance, j, worker);
  if (self_) offer(slot, distance, i, worker);
}

// Brings bound and limit of a query of the block down to what is known by now.
void JoinSearch::refresh(std::int64_t query, std::size_t row, Worker& worker) const {
  const float reach =
      states_[static_cast<std::size_t>(query)].reach.load(std::memory_order_relaxed);
  if (reach == worker.reach_x[row]) return;
  worker.reach_x[row] = reach;
  worker.bound_x[row] = bound(reach, worker.error_x[row], worker.stretch);
  if (limits_) worker.limit_x[row] = limit2(reach, worker.base_x[row]);
}

// How many of the columns on a list pass a filter that looks at rows in int8.
int JoinSearch::look(std::int64_t query, std::size_t row, std::size_t list,
                     std::int64_t first_column, int count, const Int8Rows& x, const Int8Rows& y,
                     std::int64_t width, Worker& worker) const {
  const std::size_t at = static_cast<std::size_t>(query), bytes = static_cast<std::size_t>(width);
  const std::size_t from = static_cast<std::size_t>(first_column);
  // Twice what bound() takes off for denormals, on the scale of -2 score.
  const double flushed = std::max(0x1p-98, 0x1p-109 * static_cast<double>(width));
  return p_.join->rough({count, worker.scanned.score.data() + list * kListStride,
                         worker.scanned.column.data() + list * kListStride,
                         x.elements.data() + at * bytes, y.elements.data() + from * bytes, bytes,
                         x.scale.data()[at], y.scale.data() + from, x.offset[at], x.half.data()[at],
                         y.half.data() + from, x.error.data()[at], y.error.data() + from,
                         worker.reach_x[row], worker.reach_y.data(), static_cast<float>(flushed)});
}

// What the scan listed for one query: second level, then the original rows.
void JoinSearch::visit(std::int64_t query, std::size_t row, std::size_t list,
                       std::int64_t first_column, Worker& worker) {
  const std::size_t at = static_cast<std::size_t>(query);
  std::int32_t* column = worker.scanned.column.data() + list * kListStride;
  int count = worker.scanned.count[list];
  if (p_.strategy == Strategy::pruned) {
    refresh(query, row, worker);
    if (p_.rough_width > 0) {
      worker.counters.rough += count;
      count =
          look(query, row, list, first_column, count, x_.rough, y_.rough, p_.rough_width, worker);
    }
    worker.counters.second += count;
    if (p_.whole_int8_width > 0)
      count = look(query, row, list, first_column, count, x_.whole_int8, y_.whole_int8,
                   p_.whole_int8_width, worker);
    else if (p_.whole_width > 0)
      count = p_.bf16->whole({count, column, whole(x_, query), whole(y_, first_column),
                              static_cast<std::size_t>(p_.whole_width), x_.whole_half[at],
                              y_.whole_half.data() + first_column, x_.whole_error[at],
                              y_.whole_error.data() + first_column, worker.reach_x[row],
                              worker.reach_y.data()});
    else
      count = p_.join->second(
          {count, worker.scanned.score.data() + list * kListStride, column, x_.tail[at],
           y_.tail.data() + first_column, x_.error[at], y_.error.data() + first_column,
           far(x_, query), far(y_, first_column), p_.far_width(), x_.rest[at],
           y_.rest.data() + first_column, worker.limit_x[row], worker.limit_y.data()});
  }
  if (bounds_.used()) return put_off(query, list, first_column, worker);
  // Thresholds fall while a block is searched: scores are held against those of now.
  const bool scored = p_.strategy != Strategy::pruned;
  const float* score = worker.scanned.score.data() + list * kListStride;
  for (int i = 0; i < count; ++i) {
    const std::int64_t slot = first_column + column[i];
    if (i + 1 < count)
      worker.measure.fetch(y_.position[static_cast<std::size_t>(first_column + column[i + 1])]);
    if (scored && !matters(query, slot, score[i])) continue;
    measure(query, slot, score[i], worker);
  }
}

// Whether a pair of that score on the first level may lie within what either row knows by now. An
// error that is folded into a half norm counts once more here, which only lets more pass.
bool JoinSearch::matters(float reach, std::size_t x, std::size_t y, float score) const {
  const float sum = (reach + x_.error[x]) + y_.error[y];
  return -2.0f * score <= sum * sum * stretch_ + flushed2_;
}

bool JoinSearch::matters(std::int64_t query, std::int64_t slot, float score) const {
  const std::size_t x = static_cast<std::size_t>(query), y = static_cast<std::size_t>(slot);
  float reach = states_[x].reach.load(std::memory_order_relaxed);
  if (self_) reach = std::max(reach, states_[y].reach.load(std::memory_order_relaxed));
  return matters(reach, x, y, score);
}

// One of `parts` of the rows of a block against all of another.
void JoinSearch::compare(std::int64_t query_block, std::int64_t block, std::int64_t part,
                         std::int64_t parts, Worker& worker) {
  const std::int64_t row0 = query_block * p_.block_rows + part * p_.block_rows / parts;
  const std::int64_t row1 = std::min(x_.rows, row0 + p_.block_rows / parts);
  if (row0 >= row1) return;
  const std::int64_t col0 = block * p_.block_rows;
  const std::int64_t col1 = std::min(y_.padded, col0 + p_.block_rows);
  const bool diagonal = self_ && query_block == block;
  const std::size_t xb = static_cast<std::size_t>(query_block),
                    yb = static_cast<std::size_t>(block);
  const std::size_t rows = static_cast<std::size_t>(row1 - row0);
  const std::size_t columns = static_cast<std::size_t>(col1 - col0);
  worker.stretch = widened_stretch(y_.block_stretch[yb]);
  // Loops of their own, which the compiler turns into vectors.
  for (std::size_t i = 0; i < rows; ++i)
    worker.reach_x[i] =
        states_[static_cast<std::size_t>(row0) + i].reach.load(std::memory_order_relaxed);
  const float* error_x = x_.error.data() + row0;
  for (std::size_t i = 0; i < rows; ++i) worker.error_x[i] = error_x[i] + y_.block_error[yb];
  for (std::size_t i = 0; i < rows; ++i)
    worker.bound_x[i] = bound(worker.reach_x[i], worker.error_x[i], worker.stretch);
  std::fill(worker.bound_x + rows, worker.bound_x + p_.block_rows,
            std::numeric_limits<float>::max());
  for (std::size_t i = 0; limits_ && i < rows; ++i) {
    worker.base_x[i] = round_up(static_cast<double>(x_.base[static_cast<std::size_t>(row0) + i]) +
                                static_cast<double>(y_.block_base[yb]));
    worker.limit_x[i] = limit2(worker.reach_x[i], worker.base_x[i]);
  }
  float* bound_y = worker.bound_y.data();
  float* reach_y = worker.reach_y.data();
  const std::size_t real =
      self_ ? static_cast<std::size_t>(std::clamp<std::int64_t>(y_.rows - col0, 0, col1 - col0))
            : 0;
  for (std::size_t i = 0; i < real; ++i)
    reach_y[i] = states_[static_cast<std::size_t>(col0) + i].reach.load(std::memory_order_relaxed);
  std::fill(reach_y + real, reach_y + columns, 0.0f);
  const float* error_y = y_.error.data() + col0;
  const float stretch_y = widened_stretch(x_.block_stretch[xb]), error_of_x = x_.block_error[xb];
  for (std::size_t i = 0; i < real; ++i)
    bound_y[i] = bound(reach_y[i], error_y[i] + error_of_x, stretch_y);
  std::fill(bound_y + real, bound_y + columns, kInfinity);
  for (std::size_t i = 0; limits_ && i < columns; ++i)
    worker.limit_y.data()[i] =
        i < real
            ? limit2(reach_y[i],
                     round_up(static_cast<double>(y_.base[static_cast<std::size_t>(col0) + i]) +
                              static_cast<double>(x_.block_base[xb])))
            : -1.0f;
  for (std::int64_t row = row0; row < row1; row += p_.scan_rows) {
    const std::size_t place = static_cast<std::size_t>(row - row0);
    const std::int64_t from = diagonal ? row / kScanCols * kScanCols : col0;
    scan_rows(p_, x_, row, y_, from, col1 - from, worker.bound_x + place,
              worker.bound_y.data() + (from - col0), worker.scanned,
              &head_first_[static_cast<std::size_t>(row / p_.scan_rows)]);
    for (std::size_t r = 0; r < static_cast<std::size_t>(p_.scan_rows); ++r) {
      if (worker.scanned.count[r] == 0) continue;
      // Columns are counted from the start of the block.
      std::int32_t* column = worker.scanned.column.data() + r * kListStride;
      for (int i = 0; from != col0 && i < worker.scanned.count[r]; ++i)
        column[i] += static_cast<std::int32_t>(from - col0);
      visit(row + static_cast<std::int64_t>(r), place + r, r, col0, worker);
    }
  }
}

JoinCounts JoinSearch::run() {
  const int threads = params_.threads;
  std::vector<std::unique_ptr<Worker>> workers;
  for (int i = 0; i < threads; ++i) workers.push_back(std::make_unique<Worker>(p_));
  const auto worker_of = [&](int worker) -> Worker& {
    return *workers[static_cast<std::size_t>(worker)];
  };
  parallel_for(tasks(x_.rows, kGroup), threads, *params_.poll, [&](std::int64_t group, int worker) {
    const std::int64_t stop = std::min(x_.rows, (group + 1) * kGroup);
    for (std::int64_t query = group * kGroup; !gathered_.used() && query < stop; ++query)
      list(query).clear();
    seed(group, worker_of(worker));
  });

  const std::int64_t rows = tasks(x_.rows, p_.block_rows), columns = tasks(y_.rows, p_.block_rows);
  if (self_) {
    const BlockPairs pairs(rows);
    const std::int64_t parts = pairs.count() < kFewTasks * threads ? kParts : 1;
    parallel_for(parts * pairs.count(), threads, *params_.poll, [&](std::int64_t task, int worker) {
      const BlockPairs::Pair pair = pairs[task / parts];
      compare(pair.first, pair.second, task % parts, parts, worker_of(worker));
    });
  } else {
    // Each query block starts at the block of its first query and goes on from there, around.
    parallel_for(rows * columns, threads, *params_.poll, [&](std::int64_t task, int worker) {
      const std::int64_t query_block = task / columns;
      const std::int64_t first = x_.position[static_cast<std::size_t>(query_block * p_.block_rows)];
      const std::int64_t home = p_.slot[static_cast<std::size_t>(first)] / p_.block_rows;
      compare(query_block, (home + task % columns) % columns, 0, 1, worker_of(worker));
    });
  }
  if (bounds_.used()) measure_all_waiting(workers);
  parallel_for(tasks(x_.rows, kGroup), threads, *params_.poll, [&](std::int64_t group, int worker) {
    const std::int64_t stop = std::min(x_.rows, (group + 1) * kGroup);
    for (std::int64_t query = group * kGroup; query < stop; ++query)
      finish(query, worker_of(worker));
  });

  JoinCounts counts = {self_ ? x_.rows * (x_.rows - 1) / 2 : x_.rows * y_.rows, 0, 0, 0};
  for (const auto& worker : workers) {
    counts.rough += worker->counters.rough;
    counts.second += worker->counters.second;
    counts.refined += worker->counters.refined;
  }
  return counts;
}

JoinCounts join(const JoinParams& params) {
  const Strategy asked = params.prepared->asked;
  if (asked == Strategy::rows || (asked == Strategy::automatic && rows_pay(params)))
    return row_search(params);
  return JoinSearch(params).run();
}

}  // namespace fastdim
