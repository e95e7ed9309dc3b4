// Rows along axes by products of int16, which take half as long as those of float32: in place of
// `project` where the first level may be in int8, and for axes that the caller knows already, in a
// search by so few queries that neither order nor a choice would pay.
//
// As prepare.h, but for points 2 and 3. A row z becomes c = q / s with whole numbers q (int16.h),
// and e0 >= |z - c| holds what that moves, too. The axes are rounded to multiples of 2^-15, P, and
// divided by lambda = sqrt(1 + delta), delta = |P^T P - I|_F. Q = P / lambda lengthens no vector,
// for |P|_2^2 <= 1 + delta; so R = (I - Q Q^T)^(1/2) exists and |Q^T c|^2 + |R c|^2 = |c|^2. With
// a = Q^T c and rho = |R c| = sqrt(|c|^2 - |a|^2), for any two rows
//     |a_x - a_y|^2 + (rho_x - rho_y)^2 <= |a_x - a_y|^2 + |R (c_x - c_y)|^2 = |c_x - c_y|^2:
// sigma = 1 for any P, and how far it is from orthonormal does not enter rho.
// |q| <= 46340 and, where axes longer than sqrt(1.9) are refused, 2^15 |P_k| <= 46340: sums are
// exact in int32. Factors are float64 and a' is rounded to float32, so it is off by at most
// eta = 2^-23 |c| + underflow(p), and rho'^2 by at most E = float64_error_of(d + p) |c|^2, hence
// rho' by min(E / rho', sqrt(E)): base = sqrt(eta^2 + err_rho^2) + e0.
#pragma once

#include <cstdint>
#include <functional>
#include <vector>

#include "aligned.h"
#include "cosine_levels.h"
#include "isa.h"
#include "projection.h"

namespace fastdim {

class IntAxes {
 public:
  // Whether no axis is longer than sqrt(1.9) or NaN.
  static bool short_enough(const Basis& basis, std::int64_t d);

  // Needs has_int16(isa). Throws std::invalid_argument on an axis longer than sqrt(1.9), or NaN.
  IntAxes(const Basis& basis, std::int64_t d, Isa isa, int threads,
          const std::function<void()>& poll);

  std::int64_t count() const { return count_; }
  double shrunk2() const { return shrunk2_; }  // lambda^2

 private:
  friend class AlongAxes;
  std::int64_t d_, count_, panels_;
  const CosineKernels& kernels_;
  std::int64_t height_, width_;  // rows and axes of a panel
  Aligned<std::int16_t> axes_;
  double shrunk2_, unit_;  // lambda^2; 2^-15 / lambda
};

// Up to `most` rows along the axes. One for each thread.
class AlongAxes {
 public:
  AlongAxes(const IntAxes& axes, std::int64_t most);

  // Centered row r, which is off by at most `error`; all rows up to the last are to be put.
  void put(std::int64_t r, const float* centered, double error);
  // Then rows 0, 1 ... `rows` - 1 are there to be read.
  void project(std::int64_t rows);

  const float* values(std::int64_t r) const { return values_.data() + r * axes_.count_; }  // a'
  double rest(std::int64_t r) const { return rest_[static_cast<std::size_t>(r)]; }         // rho'
  double base(std::int64_t r) const { return base_[static_cast<std::size_t>(r)]; }
  double length(std::int64_t r) const { return length_[static_cast<std::size_t>(r)]; }  // |c|

 private:
  const IntAxes& axes_;
  std::vector<double> row_;
  std::vector<std::int16_t> ints_;
  Aligned<std::int16_t> panels_;
  Aligned<std::int32_t> tile_;
  std::vector<float> values_;
  std::vector<double> step_, inside2_, rest_, base_, length_;
};

// As `project`, with a', rho' and base of above: sigma is 1.
Projection project_ints(const RowSet& set, const Transform& transform, const IntAxes& axes,
                        std::vector<RowScratch>& scratch);

}  // namespace fastdim
