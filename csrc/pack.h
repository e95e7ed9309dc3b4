// From the caller's rows to the float32 panels that Kernels::product reads.
#pragma once

#include <cstdint>
#include <vector>

#include "aligned.h"
#include "rows.h"

namespace fastdim {

// How a row becomes float32: post * (pre * x - mean). Scales are powers of two where exactness
// matters; `row_scale`, if not null, replaces `pre` by one factor a row.
struct Transform {
  double pre = 1.0;
  double post = 1.0;
  std::vector<double> mean;
  const double* row_scale = nullptr;
};

// Per-thread memory of one row.
struct RowScratch {
  std::vector<double> decoded;
  Aligned<float> centered;
  explicit RowScratch(std::int64_t d)
      : decoded(static_cast<std::size_t>(d)), centered(static_cast<std::size_t>(d)) {}
};

// One transformed row into scratch.centered, with its squared norm and squared rounding error.
void transform_row(const Kernels& kernels, const Rows& rows, const Transform& transform,
                   std::int64_t row, RowScratch& scratch, double* norm2, double* error2);

// The panel that holds rows ids[0], ..., ids[count - 1], 1 <= count <= width; missing rows are
// zero.
void pack_panel(const Kernels& kernels, const Rows& rows, const Transform& transform,
                const std::int64_t* ids, int count, int width, RowScratch& scratch, float* panel);

// Operations that one product may be wrong by, in units of rounding: |computed - exact| <=
// product_error(d) * |a| * |b| + underflow(d), for either order of sums that Kernels allows.
double product_error(std::int64_t d);
double underflow(std::int64_t d);

// The largest float32 that is not above (not below) the value.
float round_down(double value);
float round_up(double value);

}  // namespace fastdim
