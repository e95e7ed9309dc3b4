// The leaves of the pruned and full search (join.h), written once per instruction set. The warning
// at the head of kernels.h holds for every file that implements them.
//
// For the scan rows lie in groups of 16, interleaved: unit u of row r of a group at
// group[u * 16 + r]. A unit is one float, or two bfloat16 or four int8 in 32 bits (the first
// element in the low bits; an int8 element q is stored as the byte q + 128).
#pragma once

#include <cstddef>
#include <cstdint>

#include "kernels.h"

namespace fastdim {

constexpr int kGroup = 16;                 // rows interleaved
constexpr int kScanRows = 8;               // query rows of one scan: half a group, or
constexpr int kTileRows = 16;              // a group, where AMX takes as long for either
constexpr int kScanCols = 32;              // reference rows are scanned two groups at a time
constexpr std::size_t kStepUnits = 16;     // of int8: a row of an AMX tile
constexpr int kMostColumns = 2048;         // reference rows of one scan at most
constexpr std::size_t kMostTurned = 4096;  // elements of one transform at most
constexpr int kListStride = kMostColumns + kGroup;  // whole vectors may be stored

// One scan of kScanRows query rows, or kTileRows where the kernel says so. score(r, c) = <x_r, y_c>
// - half_x[r] - half_y[c] in float32, in any order of sums, each product and sum rounded once or
// not at all. Those with score >= min(bound_x[r], bound_y[c]) are listed for each query row,
// columns ascending. In int8 <x_r, y_c> is scale_x[r] scale_y[c] times a sum that is exact in
// int32; its conversion, the product of the scales, the product with it, the sum of the halves and
// the difference pass through at most 5 roundings.
struct Scan {
  const void* x;  // units of the first query row, kGroup units apart
  const void* y;  // groups, one after the other
  std::size_t units;
  int columns;                   // a multiple of kScanCols, at most kMostColumns
  const float* half_x;           // one a query row
  const float* half_y;           // columns; 64-byte aligned, as is bound_y
  const float* bound_x;          // one a query row
  const float* bound_y;          // columns
  const float* scale_x;          // int8 alone, as are the three below
  const float* scale_y;          // columns; 64-byte aligned
  const std::int32_t* offset_x;  // one a query row: -128 times the sum of the row's elements
  // Room for a row's units, filled up to whole steps of kStepUnits, times the query rows; 64-byte
  // aligned. Up to the next whole step can be read behind y, too.
  std::uint32_t* turned;
  // int8: > 0 for a look at so many units first, whole steps. Where no pair of kScanRows x
  // kScanCols rows reaches its bound with the halves of these alone, none is listed, and the other
  // units need not be looked at.
  std::size_t head_units;
  const float* head_half_x;
  const float* head_half_y;           // 64-byte aligned
  const std::int32_t* head_offset_x;  // of these units
  int* whole;            // to be raised for each kScanCols columns that are looked at whole
  float* score;          // a list of each query row, kListStride apart
  std::int32_t* column;  // likewise
  int* count;            // one a query row
};

// One query against the rows that its int8 scan listed: all axes, or all columns, in int8, row by
// row.
struct Rough {
  int count;
  float* score;           // in: of the scan; out: of those kept, in order
  std::int32_t* column;   // likewise
  const std::uint8_t* x;  // elements q as q + 128; 64-byte aligned as are all rows
  const std::uint8_t* y;  // of the columns, `width` bytes apart
  std::size_t width;      // a multiple of 64
  float scale_x;
  const float* scale_y;   // by column, as are the ones below
  std::int32_t offset_x;  // -128 times the sum of the query's elements
  float half_x;
  const float* half_y;
  float error_x;
  const float* error_y;
  float reach_x;  // distance up to which a pair matters to the query
  const float* reach_y;
  float flushed;  // added to the limit
};

// One query against the rows that its scan listed: the further axes.
struct Second {
  int count;
  const float* score;    // of the scan
  std::int32_t* column;  // in: of the scan; out: those kept, in order
  float tail_x;          // length of the axes beyond the scan's, as the scan saw it
  const float* tail_y;   // by column, as are the ones below
  float error_x;         // of the scan
  const float* error_y;
  const float* x;     // further axes of the query, one after the other
  const float* y;     // of the columns, `width` floats apart
  std::size_t width;  // number of further axes, a multiple of kGroup
  float rest_x;       // length of what lies beyond them
  const float* rest_y;
  float limit_x;  // squared distance up to which a pair matters
  const float* limit_y;
};

// One query against the rows that its scan listed: all columns at once, in bfloat16.
struct Whole {
  int count;
  std::int32_t* column;    // in: of the scan; out: those kept, in order
  const std::uint16_t* x;  // the query, 64-byte aligned as are all rows
  const std::uint16_t* y;  // of the columns, `width` elements apart
  std::size_t width;       // a multiple of kScanCols, filled up with zeros
  float half_x;
  const float* half_y;  // by column, as are the ones below
  float error_x;
  const float* error_y;
  float reach_x;  // distance up to which a pair matters to the query
  const float* reach_y;
};

struct JoinKernels {
  void (*scan)(const Scan& scan);

