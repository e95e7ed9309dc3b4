// Rows in the form that the pruned and full search of join.h reads, and why no neighbour is lost.
//
// 1. Centre. z = post (pre x - c) in float64, c32 = its float32, e0 >= |z - c32|. The distance
//    D = |z_x - z_y| is the true one times the power of two pre * post.
// 2. Rotate (strategy pruned). Q is any d x p matrix in float32, delta = |Q^T Q - I|_F. With
//    a = Q^T c32 and rho = |c32 - Q a|, for any two rows
//        |a_x - a_y|^2 + (rho_x - rho_y)^2 <= sigma^2 |c32_x - c32_y|^2,
//        sigma^2 = 1 + delta (1 + delta):
//    with c, a, r the differences, |a|^2 + |r|^2 = |c|^2 + a^T (Q^T Q - I) a <= |c|^2 +
//    delta |a|^2, |a|^2 <= (1 + delta) |c|^2, and |rho_x - rho_y| <= |r|. So any Q is valid whose
//    products stay in range (projection.h); one near the principal axes makes the left side large.
//    Strategy full: a = c32, rho = 0, sigma = 1.
// 3. The computed a' is off by at most eta = g sqrt(p) max|q| |c32| (g: product_error of the blocks
//    that are summed), and rho'^2 = |c32|^2 - |a'|^2 in float64 by at most
//    E = 2 |a'| eta + eta^2 + delta (|a'| + eta)^2, hence rho' by at most min(E / rho', sqrt(E)).
//    If that is large against the distances (rows that lie in the axes), rho is left out for all.
//    In int16, where the arithmetic of the first level is int8 or left open: see int_axes.h.
//    base_x = sqrt(eta^2 + err_rho^2) + sigma e0 then bounds everything up to here:
//        D <= T  implies  |v'_x - v'_y| <= sigma T + base_x + base_y,   v' = (a', rho').
// 4. First level: the first `near_axes` of a' and the length of all the rest (rho' included), less
//    the same `middle` for every row, as int8, bfloat16 or float32: x^. In int8 every row has one
//    scale, and where the second level does not need the axes apart the row goes through a
//    Walsh-Hadamard transform first. Neither that nor `middle` changes a distance, and lengths are
//    1-Lipschitz, so with
//        e_x = |x^ - exact| + base_x:   D <= T  implies  |x^ - y^| <= sigma T + e_x + e_y
//    (12 float32 roundings at most of each sum of the transform and one of the tail change a row by
//    less than 2^-20 of its length, which is added to e_x, and 2^-60 for squares that underflow).
//    score = x^.y^ - h_x - h_y with h = round_down(|x^|^2 / 2 (1 - 2 gamma)) is computed in
//    float32, the product of int8 rows exact but for 5 roundings of it as a whole; with gamma = m u
//    / (1 - m u), m the roundings a term may pass through, what comes out is at least
//    -|x^ - y^|^2 / 2. A pair survives if score >= min(t_x, t_y),
//        t_x = -(sigma T_x + e_x + E)^2 / 2 (1 + 2^-19) - 2^-100
//    with E the largest e of the other block; the factor pays for the float32 roundings of t_x, 7
//    at most. The last term pays for flushed denormals; in int8 a product of scales may be one,
//    times up to 2^14 an element: 2^-110 an element if that is more.
//
//    Of 128 and more elements in int8 the first 64, the head, are looked at before the others. Head
//    and rest are transformed apart and share one scale. The head's difference is no longer than
//    the whole, so where its score with a half norm of its own, h of the head alone, misses t, so
//    would the whole one's bound. What is folded (below) is taken off that half norm, too; where it
//    would not stay positive it becomes -infinity, a score of +infinity, and the head says nothing.
//
//    A few rows of huge norm, and so of huge e, would spoil E for the block they are in. Theirs is
//    folded into h instead: (a + e)^2 <= (1 + t) a^2 + (1 + 1/t) e^2, so with
//        h' = h - (1 + 1/t) e^2 / 2,   t_x' = (1 + t) t_x,   t = 2^-10,
//    such a row may be left out of E. h' stays positive, or the row is not folded, so that the
//    roundings of a score are no more than before.
//    Between the levels, where the first is in int8 and looks at less than all axes: all of them in
//    int8, row by row, their rest again as one length. e_x by the reasoning above; h and e of both
//    rows are at hand, so nothing is folded and no block has an E: a pair survives if
//        -2 score <= (sigma T + e_x + e_y)^2 (1 + 2^-19) + flushed.
//    See Rough in cpu/join_kernels.h.
// 5. Second level: axes up to `axes` in float32 and the length rho' beyond them; see Second in
//    cpu/join_kernels.h. From the score, sqrt(|x^ - y^|^2 - (tail_x - tail_y)^2) - e_x - e_y is a
//    lower bound A of the distance along the near axes, and the pair survives if
//        A^2 + |a2_x - a2_y|^2 + (rest_x - rest_y)^2
//            <= (sigma T + base_x + B)^2 (1 + (width + 16) 2^-22 + 2^-20),
//    B the largest base of the other block; the factor pays for the roundings of the left side.
//    Where there is memory for it, the second level looks at all columns instead: c32 in int8, as
//    the level between, or in bfloat16 (see Whole), by the reasoning of point 4 with base = e0 and
//    no tail.
// 6. What is left is measured on the original rows: float32 differences (exact to 2^-24 each at any
//    offset) with an early exit, then Refiner.
// 7. Upper bounds (strategy full): nothing lies beyond x^ there, so |x^ - y^| + e_x + e_y >= D as
//    well, and k pairs of a query give it a T before any of them is measured. A score, of which
//    point 4 says that it is at least -|x^ - y^|^2 / 2 - flushed, is at most
//        <x^, y^> - h_x - h_y + gamma (|<x^, y^>| + h_x + h_y) + flushed.
//    With N = |x^|^2 + |y^|^2, the sum in brackets is at most N; unless an error is folded into
//    one of them, h_x + h_y >= N / 2 (1 - 2 gamma - 2^-22), the last term for its rounding to
//    float32, half of which float64 may take. Hence
//        |x^ - y^|^2 <= -2 score + N (4 gamma + 2^-22) + 2 flushed
//                    <= -2 score + (h_x + h_y) r + 2 flushed,
//        r = (8 gamma + 2^-21) / (1 - 2 gamma - 2^-22).
//    A distance as Refiner computes it is within a factor of 1 + 2^-30 of D / (pre post), or
//    2^-1074 where it is subnormal, so that the k-th least of these bounds over pre post, widened
//    by both, is a T like one that was measured. A distance below sqrt(-2 score - 2 flushed) - e_x
//    - e_y, likewise widened, is of rows that changed since they were prepared.
#pragma once

