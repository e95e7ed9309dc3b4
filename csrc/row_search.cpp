#include "row_search.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <memory>
#include <vector>

#include "filter.h"
#include "gathered.h"
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
constexpr double kPair = 0.05, kNeighbor = 150, kColumn = 0.4, kColumns = 768, kScan = 1.1;
constexpr std::int64_t kLeast = 12;  // k; below, lists are not what takes the time

// Candidates of one query.
struct List {
  std::vector<float> score;
  std::vector<std::int64_t> slot;
  std::size_t full = 0;        // so many are thinned out
  std::vector<Neighbor> done;  // the k nearest of those that were measured before the end
  float reach = kInfinity;
  double known = std::numeric_limits<double>::infinity();  // the k-th neighbour is not farther

  void clear() {
    done.clear();
    score.clear();
    slot.clear();
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
    std::vector<float> scores;
    std::vector<std::int64_t> best;  // the best scores of a list, by slot
    std::vector<float> best_score;
    std::vector<double> best_distance;
    std::vector<Neighbor> found;
    std::int64_t filtered = 0, refined = 0;
    Worker(const Prepared& p, std::int64_t rows)
        : scanned(p), measure(p), lists(static_cast<std::size_t>(rows)) {}
  };
  // Rows [from, to) of one block.
  struct Piece {
    std::int64_t from, to;
  };

  void visit(std::int64_t task, Worker& worker) const;
  void scan(std::int64_t row, const Piece& piece, const bool* wanted, Worker& worker) const;
  float kth_score(std::int64_t query, const List& list, std::vector<float>& scores) const;
  void thin_out(std::int64_t query, List& list, Worker& worker) const;
  void measure(std::int64_t query, const std::vector<std::int64_t>& slots, std::size_t count,
               double limit, Worker& worker) const;
  void know(List& list, std::vector<Neighbor>& found) const;
  void settle(std::int64_t query, List& list, Worker& worker) const;
  bool finish(std::int64_t query, List& list, Worker& worker) const;
  void put(std::int64_t query, std::vector<Neighbor>& found) const;
  std::vector<Piece> pieces(std::int64_t query) const;

  std::int64_t position(const Side& side, std::int64_t slot) const {
    return side.position[static_cast<std::size_t>(slot)];
  }
  bool is_folded(std::int64_t slot) const {
    return folded_ && y_.folded[static_cast<std::size_t>(slot)];
  }
  // The largest -2 score of a row with that error which matters within the reach.
  float limit(float reach, float error_x, float error_y) const {
    const float sum = (reach + error_x) + error_y;
    return sum * sum * stretch_ + flushed2_;
  }

  const JoinParams& params_;
  const Prepared& p_;
  Chosen chosen_;  // the queries, if not all rows
  const Side& x_;
  const Side& y_;
  std::vector<float> error_;  // e of each row of y, 0 where it is folded
  float stretch_ = 1.0f + 0x1p-19f;
  double flushed_;
  float flushed2_;
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
  return std::max<std::int64_t>(kScanRows, most / kScanRows * kScanRows);
}

RowSearch::RowSearch(const JoinParams& params)
    : params_(params),
      p_(*params.prepared),
      x_(params.queries ? chosen_.side : p_.side),
      y_(p_.side),
      error_(p_.side.error),
      flushed_(flushed_of(p_)),
      flushed2_(static_cast<float>(2.0 * flushed_ * kUpward)),
      most_(static_cast<std::size_t>(most_listed(params.k))),
      rows_(rows_of_task(params)) {
  if (params.queries) chosen_ = choose_side(p_, params.queries, params.m);
  for (std::size_t i = 0; i < error_.size(); ++i) {
    if (!y_.folded[i]) continue;
    error_[i] = 0;
    folded_ = true;
  }
  double stretch = 1.0;
  for (const double of_block : y_.block_stretch) stretch = std::max(stretch, of_block);
  stretch_ = round_up(stretch * (1.0 + 0x1p-19));
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
  float bound[kScanRows];
  for (std::int64_t r = 0; r < kScanRows; ++r) {
    bound[r] = std::numeric_limits<float>::max();
    if (!wanted[r]) continue;
    const double error = static_cast<double>(x_.error[static_cast<std::size_t>(row + r)]) +
                         static_cast<double>(y_.block_error[block]);
    bound[r] = score_bound(lists[r].reach, round_up(error), y_.block_stretch[block], flushed_);
  }
  scan_rows(p_, x_, row, y_, piece.from, piece.to - piece.from, bound, no_bound_.data(),
            worker.scanned);
  for (std::int64_t r = 0; r < kScanRows; ++r) {
    const float* score = worker.scanned.score.data() + r * kListStride;
    const std::int32_t* column = worker.scanned.column.data() + r * kListStride;
    const std::size_t count = static_cast<std::size_t>(worker.scanned.count[r]);
    List& list = lists[r];
    if (count == 0) continue;
    const std::size_t before = list.score.size();
    list.score.insert(list.score.end(), score, score + count);
    list.slot.resize(before + count);
    for (std::size_t i = 0; i < count; ++i) list.slot[before + i] = piece.from + column[i];
  }
}

