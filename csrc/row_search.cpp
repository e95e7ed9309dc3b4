#include "row_search.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <memory>
#include <stdexcept>
#include <vector>

#include "cpu/select_kernels.h"
#include "filter.h"
#include "gathered.h"
#include "levels.h"
#include "select.h"
#include "threads.h"

namespace fastdim {
namespace {

constexpr float kInfinity = std::numeric_limits<float>::infinity();
constexpr std::int64_t kFirst = 256;    // rows of the first piece at least
constexpr std::int64_t kMostRows = 64;  // queries of a task: they share what is in the cache
constexpr std::int64_t kPieceBytes = std::int64_t{512} << 10;  // stays in the second-level cache
constexpr std::int64_t kListBytes = std::int64_t{64} << 20;

// Nanoseconds of one thread, as in choose.cpp: what the scan of a pair takes beside its axes, and
// what a neighbour costs less than where each pair is met once, on its own and for each of the
// first columns. kScan: both of a pair's scans take a little more than twice one. docs/engine.md
// says what they were fitted to.
constexpr double kPair = 0.05, kNeighbor = 420, kColumn = 0.1, kColumns = 768, kScan = 1.1;
constexpr std::int64_t kMostSlots = std::numeric_limits<std::int32_t>::max();
constexpr double kMostListed = 2;  // Prepared::listed

// Candidates of one query.
struct List {
  std::vector<float> score;
  std::vector<std::int32_t> slot;
  std::size_t full = 0;        // so many are thinned out
  std::vector<Neighbor> done;  // the k nearest of those that were measured before the end
  float reach = kInfinity;
  double known = std::numeric_limits<double>::infinity();  // the k-th neighbour is not farther

  void clear() {
    done.clear();
    resize(0);
  }
  void resize(std::size_t count) {
    score.resize(count);
    slot.resize(count);
  }
};

class RowSearch {
 public:
  explicit RowSearch(const JoinParams& params);
  JoinCounts run();

 private:
  struct Worker {
    ScanLists scanned;
    Measure measure;
    std::vector<List> lists;
    std::unique_ptr<HeadFirst[]> head_first;  // of each scan's rows
    std::vector<float> room;                  // of SelectKernels::kth
    std::vector<std::int32_t> best;           // the best scores of a list, by slot
    std::vector<float> best_score;
    std::vector<double> distance;         // of those
    std::vector<std::int64_t> positions;  // measured together
    std::vector<Neighbor> found;
    std::int64_t filtered = 0, refined = 0;
    Worker(const Prepared& p, std::int64_t rows)
        : scanned(p),
          measure(p),
          lists(static_cast<std::size_t>(rows)),
          head_first(std::make_unique<HeadFirst[]>(static_cast<std::size_t>(rows / p.scan_rows))) {}
  };
  // Rows [from, to) of one block.
  struct Piece {
    std::int64_t from, to;
  };

  void visit(std::int64_t task, Worker& worker) const;
  void scan(std::int64_t row, const Piece& piece, const bool* wanted, Worker& worker) const;
  Listed listed(List& list, std::size_t count) const {
    return {count, list.score.data(), list.slot.data(), error_.data()};
  }
  float kth_score(List& list, Worker& worker) const;
  void leave_out_itself(std::int64_t query, const Piece& piece, std::size_t before,
                        List& list) const;
  void thin_out(std::int64_t query, List& list, Worker& worker) const;
  bool measure_all(std::int64_t query, const std::vector<std::int32_t>& slots, std::size_t count,
                   Worker& worker) const;
  void measure(std::int64_t query, const List& list, std::size_t count, double limit,
               Worker& worker) const;
  void know(List& list, std::vector<Neighbor>& found) const;
  void settle(std::int64_t query, List& list, Worker& worker) const;
  bool finish(std::int64_t query, List& list, Worker& worker) const;
  void put(std::int64_t query, std::vector<Neighbor>& found) const;
  std::vector<Piece> pieces(std::int64_t query) const;

  std::int64_t position(const Side& side, std::int64_t slot) const {
    return side.position[static_cast<std::size_t>(slot)];
  }
  // The rows that matter within the reach are those with -2 score <= the limit of this.
  Within within(std::int64_t query, float reach) const {
    return {reach, x_.error[static_cast<std::size_t>(query)], stretch_, flushed2_};
  }

