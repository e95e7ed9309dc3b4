// The search for long lists: query by query against all rows, so each pair twice, but no threshold
// has to be brought down by distances, and no list is shared. It reads the first level of rows that
// were prepared as full, or as pruned where that level leaves little out.
//
// Of each query the scan lists the rows whose score reaches a bound that follows the k-th best
// score seen so far. That bound is a guess and proves nothing. When all rows were met, the k rows
// of the best scores are measured, which gives a distance T that the k-th neighbour does not
// exceed; every row that matters then passes the filter at T by point 4 of prepare.h. If the guess
// never fell below T, all of those are on the list; if it did, the query is scanned again at T. The
// others that pass are measured, and the k least by (distance, position) of all that were are the
// result, bit for bit that of join.h.
//
// On the list each row has its own e (0 where it is folded into h), not the largest of its block: a
// row is kept if
//     -2 score <= (sigma T + e_x + e_y)^2 (1 + t) (1 + 2^-19) + 2 flushed,
// t = 0 if no row is folded; float32 makes 7 roundings of the right side. A list of more than
// 4 k + 4,096 rows that this does not tell apart is measured at once, and its k nearest are kept.
#pragma once

#include "join.h"

namespace fastdim {

// k from which lists, not scans, may take most of the time: below nothing here is chosen.
constexpr std::int64_t kLongList = 12;

// Whether it is likely faster than join() for such a search.
bool rows_pay(const JoinParams& params);

// What lists of k add to the cost of a pair of n rows of d columns, nanoseconds of one thread,
// where each pair is met once and where each row is searched on its own: with so many axes on the
// first level, of axis_cost() each, which leaves `listed` pairs for each that matters. rows:
// infinite where it is never chosen.
struct ListCosts {
  double pairs, rows;
};

ListCosts list_costs(std::int64_t k, std::int64_t n, std::int64_t d, std::int64_t near_axes,
                     double axis_cost, double listed);

// Memory: what Prepared holds, 4 bytes a row, copies of the queries if they are chosen, and lists:
// 64 MB, or where that is more 8 a thread of 4 k + 6,144 rows, 12 bytes each with room to grow and
// 16 a neighbour; a thread takes as much again for the longest list.
JoinCounts row_search(const JoinParams& params);

}  // namespace fastdim
