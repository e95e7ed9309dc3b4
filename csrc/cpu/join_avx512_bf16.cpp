// AVX-512 with BF16. Compiled with those flags: read the warning in kernels.h before adding a line.
#include <immintrin.h>

#include "join_kernels.h"

namespace fastdim {
namespace {

void scan_avx512_bf16(const Scan& s) {
  const std::size_t next = s.units * kGroup;
  const __m512i lanes = _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
  for (int r = 0; r < kScanRows; ++r) s.count[r] = 0;
  for (int c = 0; c < s.columns; c += kScanCols) {
    const std::uint32_t* x = static_cast<const std::uint32_t*>(s.x);
    const std::uint32_t* y =
        static_cast<const std::uint32_t*>(s.y) + static_cast<std::size_t>(c) * s.units;
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
      const __m512bh y0 = (__m512bh)_mm512_load_si512(y);
      const __m512bh y1 = (__m512bh)_mm512_load_si512(y + next);
#pragma GCC unroll 8
      for (int r = 0; r < kScanRows; ++r) {
        const __m512bh pair = (__m512bh)_mm512_set1_epi32(static_cast<int>(x[r]));
        sum[r][0] = _mm512_dpbf16_ps(sum[r][0], pair, y0);
        sum[r][1] = _mm512_dpbf16_ps(sum[r][1], pair, y1);
      }
    }
    const __m512 bound0 = _mm512_load_ps(s.bound_y + c);
    const __m512 bound1 = _mm512_load_ps(s.bound_y + c + kGroup);
    std::uint32_t any = 0, hits[kScanRows];
#pragma GCC unroll 8
    for (int r = 0; r < kScanRows; ++r) {
      const __m512 bound = _mm512_set1_ps(s.bound_x[r]);
      const std::uint32_t low =
          _mm512_cmp_ps_mask(sum[r][0], _mm512_min_ps(bound, bound0), _CMP_GE_OQ);
      const std::uint32_t high =
          _mm512_cmp_ps_mask(sum[r][1], _mm512_min_ps(bound, bound1), _CMP_GE_OQ);
      hits[r] = low | high << 16;
      any |= hits[r];
    }
    if (any == 0) continue;
    // Without a branch a row: which row is hit cannot be foreseen.
    const __m512i place0 = _mm512_add_epi32(_mm512_set1_epi32(c), lanes);
    const __m512i place1 = _mm512_add_epi32(_mm512_set1_epi32(c + kGroup), lanes);
#pragma GCC unroll 8
    for (int r = 0; r < kScanRows; ++r) {
      const __mmask16 low = static_cast<__mmask16>(hits[r]);
      const __mmask16 high = static_cast<__mmask16>(hits[r] >> 16);
      const int first = r * kListStride + s.count[r];
      const int second = first + __builtin_popcount(low);
      _mm512_storeu_ps(s.score + first, _mm512_maskz_compress_ps(low, sum[r][0]));
      _mm512_storeu_si512(s.column + first, _mm512_maskz_compress_epi32(low, place0));
      _mm512_storeu_ps(s.score + second, _mm512_maskz_compress_ps(high, sum[r][1]));
      _mm512_storeu_si512(s.column + second, _mm512_maskz_compress_epi32(high, place1));
      s.count[r] += __builtin_popcount(hits[r]);
    }
  }
}

int whole_avx512_bf16(const Whole& s) {
  int kept = 0;
  for (int i = 0; i < s.count; ++i) {
    const std::int32_t column = s.column[i];
    const std::uint16_t* y = s.y + static_cast<std::size_t>(column) * s.width;
    if (i + 1 < s.count) {
      const std::uint16_t* next = s.y + static_cast<std::size_t>(s.column[i + 1]) * s.width;
      for (std::size_t k = 0; k < s.width; k += kScanCols)
        _mm_prefetch(reinterpret_cast<const char*>(next + k), _MM_HINT_T0);
    }
    // Two sums: one would wait for itself.
    __m512 sum0 = _mm512_setzero_ps(), sum1 = sum0;
    std::size_t k = 0;
    for (; k + 2 * kScanCols <= s.width; k += 2 * kScanCols) {
      sum0 = _mm512_dpbf16_ps(sum0, (__m512bh)_mm512_load_si512(s.x + k),
                              (__m512bh)_mm512_load_si512(y + k));
      sum1 = _mm512_dpbf16_ps(sum1, (__m512bh)_mm512_load_si512(s.x + k + kScanCols),
                              (__m512bh)_mm512_load_si512(y + k + kScanCols));
    }
    if (k < s.width)
      sum0 = _mm512_dpbf16_ps(sum0, (__m512bh)_mm512_load_si512(s.x + k),
                              (__m512bh)_mm512_load_si512(y + k));
    const float product = _mm512_reduce_add_ps(_mm512_add_ps(sum0, sum1));
    const float score = (product - s.half_x) - s.half_y[column];
    const float reach = s.reach_x > s.reach_y[column] ? s.reach_x : s.reach_y[column];
    const float most = reach + s.error_x + s.error_y[column];
    s.column[kept] = column;
    kept += -2.0f * score <= most * most * (1.0f + 0x1p-19f) + 0x1p-98f;
  }
  return kept;
}

constexpr JoinKernels kKernels = {scan_avx512_bf16, nullptr, whole_avx512_bf16, {}};

}  // namespace

const JoinKernels* avx512_bf16_join_kernels() { return &kKernels; }

}  // namespace fastdim
