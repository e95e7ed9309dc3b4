// AVX-512 with BF16. Compiled with those flags: read the warning in kernels.h before adding a line.
#include <immintrin.h>

#include "join_kernels.h"

namespace fastdim {
namespace {

bool scan_avx512_bf16(const Scan& s) {
  const std::uint32_t* x = static_cast<const std::uint32_t*>(s.x);
  const std::uint32_t* y = static_cast<const std::uint32_t*>(s.y);
  const std::size_t next = s.units * kGroup;
  const __m512 half0 = _mm512_load_ps(s.half_y), half1 = _mm512_load_ps(s.half_y + kGroup);
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
  const __m512 bound0 = _mm512_load_ps(s.bound_y), bound1 = _mm512_load_ps(s.bound_y + kGroup);
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
  if (any == 0) return false;
#pragma GCC unroll 8
  for (int r = 0; r < kScanRows; ++r) {
    s.hits[r] = hits[r];
    _mm512_store_ps(s.score + r * kScanCols, sum[r][0]);
    _mm512_store_ps(s.score + r * kScanCols + kGroup, sum[r][1]);
  }
  return true;
}

constexpr JoinKernels kKernels = {scan_avx512_bf16, nullptr, {}};

}  // namespace

const JoinKernels* avx512_bf16_join_kernels() { return &kKernels; }

}  // namespace fastdim