// The k-th best score of the others whose error is not folded, -infinity if there are fewer.
float RowSearch::kth_score(std::int64_t query, const List& list, std::vector<float>& scores) const {
  const std::int64_t mine = p_.slot[static_cast<std::size_t>(position(x_, query))];
  const std::size_t k = static_cast<std::size_t>(params_.k);
  scores.resize(list.score.size());
  std::size_t count = 0;
  for (std::size_t i = 0; i < list.score.size(); ++i) {
    scores[count] = list.score[i];
    count += static_cast<std::size_t>((list.slot[i] != mine) & !is_folded(list.slot[i]));
  }
  if (count < k) return -kInfinity;
  select_first(scores.data(), count, k, [](float a, float b) { return a > b; });
  return *std::min_element(scores.begin(), scores.begin() + params_.k);
}

// Guesses anew how far the k-th neighbour may be, and drops what lies beyond.
void RowSearch::thin_out(std::int64_t query, List& list, Worker& worker) const {
  const std::size_t at = static_cast<std::size_t>(query);
  const double kth = static_cast<double>(kth_score(query, list, worker.scores));
  // As far as the roundings of a score may have brought it nearer.
  const double rounded = static_cast<double>(p_.rows.d + 64) * 0x1p-20 *
                         std::fabs(static_cast<double>(x_.half.data()[at]));
  const double error = static_cast<double>(x_.error[at]);
  const float reach = round_up(std::sqrt(std::max(0.0, -2.0 * kth) + rounded) + error);
  list.reach = std::min(list.reach, reach);
  std::size_t left = 0;
  for (std::size_t i = 0; i < list.score.size(); ++i) {
    const float score = list.score[i];
    const std::int64_t slot = list.slot[i];
    list.score[left] = score;
    list.slot[left] = slot;
    left += static_cast<std::size_t>(
        -2.0f * score <= limit(list.reach, x_.error[at], error_[static_cast<std::size_t>(slot)]));
  }
  list.score.resize(left);
  list.slot.resize(left);
  list.full = std::min(std::max(list.full, 2 * left), most_);
  if (left > most_) settle(query, list, worker);
}

