// Pairs of a full search for few neighbours that are measured late: point 7 of prepare.h.
#include <algorithm>
#include <cmath>
#include <limits>
#include <thread>
#include <utility>
#include <vector>

#include "join_search.h"
#include "threads.h"

namespace fastdim {
namespace {

constexpr float kInfinity = std::numeric_limits<float>::infinity();
constexpr std::size_t kTask = 1024;  // pairs that are measured together

}  // namespace

// What the scan listed for one query of a full search for few neighbours: thresholds fall by what
// scores say at once, and pairs are measured later, when fewer of them matter.
void JoinSearch::put_off(std::int64_t query, std::size_t list, std::int64_t first_column,
                         Worker& worker) {
  // Not by doubling, which would take twice the memory.
  worker.waiting.reserve(most_waiting_ + static_cast<std::size_t>(kMostColumns));
  const std::size_t at = static_cast<std::size_t>(query);
  const float* score = worker.scanned.score.data() + list * kListStride;
  const std::int32_t* column = worker.scanned.column.data() + list * kListStride;
  for (int i = 0; i < worker.scanned.count[list]; ++i) {
    const std::int64_t slot = first_column + column[i];
    if (met_apart(query, slot)) continue;
    const std::size_t y = static_cast<std::size_t>(slot);
    float reach = states_[at].reach.load(std::memory_order_relaxed);
    if (self_) reach = std::max(reach, states_[y].reach.load(std::memory_order_relaxed));
    if (!matters(reach, at, y, score[i])) continue;
    // Most pairs that matter do so by rounding alone, and are no news.
    const float least = reach - (x_.error[at] + y_.error[y]);
    float bound = kInfinity;
    if (least > 0 && -2.0f * score[i] < least * least) {
      bound = bounds_.most(x_, query, y_, slot, score[i]);
      bring_down(query, bound);
      if (self_) bring_down(slot, bound);
    }
    worker.waiting.push_back({query, slot, score[i], bound});
  }
  if (worker.waiting.size() < most_waiting_) return;
  for (const bool likely : {true, false})
    measure_waiting(worker.waiting.data(), worker.waiting.size(), likely, worker);
  worker.waiting.clear();
}

// Takes note that a row lies within `bound` of a query.
void JoinSearch::bring_down(std::int64_t query, float bound) {
  State& state = states_[static_cast<std::size_t>(query)];
  if (!(bound < state.reach.load(std::memory_order_relaxed))) return;
  while (state.busy.test_and_set(std::memory_order_acquire)) std::this_thread::yield();
  const double limit = bounds_.limit(bounds_.add(query, bound));
  if (limit < state.limit.load(std::memory_order_relaxed)) lower(state, limit);
  state.busy.clear(std::memory_order_release);
}

// Pairs that wait and are likely neighbours, or those of the others that still matter.
void JoinSearch::measure_waiting(Pair* pairs, std::size_t count, bool likely, Worker& worker) {
  Pair* const end = pairs + count;
  Pair* next = pairs;
  const auto wanted = [&](const Pair& pair) {
    // One that was measured has no score, but matters where no distance bounds anything, as of rows
    // that changed.
    if (!likely) return pair.score > -kInfinity && matters(pair.query, pair.slot, pair.score);
    return pair.bound <= bounds_.known(pair.query) ||
           (self_ && pair.bound <= bounds_.known(pair.slot));
  };
  const auto find = [&] {
    while (next < end && !wanted(*next)) ++next;
    if (next < end) worker.measure.fetch(y_.position[static_cast<std::size_t>(next->slot)]);
  };
  find();
  while (next < end) {
    Pair& pair = *next++;
    find();
    measure(pair.query, pair.slot, pair.score, worker);
    if (likely) pair.score = -kInfinity;
  }
}

// Likely neighbours of all threads before all others.
void JoinSearch::measure_all_waiting(std::vector<std::unique_ptr<Worker>>& workers) {
  std::vector<std::pair<Pair*, std::size_t>> parts;
  for (const auto& worker : workers) {
    std::vector<Pair>& waiting = worker->waiting;
    for (std::size_t from = 0; from < waiting.size(); from += kTask)
      parts.push_back({waiting.data() + from, std::min(kTask, waiting.size() - from)});
  }
  for (const bool likely : {true, false})
    parallel_for(static_cast<std::int64_t>(parts.size()), params_.threads, *params_.poll,
                 [&](std::int64_t task, int worker) {
                   const auto& part = parts[static_cast<std::size_t>(task)];
                   measure_waiting(part.first, part.second, likely,
                                   *workers[static_cast<std::size_t>(worker)]);
                 });
}

}  // namespace fastdim
