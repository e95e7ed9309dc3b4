// The rows of a cosine histogram in the form that its tiles are multiplied in. See cosine.h.
#pragma once

#include <algorithm>
#include <cstdint>
#include <vector>

#include "aligned.h"
#include "cosine.h"
#include "cosine_levels.h"
#include "int16.h"
#include "levels.h"
#include "pack.h"
#include "threads.h"

namespace fastdim {

struct JoinKernels;

// The nonzero distinct rows, each with the number of rows equal to it.
struct Weighted {
  std::vector<std::int64_t> ids, weights;
  bool repeated = false;  // some weight is above 1
};

Weighted nonzero_distinct(const CosineParams& p);

constexpr int kFiner = 4;

inline double clipped_cosine(double cosine) { return std::min(1.0, std::max(-1.0, cosine)); }

struct Job {
  const CosineParams& p;
  const Kernels& common;
  const CosineKernels& kernels;
  const JoinKernels& rounding;
  const Weighted& rows;
  Transform transform;
  std::int64_t bins;
  double step;  // width of a bin
  bool exact_counts;
  Arithmetic arithmetic;
  std::int64_t n, d;
  std::int64_t axes;    // taken out of rows of integers
  std::int64_t floats;  // columns of the float32 product: d, the axes, or none
  double margin;        // of a float32 product of unit rows, or of all but the rounding to integers

  bool ints() const { return arithmetic != Arithmetic::float32; }
  double exact(std::int64_t i, std::int64_t j) const;
  double edge(std::int64_t b) const { return static_cast<double>(b) * step - 1.0; }
  std::int64_t bin(double cosine) const;

  // Of a row in int16, and in int8.
  std::int64_t pairs() const {
    return arithmetic == Arithmetic::int16  ? int16_columns(d) / 2
           : arithmetic == Arithmetic::int8 ? int16_columns(axes) / 2
                                            : 0;
  }
  // Beside int8, places are 2^kFiner times finer than the step of the bytes.
  int shift() const { return arithmetic == Arithmetic::int8 ? 2 * kFiner : 0; }
  std::int64_t units() const { return arithmetic == Arithmetic::int8 ? tasks(d, 4) : 0; }
};

// The unit rows without their parts along the axes, as integers. The parts along the axes: in
// float32 beside int16, as int16 beside int8.
struct Coded {
  std::int64_t pairs, units, axes;
  Aligned<std::int16_t> ints;   // n x 2 pairs
  Aligned<std::uint8_t> bytes;  // n x 4 units, q as q + 128
  Aligned<float> places;        // n x floats of the job
  std::vector<Quantized> rows;
  std::vector<std::int32_t> offset;  // -128 times the sum of the q

  Coded(const Job& job, std::int64_t count);

  // Row `from` of the job into place `to`.
  void encode(const Job& job, std::int64_t from, std::int64_t to, RowScratch& scratch);

  // Product of the int8 rows in places i and j, as the tiles would give it.
  double product(const Job& job, std::int64_t i, std::int64_t j) const;

 private:
  void encode_int8(const Job& job, std::int64_t to, const double* rest, const double* along);
};

// Panels of consecutive rows, `width` rows each, with what the margins need.
struct Panels {
  std::int64_t width, pairs, units, floats;
  bool turned;  // bytes with sign, as rows need them; columns keep q + 128
  Aligned<float> unit;
  Aligned<std::int16_t> ints;
  Aligned<std::uint8_t> bytes;
  std::vector<float> scale;  // 1 / scale of a row of integers
  std::vector<std::int32_t> offset;
  std::vector<double> length, error;

  Panels(const Job& job, std::int64_t count, std::int64_t rows_wide, bool rows_side);

  // Rows first, ..., first + count - 1 of the job into one panel.
  void fill(const Job& job, const Coded* coded, std::int64_t panel, std::int64_t first,
            std::int64_t count, RowScratch& scratch);
};

}  // namespace fastdim