  const JoinParams& params_;
  const Prepared& p_;
  Chosen chosen_;  // the queries, if not all rows
  const Side& x_;
  const Side& y_;
  const SelectKernels& select_;
  std::vector<float> error_;  // e of each row of y, -0 where it is folded
  float flushed_, flushed2_, stretch_;
  bool folded_ = false;
  std::size_t most_;   // candidates of a list, before one more scan
  std::int64_t rows_;  // queries of a task
  Aligned<float> no_bound_{kMostColumns};
};

// Candidates of a list that rounding may leave undecided; beyond, they are measured at once.
std::int64_t most_listed(std::int64_t k) { return 4 * k + 4096; }

// Fewer queries a task where lists are long, threads many or queries few.
std::int64_t rows_of_task(const JoinParams& p) {
  const std::int64_t list = 12 * (most_listed(p.k) + kMostColumns);
  const std::int64_t most =
      std::min({kMostRows, kListBytes / (list * p.threads), tasks(p.m, 4 * p.threads)});
  const std::int64_t together = p.prepared->scan_rows;
  return std::max(together, most / together * together);
}

const SelectKernels& select_kernels(Isa isa) {
  return at_level<SelectKernels>(isa, scalar_select_kernels, nullptr,
                                 FASTDIM_IF_AVX512(avx512_select_kernels));
}

RowSearch::RowSearch(const JoinParams& params)
    : params_(params),
      p_(*params.prepared),
      x_(params.queries ? chosen_.side : p_.side),
      y_(p_.side),
      select_(select_kernels(p_.isa)),
      error_(p_.side.error),
      flushed_(round_up(flushed_of(p_))),
      flushed2_(flushed2_of(p_)),
      stretch_(stretch_of(p_)),
      most_(static_cast<std::size_t>(most_listed(params.k))),
      rows_(rows_of_task(params)) {
  if (p_.side.padded > kMostSlots)
    throw std::invalid_argument("knn: a search by rows takes fewer than 2^31 rows");
  if (params.queries) chosen_ = choose_side(p_, params.queries, params.m);
  for (std::size_t i = 0; i < error_.size(); ++i) {
    if (!y_.folded[i]) continue;
    error_[i] = -0.0f;
    folded_ = true;
  }
  std::fill_n(no_bound_.data(), kMostColumns, kInfinity);
}

// All rows, those near in order first: they tell soon how far neighbours are.
std::vector<RowSearch::Piece> RowSearch::pieces(std::int64_t query) const {
  const std::int64_t home = p_.slot[static_cast<std::size_t>(position(x_, query))];
  const std::int64_t blocks = tasks(y_.padded, p_.block_rows), first = home / p_.block_rows;
  const std::int64_t begin = first * p_.block_rows;
  const std::int64_t end = std::min(y_.padded, begin + p_.block_rows);
  const std::int64_t width =
      std::min(end - begin, tasks(std::max(kFirst, 4 * params_.k), kScanCols) * kScanCols);
  const std::int64_t from =
      std::clamp<std::int64_t>((home - width / 2) / kScanCols * kScanCols, begin, end - width);
  std::vector<Piece> out;
  const std::int64_t most =
      std::max<std::int64_t>(kFirst, kPieceBytes / (4 * p_.units * kScanCols) * kScanCols);
  const auto add = [&](std::int64_t start, std::int64_t stop) {
    for (; start < stop; start += most) out.push_back({start, std::min(stop, start + most)});
  };
  add(from, from + width);
  add(from + width, end);
  add(begin, from);
  for (std::int64_t step = 1; step < blocks; ++step) {
    const std::int64_t at = (first + step) % blocks * p_.block_rows;
    add(at, std::min(y_.padded, at + p_.block_rows));
  }
  return out;
}

// Lists what reaches the bounds of the queries row, row + 1 ... that are wanted.
void RowSearch::scan(std::int64_t row, const Piece& piece, const bool* wanted,
                     Worker& worker) const {
  const std::size_t block = static_cast<std::size_t>(piece.from / p_.block_rows);
  List* lists = worker.lists.data() + row % rows_;
  const float stretch = widened_stretch(y_.block_stretch[block]);
  float bound[kTileRows];
  bool guessed = true;  // without a guess every row is wanted, and heads say nothing
  for (std::int64_t r = 0; r < p_.scan_rows; ++r) {
    bound[r] = std::numeric_limits<float>::max();
    if (!wanted[r]) continue;
    const float error = x_.error[static_cast<std::size_t>(row + r)] + y_.block_error[block];
    bound[r] = score_bound(lists[r].reach, error, stretch, flushed_);
    guessed &= std::isfinite(lists[r].reach);
  }
  HeadFirst* first = &worker.head_first[static_cast<std::size_t>(row % rows_ / p_.scan_rows)];
  scan_rows(p_, x_, row, y_, piece.from, piece.to - piece.from, bound, no_bound_.data(),
            worker.scanned, guessed ? first : nullptr);
  for (std::int64_t r = 0; r < p_.scan_rows; ++r) {
    const float* score = worker.scanned.score.data() + r * kListStride;
    const std::int32_t* column = worker.scanned.column.data() + r * kListStride;
    const std::size_t count = static_cast<std::size_t>(worker.scanned.count[r]);
    List& list = lists[r];
    if (count == 0) continue;
    const std::size_t before = list.score.size();
    list.resize(before + count);
    std::copy_n(score, count, list.score.data() + before);
    const std::int32_t from = static_cast<std::int32_t>(piece.from);
    for (std::size_t i = 0; i < count; ++i) list.slot[before + i] = from + column[i];
    if (wanted[r]) leave_out_itself(row + r, piece, before, list);
  }
}

// A row is met once, and is no neighbour of its own.
void RowSearch::leave_out_itself(std::int64_t query, const Piece& piece, std::size_t before,
                                 List& list) const {
  const std::int64_t mine = p_.slot[static_cast<std::size_t>(position(x_, query))];
  if (mine < piece.from || mine >= piece.to) return;
  const auto from = list.slot.begin() + static_cast<std::ptrdiff_t>(before);
  const auto at = std::find(from, list.slot.end(), static_cast<std::int32_t>(mine));
  if (at == list.slot.end()) return;
  list.score.erase(list.score.begin() + (at - list.slot.begin()));
  list.slot.erase(at);
}

// The k-th best score of those whose error is not folded, -infinity if there are fewer.
float RowSearch::kth_score(List& list, Worker& worker) const {
  const std::size_t count = list.score.size();
  worker.room.resize(std::max(worker.room.size(), 2 * count + 32));
  return select_.kth(listed(list, count), static_cast<std::size_t>(params_.k), folded_,
                     worker.room.data());
}

// Guesses anew how far the k-th neighbour may be, and drops what lies beyond.
void RowSearch::thin_out(std::int64_t query, List& list, Worker& worker) const {
  const std::size_t at = static_cast<std::size_t>(query);
  const double kth = static_cast<double>(kth_score(list, worker));
  // As far as the roundings of a score may have brought it nearer.
  const double rounded = static_cast<double>(p_.rows.d + 64) * 0x1p-20 *
                         std::fabs(static_cast<double>(x_.half.data()[at]));
  const double error = static_cast<double>(x_.error[at]);
  const float reach = round_up(std::sqrt(std::max(0.0, -2.0 * kth) + rounded) + error);
  list.reach = std::min(list.reach, reach);
  const std::size_t left = select_.keep(listed(list, list.score.size()), within(query, list.reach));
  list.resize(left);
  list.full = std::min(std::max(list.full, 2 * left), most_);
  if (left > most_) settle(query, list, worker);
}

// Adds the first of these to what was found; false if a distance is NaN.
bool RowSearch::measure_all(std::int64_t query, const std::vector<std::int32_t>& slots,
                            std::size_t count, Worker& worker) const {
  worker.positions.clear();
  for (std::size_t c = 0; c < count; ++c) worker.positions.push_back(position(y_, slots[c]));
  worker.distance.resize(count);
  worker.measure(position(x_, query), worker.positions, worker.distance.data());
  worker.refined += static_cast<std::int64_t>(count);
  const std::size_t before = worker.found.size();
  for (std::size_t c = 0; c < count; ++c)
    if (!std::isnan(worker.distance[c]))
      worker.found.push_back({worker.distance[c], worker.positions[c]});
  return worker.found.size() - before == count;
}

// Adds those of a list within the limit to what was found. Each row is asked for before the one
// ahead of it is measured.
void RowSearch::measure(std::int64_t query, const List& list, std::size_t count, double limit,
                        Worker& worker) const {
  const std::int64_t i = position(x_, query);
  for (std::size_t c = 0; c < count; ++c) {
    if (c + 1 < count) worker.measure.fetch(position(y_, list.slot[c + 1]));
    const std::int64_t j = position(y_, list.slot[c]);
    const double distance = worker.measure(i, j, limit);
    ++worker.refined;
    if (distance <= limit) worker.found.push_back({distance, j});
  }
}

// Brings the k nearest of what was found to its front, and what is known down to the last of them.
void RowSearch::know(List& list, std::vector<Neighbor>& found) const {
  const std::size_t k = static_cast<std::size_t>(params_.k);
  if (found.size() < k) return;
  select_first(found.data(), found.size(), k, Nearer{});
  double farthest = 0;
  for (std::size_t c = 0; c < k; ++c) farthest = std::max(farthest, found[c].distance);
  list.known = std::min(list.known, farthest);
}

// Measures a whole list, where rounding does not tell its rows apart, and keeps the k nearest.
void RowSearch::settle(std::int64_t query, List& list, Worker& worker) const {
  std::vector<Neighbor>& found = worker.found;
  found = list.done;
  measure(query, list, list.slot.size(), widened(list.known), worker);
  know(list, found);
  found.resize(std::min(found.size(), static_cast<std::size_t>(params_.k)));
  list.clear();
  list.done = found;
  list.reach = std::min(list.reach, reach_of(p_, widened(list.known)));
}

// Measures what matters and leaves the k nearest in the output; false if the list may lack some.
bool RowSearch::finish(std::int64_t query, List& list, Worker& worker) const {
  const float kth = kth_score(list, worker);
  std::vector<Neighbor>& found = worker.found;
  found = list.done;
  // The best scores are measured first.
  const std::size_t all = list.score.size();
  worker.best.resize(std::max(worker.best.size(), all));
  worker.best_score.resize(worker.best.size());
  const std::size_t count =
      select_.divide(listed(list, all), kth, worker.best_score.data(), worker.best.data());
  const bool numbers = measure_all(query, worker.best, count, worker);
  know(list, found);
  const double limit = widened(list.known);
  const float reach = reach_of(p_, limit);
  if (!(reach <= list.reach)) return false;
  // Of the others those that matter.
  const std::size_t left = select_.keep(listed(list, all - count), within(query, reach));
  // What lies within T passes the filter at T, unless rows changed since they were prepared: then
  // others may have been passed over, and none is returned.
  std::size_t near = 0;
  for (std::size_t c = 0; c < count; ++c) {
    worker.best_score[near] = worker.best_score[c];
    worker.best[near] = worker.best[c];
    near += static_cast<std::size_t>(worker.distance[c] <= list.known);
  }
  const Listed nearest = {near, worker.best_score.data(), worker.best.data(), error_.data()};
  const bool kept = numbers && select_.keep(nearest, within(query, reach)) == near;
  measure(query, list, left, limit, worker);
  if (!kept) found.clear();
  put(query, found);
  return true;
}

void RowSearch::put(std::int64_t query, std::vector<Neighbor>& found) const {
  const std::size_t k = static_cast<std::size_t>(params_.k);
  const std::int64_t row =
      params_.queries ? chosen_.output[static_cast<std::size_t>(query)] : position(x_, query);
  double* distances = params_.distances + row * params_.k;
  std::int64_t* indices = params_.indices + row * params_.k;
  if (select_.order && k <= found.size() && found.size() <= kMostOrdered &&
      select_.order(found.data(), found.size(), k, distances, indices))
    return;
  select_first(found.data(), found.size(), k, Nearer{});
  // There are fewer only where rows changed under the search: the rest is of no row.
  found.resize(k,
               {std::numeric_limits<double>::infinity(), std::numeric_limits<std::int64_t>::max()});
  std::sort(found.begin(), found.end(), Nearer{});
  for (std::size_t c = 0; c < k; ++c) {
    distances[c] = found[c].distance;
    indices[c] = found[c].position;
  }
}

void RowSearch::visit(std::int64_t task, Worker& worker) const {
  const std::int64_t begin = task * rows_, end = std::min(x_.rows, begin + rows_);
  const std::vector<Piece> parts = pieces(begin);
  for (List& list : worker.lists) {
    list.clear();
    list.full = static_cast<std::size_t>(3 * params_.k + 64);
    list.reach = kInfinity;
    list.known = std::numeric_limits<double>::infinity();
  }
  const auto list_of = [&](std::int64_t query) -> List& {
    return worker.lists[static_cast<std::size_t>(query - begin)];
  };
  bool wanted[kTileRows];
  for (const Piece& part : parts)
    for (std::int64_t row = begin; row < end; row += p_.scan_rows) {
      for (std::int64_t r = 0; r < p_.scan_rows; ++r) wanted[r] = row + r < end;
      scan(row, part, wanted, worker);
      for (std::int64_t query = row; query < std::min(end, row + p_.scan_rows); ++query)
        if (list_of(query).score.size() > list_of(query).full)
          thin_out(query, list_of(query), worker);
    }
  worker.filtered += (end - begin) * y_.rows;
  for (std::int64_t row = begin; row < end; row += p_.scan_rows) {
    bool any = false;
    for (std::int64_t r = 0; r < p_.scan_rows; ++r) {
      wanted[r] = row + r < end && !finish(row + r, list_of(row + r), worker);
      any |= wanted[r];
    }
    if (!any) continue;
    // The guess was too near: all rows again, within the distance that is known now.
    for (std::int64_t r = 0; r < p_.scan_rows; ++r) {
      if (!wanted[r]) continue;
      worker.filtered += y_.rows;
      list_of(row + r).clear();
      list_of(row + r).reach = reach_of(p_, widened(list_of(row + r).known));
    }
    for (const Piece& part : parts) {
      scan(row, part, wanted, worker);
      for (std::int64_t r = 0; r < p_.scan_rows; ++r)
        if (wanted[r] && list_of(row + r).score.size() > most_)
          settle(row + r, list_of(row + r), worker);
    }
    for (std::int64_t r = 0; r < p_.scan_rows; ++r)
      if (wanted[r]) finish(row + r, list_of(row + r), worker);
  }
}

JoinCounts RowSearch::run() {
  std::vector<std::unique_ptr<Worker>> workers;
  for (int i = 0; i < params_.threads; ++i) workers.push_back(std::make_unique<Worker>(p_, rows_));
  parallel_for(tasks(x_.rows, rows_), params_.threads, *params_.poll,
               [&](std::int64_t task, int worker) {
                 visit(task, *workers[static_cast<std::size_t>(worker)]);
               });
  JoinCounts counts = {0, 0, 0, 0, true};
  for (const auto& worker : workers) {
    counts.filtered += worker->filtered;
    counts.refined += worker->refined;
  }
  return counts;
}

}  // namespace

ListCosts list_costs(std::int64_t k, std::int64_t n, std::int64_t d, std::int64_t near_axes,
                     double axis_cost, double listed) {
  ListCosts out = {0, std::numeric_limits<double>::infinity()};
  if (k < kLongList) return out;
  out.pairs = 2 * static_cast<double>(k) / static_cast<double>(n) *
              (kNeighbor + kColumn * std::min(static_cast<double>(d), kColumns));
  // Lists that hold much that does not matter are better shortened by distances. The more they hold
  // the more guesses fail, and both of a pair's scans are made again.
  if (listed <= kMostListed)
    out.rows = (kScan + 2 * std::max(0.0, listed - 1)) *
               (kPair + static_cast<double>(near_axes) * axis_cost);
  return out;
}

bool rows_pay(const JoinParams& p) {
  const Prepared& prepared = *p.prepared;
  if (prepared.side.padded > kMostSlots) return false;
  const ListCosts costs = list_costs(p.k, prepared.n, prepared.rows.d, prepared.near_axes,
                                     prepared.axis_cost, prepared.listed);
  // With chosen queries either search scans all rows for each of them.
  return p.queries ? std::isfinite(costs.rows) : costs.rows < costs.pairs;
}

JoinCounts row_search(const JoinParams& params) { return RowSearch(params).run(); }

}  // namespace fastdim
