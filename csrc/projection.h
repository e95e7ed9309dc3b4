// Points 1 to 3 of prepare.h: every row along the axes of a basis, and how far that may be wrong.
#pragma once

#include <cstdint>
#include <vector>

#include "aligned.h"
#include "pack.h"

namespace fastdim {

// A d x p matrix near the leading principal axes, and a point near the middle of the rows.
struct Basis {
  const double* center;  // d, in the units of the rows; null: their mean
  const float* axes;     // p x d, row-major
  std::int64_t count;    // p; 0: none
};

struct Projection {
  std::int64_t axes = 0;  // p
  double sigma = 1.0;
  Aligned<float> values{0};  // n x p: a'
  std::vector<float> rest;   // rho' (n); zero for all if `rest` would be wrong by too much
  std::vector<float> base;   // base (n)
  std::vector<float> norm;   // |c32| (n)

  const float* row(std::int64_t i) const { return values.data() + i * axes; }
};

Projection project(const RowSet& set, const Transform& transform, const Basis& basis,
                   std::vector<RowScratch>& scratch);

}  // namespace fastdim
