// Exact k nearest neighbours, among all rows of one matrix, of its rows or of rows of another.
//
// What is returned. Distances are float64 sums of squared differences of the original rows, square
// root taken; relative error about (d / 16 + 4) * 2^-53, at any offset of the data, since no
// expansion |x|^2 + |y|^2 - 2xy enters them. The row itself is excluded by its number; equal other
// rows are neighbours at distance 0. Of a row of another matrix nothing is excluded. Order:
// (distance, row number), so ties go to the smaller number. NaN and infinity must have been refused
// by the caller. Each distance depends on the two rows and the instruction set alone, and the
// result is the k smallest of all, so it is the same bit for bit for any number of threads, any
// chunk and any order of evaluation.
//
// How pairs are left out. Large searches go through the filters of prepare.h and join.h. The tiled
// scan (search.h) is what remains for small ones: rows are shifted by the mean, scaled by a power
// of two (so that nothing overflows) and rounded to float32: c_x, with e_x >= |exact - c_x| summed
// in float64. With D = the exact scaled distance, T = the scaled distance of the k-th neighbour so
// far, plus 2^-1074 before it is scaled: a subnormal distance is rounded to a multiple of that, so
// that a pair up to half of it beyond the k-th may tie with it:
//     D <= T  implies  |c_x - c_y| <= T + e_x + e_y                            (triangle
//     inequality) (T + e_x + e_y)^2 <= (1 + t) (T + e_x)^2 + (1 + 1/t) e_y^2               (any t >
//     0; t = 2^-10) |c_x - c_y|^2 >= (1 - g) (|c_x|^2 + |c_y|^2) - 2 p - 2 w
// where p is the float32 product, wrong by at most g |c_x| |c_y| + w (product_error and underflow
// in pack.h), and 2 |c_x| |c_y| <= |c_x|^2 + |c_y|^2. So a pair can matter only if
//     p - b_y >= a_x,   2 b_y = (1 - g) |c_y|^2 - (1 + 1/t) e_y^2,
//                       2 a_x = (1 - g) |c_x|^2 - (1 + t) (T + e_x)^2 - 2 w.
// a and b are formed in float64 and rounded down; float32 subtraction is monotone, so the compare
// itself needs no further margin. Pairs that pass are recomputed from differences, nearest first.
// One row with a huge norm spoils the bound of its own pairs only.
//
// Equal rows are grouped first and the search runs over distinct rows: 92 % duplicates cost no
// quadratic number of ties at distance 0.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <vector>

#include "isa.h"
#include "prepare.h"
#include "rows.h"

namespace fastdim {

// Rows ready to be searched: equal rows grouped, and the filters' form of the groups. Refers to the
// caller's rows, which must stay as they are.
struct Index {
  Rows rows;
  Isa isa;
  std::vector<std::int64_t> first;     // first row of each group
  std::vector<std::int64_t> inverse;   // group of each row
  std::unique_ptr<Prepared> prepared;  // null: tiled
};

// What `distinct` found before.
struct Grouping {
  const std::int64_t* first;    // count
  const std::int64_t* inverse;  // rows.n
  std::int64_t count;
};

// Equal rows grouped (or taken as `known`, if not null), nothing prepared: 16 bytes a row. `poll`
// is called now and then by the calling thread, here and below, and may throw to stop. Throws
// std::invalid_argument if `known` names a row or a group that is none.
std::unique_ptr<Index> make_index(const Rows& rows, const Grouping* known, int threads, Isa isa,
                                  const std::function<void()>& poll);

struct IndexParams {
  Basis basis;        // axes that are far from orthonormal are refused: projection.h
  Strategy strategy;  // of preparing: automatic, pruned or full
  Strategy asked;     // of searches; automatic: rows may take the place of full
  Precision precision;
  std::int64_t k;           // neighbours that the choice of axes is made for
  std::int64_t first_axes;  // see PrepareParams, as the three below
  Precision second;
  std::int64_t spare_bytes;
  std::int64_t known_for;
  bool amx;  // see Level
  int threads;
  std::function<void()> poll;
};

// Adds the form that the filters read, of at least two groups. Memory: about 50 bytes a row and, of
// every element, full: 1 in int8, 2 in bfloat16, 4 in float32; pruned: as much an axis of the first
// level and then, where there is bfloat16, 2 a column, else 4 a further axis.
void prepare_index(Index& index, const IndexParams& params);

struct KnnParams {
  const Index* index;
  const std::int64_t* queries;  // m row numbers; null: every row in order
  std::int64_t m;               // queries
  std::int64_t k;               // 1 <= k < rows.n; with `others`, k <= rows.n
  // Queries and results are numbers of groups, not of rows: equal rows count as one.
  bool by_group;
  int threads;
  std::int64_t chunk_rows;  // tiled: reference rows packed at a time; 0: chosen from d
  std::function<void()> poll;
  double* distances;      // m x k, ascending
  std::int64_t* indices;  // m x k
  // Null; or rows of the same type and as many columns, m of them, looked up in place of `queries`.
  // Always by the tiled scan: what was prepared does not know how far away they lie.
  const Rows* others = nullptr;
};

struct KnnCounts {
  std::int64_t distinct;        // different rows
  std::int64_t searched;        // distinct query rows that needed a search
  std::int64_t pairs_filtered;  // pairs that went through the first filter
  std::int64_t pairs_rough;     // pairs that went through the level between, where there is one
  std::int64_t pairs_second;    // pairs that went through the second
  std::int64_t pairs_refined;   // pairs recomputed from differences (some stop early)
  Strategy strategy;            // pruned, full, rows or tiled
};

// Memory beyond input, output and the index: tiled, one packed chunk (64 MB unless chunk_rows says
// otherwise) and 36 bytes a row; if there are equal rows, 16 k bytes a distinct
// query, or a distinct row where all rows are asked about.
KnnCounts knn(const KnnParams& params);

}  // namespace fastdim