  // The scan on int8 units. Null at levels without it; where it is set it still needs
  // CpuFeatures::avx512_vnni.
  void (*scan_int8)(const Scan& scan);

  // Keeps the columns with -2 score <= (max(reach_x, reach_y) + error_x + error_y)^2 (1 + 2^-19) +
  // flushed, score = scale_x scale_y <x, y> - half_x - half_y with the sum exact and at most 5
  // roundings. Returns how many are kept. Null and wanting as scan_int8.
  int (*rough)(const Rough& rough);

  // Walsh-Hadamard transform in place, an orthogonal one, over as many elements as the largest of
  // 4, 16, 64 ... kMostTurned that divides `count` (a multiple of 4), each with its like
  // count / size further; or none. Every sum rounded once. Returns the largest magnitude. Null with
  // scan_int8, as is the one below.
  float (*turn)(float* values, std::size_t count, bool transform);

  // Whole numbers q of -127 ... 127 near values / scale, stored as q + 128; their sum and sum of
  // squares, and in float32, in any order, the sum of the squares of values - q scale.
  void (*quantize)(const float* values, std::size_t count, float scale, std::uint8_t* out,
                   std::int32_t* sum, std::int32_t* sum2, float* error2);

  // Keeps the columns with A^2 + |x - y|^2 + (rest_x - rest_y)^2 <= max(limit_x, limit_y), where
  // A = max(0, sqrt(max(0, -2 score - (1 + 2^-20) (tail_x - tail_y)^2)) - (error_x + error_y)),
  // each operation rounded once in float32, sums in any order; one whose partial sum exceeds the
  // limit may be dropped early. Returns how many are kept.
  int (*second)(const Second& second);

  // Keeps the columns with -2 score <= (max(reach_x, reach_y) + error_x + error_y)^2 (1 + 2^-19) +
  // 2^-98, score = <x, y> - half_x - half_y in float32, a term passing through at most
  // 3 width / 32 + 16 roundings. Returns how many are kept. Null where there is no bfloat16.
  int (*whole)(const Whole& whole);

  // x (d floats) rounded to bfloat16, to nearest, ties to even; norm2 and error2: float64 sums, in
  // any order, of the squares of the rounded values and of what rounding changed. Null with
  // `whole`.
  void (*round)(const float* x, std::size_t d, std::uint16_t* out, double* norm2, double* error2);

  // |x - y|^2 of rows of float16, bfloat16 and float32 (null for float64) from float32 differences,
  // a sum over at most d / 16 + 16 terms deep; may stop early once it exceeds `limit` (finite) and
  // return the partial sum.
  float (*screen[kDtypes])(const void* x, const void* y, std::size_t d, float limit);
};

const JoinKernels* scalar_join_kernels();
const JoinKernels* avx2_join_kernels();
const JoinKernels* avx512_join_kernels();

// scan_int8 alone, of kTileRows query rows, which needs CpuFeatures::amx_int8.
const JoinKernels* avx512_amx_join_kernels();

// The scan alone, on units of two bfloat16; needs the bfloat16 instructions of avx512.
const JoinKernels* avx512_bf16_join_kernels();

}  // namespace fastdim