// Adds those within the limit to what was found. Each row is asked for before the one ahead of it
// is measured.
void RowSearch::measure(std::int64_t query, const std::vector<std::int64_t>& slots,
                        std::size_t count, double limit, Worker& worker) const {
  const std::int64_t i = position(x_, query);
  for (std::size_t c = 0; c < count; ++c) {
    if (c + 1 < count) worker.measure.fetch(position(y_, slots[c + 1]));
    const std::int64_t j = position(y_, slots[c]);
    if (i == j) continue;
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
  measure(query, list.slot, list.slot.size(), widened(list.known), worker);
  know(list, found);
  found.resize(std::min(found.size(), static_cast<std::size_t>(params_.k)));
  list.clear();
  list.done = found;
  list.reach = std::min(list.reach, reach_of(p_, widened(list.known)));
}

// Measures what matters and leaves the k nearest in the output; false if the list may lack some.
bool RowSearch::finish(std::int64_t query, List& list, Worker& worker) const {
  const std::size_t at = static_cast<std::size_t>(query);
  const std::int64_t mine = p_.slot[static_cast<std::size_t>(position(x_, query))];
  const float kth = kth_score(query, list, worker.scores);
  std::vector<Neighbor>& found = worker.found;
  found = list.done;
  // The best scores are measured first. Lists are divided without branches, which could not be
  // foreseen.
  std::vector<std::int64_t>& best = worker.best;
  best.resize(list.slot.size());
  worker.best_score.resize(list.slot.size());
  std::size_t count = 0, rest = 0;
  for (std::size_t c = 0; c < list.slot.size(); ++c) {
    const std::int64_t slot = list.slot[c];
    const float score = list.score[c];
    const bool first = (score >= kth) & !is_folded(slot), other = slot != mine;
    best[count] = slot;
    worker.best_score[count] = score;
    count += static_cast<std::size_t>(first & other);
    list.slot[rest] = slot;
    list.score[rest] = score;
    rest += static_cast<std::size_t>(!first & other);
  }
  measure(query, best, count, std::numeric_limits<double>::infinity(), worker);
  worker.best_distance.clear();
  for (std::size_t c = list.done.size(); c < found.size(); ++c)
    worker.best_distance.push_back(found[c].distance);
  know(list, found);
  const double limit_of = widened(list.known);
  const float reach = reach_of(p_, limit_of);
  if (!(reach <= list.reach)) return false;
  // Of the others those that matter.
  std::size_t left = 0;
  for (std::size_t c = 0; c < rest; ++c) {
    const std::int64_t slot = list.slot[c];
    list.slot[left] = slot;
    left += static_cast<std::size_t>(
        -2.0f * list.score[c] <=
        limit(reach, x_.error[at], error_[static_cast<std::size_t>(slot)]));
  }
  // What lies within T passes the filter at T, unless rows changed since they were prepared: then
  // others may have been passed over, and none is returned.
  bool kept = worker.best_distance.size() == count;
  for (std::size_t c = 0; kept && c < count; ++c)
    kept = !(worker.best_distance[c] <= list.known) ||
           -2.0f * worker.best_score[c] <=
               limit(reach, x_.error[at], error_[static_cast<std::size_t>(best[c])]);
  measure(query, list.slot, left, limit_of, worker);
  if (!kept) found.clear();
  put(query, found);
  return true;
}

void RowSearch::put(std::int64_t query, std::vector<Neighbor>& found) const {
  const std::size_t k = static_cast<std::size_t>(params_.k);
  select_first(found.data(), found.size(), k, Nearer{});
  // There are fewer only where rows changed under the search: the rest is of no row.
  found.resize(k,
               {std::numeric_limits<double>::infinity(), std::numeric_limits<std::int64_t>::max()});
  std::sort(found.begin(), found.end(), Nearer{});
  const std::int64_t row =
      params_.queries ? chosen_.output[static_cast<std::size_t>(query)] : position(x_, query);
  for (std::size_t c = 0; c < k; ++c) {
    params_.distances[row * params_.k + static_cast<std::int64_t>(c)] = found[c].distance;
    params_.indices[row * params_.k + static_cast<std::int64_t>(c)] = found[c].position;
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
  bool wanted[kScanRows];
  for (const Piece& part : parts)
    for (std::int64_t row = begin; row < end; row += kScanRows) {
      for (std::int64_t r = 0; r < kScanRows; ++r) wanted[r] = row + r < end;
      scan(row, part, wanted, worker);
      for (std::int64_t query = row; query < std::min(end, row + kScanRows); ++query)
        if (list_of(query).score.size() > list_of(query).full)
          thin_out(query, list_of(query), worker);
    }
  worker.filtered += (end - begin) * y_.rows;
  for (std::int64_t row = begin; row < end; row += kScanRows) {
    bool any = false;
    for (std::int64_t r = 0; r < kScanRows; ++r) {
      wanted[r] = row + r < end && !finish(row + r, list_of(row + r), worker);
      any |= wanted[r];
    }
    if (!any) continue;
    // The guess was too near: all rows again, within the distance that is known now.
    for (std::int64_t r = 0; r < kScanRows; ++r) {
      if (!wanted[r]) continue;
      worker.filtered += y_.rows;
      list_of(row + r).clear();
      list_of(row + r).reach = reach_of(p_, widened(list_of(row + r).known));
    }
    for (const Piece& part : parts) {
      scan(row, part, wanted, worker);
      for (std::int64_t r = 0; r < kScanRows; ++r)
        if (wanted[r] && list_of(row + r).score.size() > most_)
          settle(row + r, list_of(row + r), worker);
    }
    for (std::int64_t r = 0; r < kScanRows; ++r)
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

bool rows_pay(const JoinParams& p) {
  const Prepared& prepared = *p.prepared;
  if (prepared.strategy != Strategy::full || p.k < kLeast) return false;
  if (p.queries) return true;  // either search scans all rows for each query
  const double d = static_cast<double>(prepared.rows.d);
  const double pair = kPair + d * prepared.axis_cost;
  return 0.5 * static_cast<double>(prepared.n) * pair * kScan <
         static_cast<double>(p.k) * (kNeighbor + kColumn * std::min(d, kColumns));
}

JoinCounts row_search(const JoinParams& params) { return RowSearch(params).run(); }

}  // namespace fastdim
