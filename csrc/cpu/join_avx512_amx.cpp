// AVX-512 with AMX tiles of int8. Compiled with those flags: read the warning in kernels.h before
// adding a line.
#include <immintrin.h>

#include "join_kernels.h"
#include "scan_avx512.h"

namespace fastdim {
namespace {

// Memory of tiles: 64 bytes a row, one row after the other.
constexpr int kStride = 64;

// Tiles 0 ... 3: the sums of the query rows with one group of columns each. 4: the query rows, a
// step of each. 5 ... 7: the same step of a group, which lies in memory as a tile wants it.
struct alignas(64) Config {
  std::uint8_t palette = 1, start = 0, reserved[14] = {};
  std::uint16_t bytes[16] = {64, 64, 64, 64, 64, 64, 64, 64};
  std::uint8_t rows[16] = {16, 16, 16, 16, 16, 16, 16, 16};
};
// A constant: what loads it tells the compiler of its first bytes alone, which might leave the
// others unwritten.
constexpr Config kConfig;

// Query rows one after the other, step by step, signed; zeros beyond the last unit, so that it does
// not matter what lies there behind a group.
void turn(const Scan& s) {
  const std::uint32_t* x = static_cast<const std::uint32_t*>(s.x);
  const __m256i sign = _mm256_set1_epi8(-128);
  const __m512i upper = _mm512_setr_epi64(0, 1, 8, 9, 4, 5, 12, 13);
  const __m512i lower = _mm512_setr_epi64(2, 3, 10, 11, 6, 7, 14, 15);
  for (std::size_t first = 0; first < s.units; first += kStepUnits)
    for (std::size_t side = 0; side < kTileRows; side += 8) {
      const auto unit = [&](std::size_t u) {
        if (u >= s.units) return _mm256_setzero_si256();
        const void* stored = x + u * kGroup + side;
        return _mm256_xor_si256(_mm256_loadu_si256(static_cast<const __m256i*>(stored)), sign);
      };
      // Eight rows, eight units in the lower halves and eight in the upper: an 8 x 8 transpose of
      // each.
      __m512i at[8], pair[8], four[8];
#pragma GCC unroll 8
      for (std::size_t u = 0; u < 8; ++u)
        at[u] = _mm512_inserti64x4(_mm512_castsi256_si512(unit(first + u)), unit(first + u + 8), 1);
#pragma GCC unroll 4
      for (int u = 0; u < 8; u += 2) {
        pair[u] = _mm512_unpacklo_epi32(at[u], at[u + 1]);
        pair[u + 1] = _mm512_unpackhi_epi32(at[u], at[u + 1]);
      }
#pragma GCC unroll 2
      for (int half = 0; half < 8; half += 4)
#pragma GCC unroll 2
        for (int odd = 0; odd < 2; ++odd) {
          four[half + 2 * odd] = _mm512_unpacklo_epi64(pair[half + odd], pair[half + odd + 2]);
          four[half + 2 * odd + 1] = _mm512_unpackhi_epi64(pair[half + odd], pair[half + odd + 2]);
        }
      std::uint32_t* out = s.turned + first * kTileRows + side * kStepUnits;
#pragma GCC unroll 4
      for (std::size_t row = 0; row < 4; ++row) {
        _mm512_store_si512(out + row * kStepUnits,
                           _mm512_permutex2var_epi64(four[row], upper, four[row + 4]));
        _mm512_store_si512(out + (row + 4) * kStepUnits,
                           _mm512_permutex2var_epi64(four[row], lower, four[row + 4]));
      }
    }
  // The loads of tiles do not tell the compiler that they read memory.
  __asm__ volatile("" ::: "memory");
}

// The groups of a cell, two of them, or of the two cells at once.
enum class Cells { first, second, both };

template <Cells cells>
__attribute__((always_inline)) inline void zero() {
  if constexpr (cells != Cells::second) {
    _tile_zero(0);
    _tile_zero(1);
  }
  if constexpr (cells != Cells::first) {
    _tile_zero(2);
    _tile_zero(3);
  }
}

// Adds the products of the steps `step` ... `stop` - 1. y: the first group of the first cell;
// groups are `next` units apart.
template <Cells cells>
__attribute__((always_inline)) inline void add_steps(const Scan& s, const std::uint32_t* y,
                                                     std::size_t next, std::size_t step,
                                                     std::size_t stop) {
  for (; step < stop; ++step) {
    const std::uint32_t* at = y + step * kStepUnits * kGroup;
    _tile_loadd(4, s.turned + step * kStepUnits * kTileRows, kStride);
    if constexpr (cells != Cells::second) {
      _tile_loadd(5, at, kStride);
      _tile_dpbsud(0, 4, 5);
      _tile_loadd(6, at + next, kStride);
      _tile_dpbsud(1, 4, 6);
    }
    if constexpr (cells != Cells::first) {
      _tile_loadd(7, at + 2 * next, kStride);
      _tile_dpbsud(2, 4, 7);
      _tile_loadd(5, at + 3 * next, kStride);
      _tile_dpbsud(3, 4, 5);
    }
  }
}

// The last eight of the sixteen query rows: what is kept of the tiles is looked at by halves, as
// the other scans look at their rows.
Scan last_half(const Scan& s) {
  Scan half = s;
  half.half_x += kScanRows;
  half.bound_x += kScanRows;
  half.scale_x += kScanRows;
  half.offset_x += kScanRows;
  if (s.head_units > 0) {
    half.head_half_x += kScanRows;
    half.head_offset_x += kScanRows;
  }
  half.score += kScanRows * kListStride;
  half.column += kScanRows * kListStride;
  half.count += kScanRows;
  return half;
}

struct Sums {
  alignas(64) std::int32_t of_group[2][kTileRows * kGroup];
};

template <Cells cell>
__attribute__((always_inline)) inline void store(Sums& sums) {
  if constexpr (cell == Cells::first) {
    _tile_stored(0, sums.of_group[0], kStride);
    _tile_stored(1, sums.of_group[1], kStride);
  } else {
    _tile_stored(2, sums.of_group[0], kStride);
    _tile_stored(3, sums.of_group[1], kStride);
  }
}

// The scores of one half of the rows of a cell, columns c ... c + 31.
__attribute__((always_inline)) inline void scores(const Scan& s, int c, const Sums& sums, int half,
                                                  const std::int32_t* offset, const float* half_x,
                                                  const float* half_y,
                                                  __m512 (&score)[kScanRows][2]) {
  __m512i sum[kScanRows][2];
#pragma GCC unroll 8
  for (int r = 0; r < kScanRows; ++r) {
    const __m512i of_row = _mm512_set1_epi32(offset[r]);
    const int at = (half * kScanRows + r) * kGroup;
    sum[r][0] = _mm512_add_epi32(_mm512_load_si512(sums.of_group[0] + at), of_row);
    sum[r][1] = _mm512_add_epi32(_mm512_load_si512(sums.of_group[1] + at), of_row);
  }
  scores_of(s, c, sum, half_x, half_y, score);
}

// Which halves of a cell's rows, bit by bit, go on.
template <Cells cell>
int heads_reach(const Scan (&halves)[2], int c) {
  Sums sums;
  store<cell>(sums);
  int reach = 0;
  for (int half = 0; half < 2; ++half) {
    const Scan& s = halves[half];
    __m512 score[kScanRows][2];
    scores(s, c, sums, half, s.head_offset_x, s.head_half_x, s.head_half_y, score);
    reach |= any_reaches(s, c, score) << half;
  }
  return reach;
}

template <Cells cell>
void list(const Scan (&halves)[2], int c, int wanted) {
  Sums sums;
  store<cell>(sums);
  for (int half = 0; half < 2; ++half) {
    if (!(wanted >> half & 1)) continue;
    const Scan& s = halves[half];
    __m512 score[kScanRows][2];
    scores(s, c, sums, half, s.offset_x, s.half_x, s.half_y, score);
    list_hits(s, c, score);
  }
}

// Looks at one cell or two from column c on.
template <bool Head, Cells cells>
void look(const Scan (&halves)[2], int c) {
  const Scan& s = halves[0];
  const std::size_t next = s.units * kGroup, all = (s.units + kStepUnits - 1) / kStepUnits;
  const std::uint32_t* y =
      static_cast<const std::uint32_t*>(s.y) + static_cast<std::size_t>(c) * s.units;
  zero<cells>();
  int first = 3, second = cells == Cells::both ? 3 : 0;
  std::size_t step = 0;
  if constexpr (Head) {
    step = s.head_units / kStepUnits;
    add_steps<cells>(s, y, next, 0, step);
    first = heads_reach<Cells::first>(halves, c);
    if constexpr (cells == Cells::both) second = heads_reach<Cells::second>(halves, c + kScanCols);
    *s.whole += (first != 0) + (second != 0);
  }
  if (first && second)
    add_steps<Cells::both>(s, y, next, step, all);
  else if (first)
    add_steps<Cells::first>(s, y, next, step, all);
  else if (second)
    add_steps<Cells::second>(s, y, next, step, all);
  if (first) list<Cells::first>(halves, c, first);
  if (second) list<Cells::second>(halves, c + kScanCols, second);
}

template <bool Head>
void scan_columns(const Scan& s) {
  const Scan halves[2] = {s, last_half(s)};
  int c = 0;
  for (; c + 2 * kScanCols <= s.columns; c += 2 * kScanCols) look<Head, Cells::both>(halves, c);
  if (c < s.columns) look<Head, Cells::first>(halves, c);
}

void scan_int8_avx512_amx(const Scan& s) {
  _tile_loadconfig(&kConfig);
  turn(s);
  for (int r = 0; r < kTileRows; ++r) s.count[r] = 0;
  if (s.head_units > 0)
    scan_columns<true>(s);
  else
    scan_columns<false>(s);
  // Tiles that are not in use need not be saved when threads change.
  _tile_release();
}

constexpr JoinKernels kKernels = {
    nullptr, scan_int8_avx512_amx, nullptr, nullptr, nullptr, nullptr, nullptr, nullptr, {},
};

}  // namespace

const JoinKernels* avx512_amx_join_kernels() { return &kKernels; }

}  // namespace fastdim
