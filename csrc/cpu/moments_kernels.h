// The leaf operations of csrc/moments.cpp, written once per instruction set; kernels.h says what
// the files that implement them must not do.
#pragma once

#include "kernels.h"

namespace fastdim {

// Rows that are added in one go, at most.
constexpr std::size_t kLongBlock = 256;

// Outer products of rows, added in float64; Value is the type of the packed elements.
template <class Value>
struct SumKernels {
  // A panel holds `width` columns of many rows: column c of row k lies at panel[k * width + c].
  int width;
  int tile_rows;  // divides width

  // One row into its place in consecutive panels: scale * x[c] - shift[c], computed in float64,
  // becomes column c at out[(c / width) * panel + c % width]; columns from d to the end of the last
  // panel are 0.
  void (*pack[kDtypes])(const void* x, std::size_t d, double scale, const double* shift,
                        std::size_t panel, Value* out);

  // tile[r * width + c] = sum over count rows k of a[k * width + r] * b[k * width + c], r <
  // tile_rows: every product in float64, or sums of kShortBlock or kLongBlock products in float32
  // added in float64.
  void (*gram)(const Value* a, const Value* b, std::size_t count, double* tile);
};

struct MomentsKernels {
  SumKernels<double> doubles;
  SumKernels<float> floats;       // of kShortBlock
  SumKernels<float> long_floats;  // of kLongBlock, else the same

  // a.b in float64, any order of sums.
  double (*dot)(const double* a, const double* b, std::size_t d);
  double (*dot_floats)(const double* a, const float* b, std::size_t d);

  // a' tile b with a tile of long_floats.width rows and columns: sums of up to so many products in
  // float32, the rest in float64.
  double (*bilinear)(const float* a, const float* b, const float* tile);

  // Columns of one panel of long_floats over count <= kLongBlock rows as whole numbers: near
  // q / factor, |q| <= 46340 in Euclidean length and each below 2^15; unit[c] = 1 / factor, 0 for a
  // column without an element of 2^-100. Rows 2 k and 2 k + 1 of column c lie side by side at
  // out[2 * (k * width + c)], where there is no second it is 0. Null at levels without; where it is
  // set gram_ints, null too else, still needs CpuFeatures::avx512_vnni.
  void (*round_columns)(const float* rows, std::size_t count, double* unit, std::int16_t* out);

  // tile[r * width + c] = unit_a[r] * unit_b[c] * sum over `pairs` pairs of rows of two such
  // panels, r < tile_rows of long_floats; the sum is exact (Cauchy and Schwarz: at most 46340^2 <
  // 2^31).
  void (*gram_ints)(const std::int16_t* a, const std::int16_t* b, std::size_t pairs,
                    const double* unit_a, const double* unit_b, double* tile);

  // row -= z * axis; returns |row|^2 of what is left, in float64.
  double (*remove)(double* row, const double* axis, double z, std::size_t d);

  // out[r][s] = sum over c of weights[s * cols + c] * tile[r][c]^2 for s = 0, 1, on the tiles of
  // Kernels::product (float32) or CosineKernels::product_ints (int32).
  void (*forms)(const float* tile, const float* weights, float* out);
  void (*forms_i32)(const std::int32_t* tile, const float* weights, float* out);
};

const MomentsKernels* scalar_moments_kernels();
const MomentsKernels* avx2_moments_kernels();
const MomentsKernels* avx512_moments_kernels();

}  // namespace fastdim