#include <cstdint>
#include <functional>
#include <vector>

#include "aligned.h"
#include "choose.h"
#include "cpu/join_kernels.h"
#include "isa.h"
#include "pack.h"
#include "projection.h"
#include "rows.h"

namespace fastdim {

constexpr std::int64_t kLeastBlock = 512;  // rows of a block at least: a task compares two of them

// Rows in int8, one after the other, as Rough reads them.
struct Int8Rows {
  Aligned<std::uint8_t> elements{0};  // [row][width]
  Aligned<float> scale{0}, half{0}, error{0};
  std::vector<std::int32_t> offset;

  Int8Rows() = default;
  Int8Rows(std::size_t rows, std::int64_t width)
      : elements(rows * static_cast<std::size_t>(width)),
        scale(rows),
        half(rows),
        error(rows),
        offset(rows) {}
};

// One set of rows in groups of 16; either the references or chosen queries.
struct Side {
  std::int64_t rows = 0;  // real rows; arrays are padded to a whole number of pairs of groups
  std::int64_t padded = 0;
  Aligned<std::uint32_t> near{0};    // [group][unit][16]
  Aligned<float> scale{0};           // int8: of the row's elements
  std::vector<std::int32_t> offset;  // int8: -128 times their sum
  Aligned<float> far{0};             // [row][far_width], axes near_axes ... axes, then zeros
  Aligned<float> half{0};            // h; +infinity beyond `rows`
  // Of the head (or nothing): its h, and -128 times the sum of its elements.
  Aligned<float> head_half{0};
  std::vector<std::int32_t> head_offset;
  std::vector<float> tail, rest;   // lengths beyond near_axes (as scanned) and beyond axes
  std::vector<float> error, base;  // e and base, rounded up
  Int8Rows rough;                  // all axes, or nothing
  Int8Rows whole_int8;             // all columns, or nothing
  // All columns in bfloat16 (or nothing), the h of such a row and its e.
  Aligned<std::uint16_t> whole{0};  // [row][whole_width]
  std::vector<float> whole_half, whole_error;
  // Of a block the largest e that is not folded into h, the largest base, and 1 + t where an e is
  // folded (else 1).
  std::vector<float> block_error, block_base;
  std::vector<double> block_stretch;
  std::vector<bool> folded;
  std::vector<std::int64_t> position;  // place among the ids
};

struct Prepared {
  Rows rows = {};
  const std::int64_t* ids = nullptr;  // n row numbers
  std::int64_t n = 0;
  Isa isa = Isa::scalar;
  const Kernels* kernels = nullptr;
  const JoinKernels* join = nullptr;
  const JoinKernels* bf16 = nullptr;         // whose second level looks at all columns
  void (*scan)(const Scan& scan) = nullptr;  // the one that fits the units
  std::int64_t scan_rows = kScanRows;        // query rows of one scan
  Precision precision = Precision::float32;  // of the units
  Strategy strategy = Strategy::full;        // pruned or full
  bool ordered = false;                      // rows near each other lie near each other
  double axis_cost = 0;                   // nanoseconds of one element of a pair in the first level
  double listed = 1;                      // pairs that the first level leaves for each that matters
  Strategy asked = Strategy::automatic;   // of searches: rows, or what may not be left for it
  std::int64_t axes = 0;                  // p of both levels
  std::int64_t near_axes = 0;             // of the first
  std::int64_t units = 0;                 // of the first level, the tail included
  std::int64_t head_units = 0;            // of them, those that are looked at first; 0: all at once
  std::int64_t rough_axes = 0;            // of the level between
  std::int64_t rough_width = 0;           // bytes of one row there; 0: no such level
  std::int64_t block_rows = kLeastBlock;  // kMostColumns at most
  std::int64_t whole_int8_width = 0;      // bytes of a row of the second level in int8, or 0
  std::int64_t whole_width = 0;           // of the second level in bfloat16, or 0
  double middle = 0;                      // taken off every tail before it is rounded
  double rough_middle = 0;                // likewise, of the level between
  double pre = 1.0, post = 1.0;           // see Transform
  double sigma = 1.0;
  Side side;
  std::vector<std::int64_t> slot;  // place in `side` of each position

