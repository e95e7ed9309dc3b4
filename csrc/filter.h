// What the searches of join.h and row_search.h share: scans, bounds of scores, and the distance of
// a pair. The derivations stand in prepare.h.
#pragma once

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

// The lists that one scan fills.
struct ScanLists {
  Aligned<float> score{kScanRows * kListStride};
  Aligned<std::int32_t> column{kScanRows * kListStride};
  Aligned<std::uint32_t> turned;  // of one scan in int8
  int count[kScanRows];
  explicit ScanLists(const Prepared& p)
      : turned(p.precision == Precision::int8 ? static_cast<std::size_t>(p.units) * kScanRows : 0) {
  }
};

// Rows `row` ... of x against `columns` rows of y from `column` on: see Scan.
void scan_rows(const Prepared& p, const Side& x, std::int64_t row, const Side& y,
               std::int64_t column, std::int64_t columns, const float* bound_x,
               const float* bound_y, ScanLists& lists);

// A distance up to which pairs matter, with what a subnormal one may have lost.
static inline double widened(double limit) {
  return limit + std::numeric_limits<double>::denorm_min();
}

// sigma T of prepare.h for a widened distance.
float reach_of(const Prepared& p, double limit);

// What flushed denormals of a score may have lost.
double flushed_of(const Prepared& p);

// (1 + t) (1 + 2^-19) and twice the flushed of row_search.h.
float stretch_of(const Prepared& p);
float flushed2_of(const Prepared& p);

// t of prepare.h. Infinity asks for every row, but not for padding, whose score is -infinity.
float score_bound(float reach, float error, double stretch, double flushed);

// Distances of pairs of positions on the original rows. One for each thread.
class Measure {
 public:
  explicit Measure(const Prepared& p) : p_(p), refiner_(*p.kernels, p.rows, p.pre) {}

  // The distance if it is not above `limit`, else infinity.
  double operator()(std::int64_t i, std::int64_t j, double limit);

  // The distances of a position and `count` others, all of them.
  void operator()(std::int64_t i, const std::vector<std::int64_t>& others, double* out);

  // Original rows lie anywhere in memory: the first bytes of one are asked for in time.
  void fetch(std::int64_t position) const;

 private:
  const Prepared& p_;
  Refiner refiner_;
  std::vector<const void*> rows_;
};

}  // namespace fastdim
