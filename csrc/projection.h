// Points 1 to 3 of prepare.h: every row along the axes of a basis, and how far that may be wrong.
#pragma once

#include <cstdint>
#include <functional>
#include <vector>

#include "aligned.h"
#include "pack.h"

namespace fastdim {

// A d x p matrix near the leading principal axes, and a point inside the range of the rows.
struct Basis {
  const double* center;  // d, in the units of the rows
  const float* axes;     // p x d, row-major
  std::int64_t count;    // p >= 1; 0: rows are neither projected nor put in order
};

// delta of prepare.h, rounded up, and the largest length of an axis.
struct Skew {
  double delta = 0, longest = 0;
};

Skew skew_of(const Basis& basis, std::int64_t d, int threads, const std::function<void()>& poll);

struct Projection {
  std::int64_t axes = 0;  // p
  double sigma = 1.0;
  double shrunk2 = 1.0;      // by which squared lengths along the axes are too small
  Aligned<float> values{0};  // n x p: a'
  std::vector<float> rest;   // rho' (n); zero for all if it would be wrong by too much
  std::vector<float> base;   // base (n)
  std::vector<float> norm;   // |c32| (n)

  const float* row(std::int64_t i) const { return values.data() + i * axes; }
};

// Throws std::invalid_argument if delta of prepare.h exceeds 2^12 (or is NaN): beyond, squares of
// projected rows could leave the range of float32, and a filter would lose pairs.
Projection project(const RowSet& set, const Transform& transform, const Basis& basis,
                   std::vector<RowScratch>& scratch);

}  // namespace fastdim