  // A distance of the rows as the filters see it. Not one factor: that may overflow.
  double scaled(double distance) const { return distance * pre * post; }

  // Whether the second level goes on from the axes and the tail of the first, even if there are no
  // further axes: neither may be mixed with the others then.
  bool axes_apart() const {
    return strategy == Strategy::pruned && whole_width == 0 && whole_int8_width == 0;
  }

  // Axes of the second level, filled up to whole vectors.
  std::size_t far_width() const {
    if (!axes_apart()) return 0;
    return static_cast<std::size_t>((axes - near_axes + kGroup - 1) / kGroup * kGroup);
  }
};

// Without axes (Basis.count 0) rows stay in their order, but massive ones go last, and only the
// arithmetic is chosen: for a full search by so few queries, or of so few rows, that order and axes
// would cost more than they save.
struct PrepareParams {
  Rows rows;
  const std::int64_t* ids;
  std::int64_t n;
  Basis basis;
  Strategy strategy;  // automatic, pruned or full
  Strategy asked;     // of searches: rows, or what may not be left for it
  Precision precision;
  std::int64_t k;            // neighbours that the choice of axes is made for
  std::int64_t first_axes;   // of the first level of a pruned search; 0: chosen from a sample
  Precision second;          // of the second level; any: likewise; float32: on further axes
  std::int64_t spare_bytes;  // beyond the size of the rows, that a copy of all columns may take
  // 0; or the axes are known (int_axes.h) for about so many queries: rows stay in their order as
  // without axes, and where a sample says that the axes pay, the first level is in int8 on all of
  // them and the second in int8 on all columns. Else as without axes. first_axes, if not 0: on so
  // many, whatever the sample says. Needs int8 and has_int16.
  std::int64_t known_for;
  int threads;
  Level level;
  const std::function<void()>* poll;
};

Prepared prepare(const PrepareParams& params);

// gamma for the scores of the first level.
double scan_error(const Prepared& prepared);

// Copies of the rows at these slots, in this order.
Side pick(const Prepared& prepared, const std::vector<std::int64_t>& slots);

}  // namespace fastdim
