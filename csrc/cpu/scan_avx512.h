// JoinKernels::scan in 512-bit vectors, over floats or pairs of bfloat16, and what those of int8
// share. Everything is local to the file that includes it, as kernels.h demands.
#pragma once

#include <immintrin.h>

#include "join_kernels.h"

namespace fastdim {
namespace {

// Whether any score of the columns c ... c + 31 reaches a bound.
__attribute__((always_inline)) inline bool any_reaches(const Scan& s, int c,
                                                       const __m512 (&score)[kScanRows][2]) {
  const __m512 bound0 = _mm512_load_ps(s.bound_y + c);
  const __m512 bound1 = _mm512_load_ps(s.bound_y + c + kGroup);
  __mmask16 any = 0;
#pragma GCC unroll 8
  for (int r = 0; r < kScanRows; ++r) {
    const __m512 bound = _mm512_set1_ps(s.bound_x[r]);
    any =
        _kor_mask16(any, _mm512_cmp_ps_mask(score[r][0], _mm512_min_ps(bound, bound0), _CMP_GE_OQ));
    any =
        _kor_mask16(any, _mm512_cmp_ps_mask(score[r][1], _mm512_min_ps(bound, bound1), _CMP_GE_OQ));
  }
  return any != 0;
}

// Lists the scores of the columns c ... c + 31 that reach a bound.
__attribute__((always_inline)) inline void list_hits(const Scan& s, int c,
                                                     const __m512 (&score)[kScanRows][2]) {
  const __m512 bound0 = _mm512_load_ps(s.bound_y + c);
  const __m512 bound1 = _mm512_load_ps(s.bound_y + c + kGroup);
  std::uint32_t any = 0, hits[kScanRows];
#pragma GCC unroll 8
  for (int r = 0; r < kScanRows; ++r) {
    const __m512 bound = _mm512_set1_ps(s.bound_x[r]);
    const std::uint32_t low =
        _mm512_cmp_ps_mask(score[r][0], _mm512_min_ps(bound, bound0), _CMP_GE_OQ);
    const std::uint32_t high =
        _mm512_cmp_ps_mask(score[r][1], _mm512_min_ps(bound, bound1), _CMP_GE_OQ);
    hits[r] = low | high << 16;
    any |= hits[r];
  }
  if (any == 0) return;
  // Without a branch a row: which row is hit cannot be foreseen.
  const __m512i lanes = _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
  const __m512i place0 = _mm512_add_epi32(_mm512_set1_epi32(c), lanes);
  const __m512i place1 = _mm512_add_epi32(_mm512_set1_epi32(c + kGroup), lanes);
#pragma GCC unroll 8
  for (int r = 0; r < kScanRows; ++r) {
    const __mmask16 low = static_cast<__mmask16>(hits[r]);
    const __mmask16 high = static_cast<__mmask16>(hits[r] >> 16);
    const int first = r * kListStride + s.count[r];
    const int second = first + __builtin_popcount(low);
    _mm512_storeu_ps(s.score + first, _mm512_maskz_compress_ps(low, score[r][0]));
    _mm512_storeu_si512(s.column + first, _mm512_maskz_compress_epi32(low, place0));
    _mm512_storeu_ps(s.score + second, _mm512_maskz_compress_ps(high, score[r][1]));
    _mm512_storeu_si512(s.column + second, _mm512_maskz_compress_epi32(high, place1));
    s.count[r] += __builtin_popcount(hits[r]);
  }
}

// The scores of the columns c ... c + 31 from the sums of int8.
__attribute__((always_inline)) inline void scores_of(const Scan& s, int c,
                                                     const __m512i (&sum)[kScanRows][2],
                                                     const float* half_x, const float* half_y,
                                                     __m512 (&score)[kScanRows][2]) {
#pragma GCC unroll 8
  for (int r = 0; r < kScanRows; ++r) {
    const __m512 half = _mm512_set1_ps(-half_x[r]), scale = _mm512_set1_ps(s.scale_x[r]);
#pragma GCC unroll 2
    for (int side = 0; side < 2; ++side) {
      const int at = c + side * kGroup;
      score[r][side] = _mm512_fmadd_ps(_mm512_cvtepi32_ps(sum[r][side]),
                                       _mm512_mul_ps(scale, _mm512_load_ps(s.scale_y + at)),
                                       _mm512_sub_ps(half, _mm512_load_ps(half_y + at)));
    }
  }
}

// Type: Unit, the element of a group; Vector, sixteen of them; load, aligned; all, one in every
// lane; add, the sum with the products of a unit added, in the lane of its row.
template <class Type>
void scan(const Scan& s) {
  using Unit = typename Type::Unit;
  const std::size_t next = s.units * kGroup;
  for (int r = 0; r < kScanRows; ++r) s.count[r] = 0;
  for (int c = 0; c < s.columns; c += kScanCols) {
    const Unit* x = static_cast<const Unit*>(s.x);
    const Unit* y = static_cast<const Unit*>(s.y) + static_cast<std::size_t>(c) * s.units;
    const __m512 half0 = _mm512_load_ps(s.half_y + c);
    const __m512 half1 = _mm512_load_ps(s.half_y + c + kGroup);
    __m512 sum[kScanRows][2];
#pragma GCC unroll 8
    for (int r = 0; r < kScanRows; ++r) {
      const __m512 half = _mm512_set1_ps(-s.half_x[r]);
      sum[r][0] = _mm512_sub_ps(half, half0);
      sum[r][1] = _mm512_sub_ps(half, half1);
    }
    for (std::size_t u = 0; u < s.units; ++u, x += kGroup, y += kGroup) {
      const typename Type::Vector y0 = Type::load(y), y1 = Type::load(y + next);
#pragma GCC unroll 8
      for (int r = 0; r < kScanRows; ++r) {
        const typename Type::Vector unit = Type::all(x[r]);
        sum[r][0] = Type::add(sum[r][0], unit, y0);
        sum[r][1] = Type::add(sum[r][1], unit, y1);
      }
    }
    list_hits(s, c, sum);
  }
}

}  // namespace
}  // namespace fastdim
