// What the searches of join.h and row_search.h share: scans, bounds of scores, and the distance of
// a pair. The derivations stand in prepare.h.
#pragma once

#include <atomic>
#include <cstdint>
#include <limits>
#include <vector>

#include "aligned.h"
#include "prepare.h"
#include "refine.h"

namespace fastdim {

constexpr double kUpward = 1.0 + 0x1p-30;  // pays for the float64 roundings of a distance

// Queries of one search, in the order in which they are kept.
struct Chosen {
  std::vector<std::int64_t> output;  // row of the output of each query slot
  Side side;
};

// Queries (m positions) in the order of their slots: those of one block lie near each other.
Chosen choose_side(const Prepared& p, const std::int64_t* queries, std::int64_t m);

// Whether the next scan of some rows should look at heads first. Two looks cost more than one where
// most cells are looked at whole, and rows far from all others make that of any cell: after such a
// scan the next few look at all units at once. Shared by threads; a lost count costs time alone.
class HeadFirst {
 public:
  bool wanted() {
    const std::uint8_t left = rest_.load(std::memory_order_relaxed);
    if (left > 0) rest_.store(static_cast<std::uint8_t>(left - 1), std::memory_order_relaxed);
    return left == 0;
  }
  void saw(int whole, int columns) {
    if (5 * whole > 4 * columns) rest_.store(kRest, std::memory_order_relaxed);
  }

 private:
  static constexpr std::uint8_t kRest = 4;
  std::atomic<std::uint8_t> rest_{0};
};

// The units of a row, filled up to whole steps.
static inline std::size_t whole_steps(std::int64_t units) {
  return (static_cast<std::size_t>(units) + kStepUnits - 1) / kStepUnits * kStepUnits;
}

// The lists that one scan fills.
struct ScanLists {
  Aligned<float> score{kTileRows * kListStride};
  Aligned<std::int32_t> column{kTileRows * kListStride};
  Aligned<std::uint32_t> turned;  // of one scan in int8
  int count[kTileRows];
  explicit ScanLists(const Prepared& p)
      : turned(p.precision == Precision::int8 ? whole_steps(p.units) * kTileRows : 0) {}
};

// Rows `row` ... of x, p.scan_rows of them, against `columns` rows of y from `column` on: see Scan.
// Heads are looked at first if there are any and `first` wants it.
void scan_rows(const Prepared& p, const Side& x, std::int64_t row, const Side& y,
               std::int64_t column, std::int64_t columns, const float* bound_x,
               const float* bound_y, ScanLists& lists, HeadFirst* first = nullptr);

// sigma T of prepare.h for a widened distance.
float reach_of(const Prepared& p, double limit);

// What flushed denormals of a score may have lost.
double flushed_of(const Prepared& p);

// (1 + t) (1 + 2^-19) and twice the flushed of row_search.h.
float stretch_of(const Prepared& p);
float flushed2_of(const Prepared& p);

// (1 + t) (1 + 2^-19) of a block, for score_bound.
float widened_stretch(double stretch);

// t of prepare.h, of an error that may be a float32 sum of two. An infinite reach asks for every
// row, but not for padding, whose score is -infinity.
static inline float score_bound(float reach, float error, float stretch, float flushed) {
  const float sum = reach + error;
  const float bound = -0.5f * sum * sum * stretch - flushed;
  return bound > -std::numeric_limits<float>::max() ? bound : -std::numeric_limits<float>::max();
}

// Distances of pairs of positions on the original rows. One for each thread.
class Measure {
 public:
  explicit Measure(const Prepared& p) : p_(p), refiner_(*p.kernels, p.rows, p.pre) {}

  // The distance if it is not above `limit`, else infinity.
  double operator()(std::int64_t i, std::int64_t j, double limit);

  // The distances of a position from each of the others.
  void operator()(std::int64_t i, const std::vector<std::int64_t>& others, double* out);

  // Original rows lie anywhere in memory: the first bytes of one are asked for in time.
  void fetch(std::int64_t position) const;

 private:
  const Prepared& p_;
  Refiner refiner_;
  std::vector<const void*> rows_;
};

}  // namespace fastdim
