// AVX-512 F, BW, VL, DQ. Compiled with those flags: read the warning in kernels.h before adding a
// line.
#include <immintrin.h>

#include "join_kernels.h"
#include "load_avx512.h"

namespace fastdim {
namespace {

bool scan_avx512(const Scan& s) {
  const float* x = static_cast<const float*>(s.x);
  const float* y = static_cast<const float*>(s.y);
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
    const __m512 y0 = _mm512_load_ps(y), y1 = _mm512_load_ps(y + next);
#pragma GCC unroll 8
    for (int r = 0; r < kScanRows; ++r) {
      const __m512 element = _mm512_set1_ps(x[r]);
      sum[r][0] = _mm512_fmadd_ps(element, y0, sum[r][0]);
      sum[r][1] = _mm512_fmadd_ps(element, y1, sum[r][1]);
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

std::uint32_t second_avx512(const Second& s) {
  const __m512 zero = _mm512_setzero_ps();
  const __m512 limit = _mm512_max_ps(_mm512_set1_ps(s.limit_x), _mm512_loadu_ps(s.limit_y));
  const __m512 tail = _mm512_sub_ps(_mm512_set1_ps(s.tail_x), _mm512_loadu_ps(s.tail_y));
  const __m512 tail2 = _mm512_mul_ps(_mm512_set1_ps(1.0f + 0x1p-20f), _mm512_mul_ps(tail, tail));
  const __m512 near2 =
      _mm512_sub_ps(_mm512_mul_ps(_mm512_set1_ps(-2.0f), _mm512_loadu_ps(s.score)), tail2);
  const __m512 near = _mm512_max_ps(
      zero, _mm512_sub_ps(_mm512_sqrt_ps(_mm512_max_ps(zero, near2)), _mm512_set1_ps(s.error)));
  const __m512 rest = _mm512_sub_ps(_mm512_set1_ps(s.rest_x), _mm512_loadu_ps(s.rest_y));
  __m512 sum0 = _mm512_fmadd_ps(near, near, _mm512_mul_ps(rest, rest)), sum1 = zero;
  __mmask16 lanes = static_cast<__mmask16>(s.lanes);
  const float* x = s.x;
  const float* y = s.y;
  std::size_t k = 0;
  for (; k + 2 <= s.width; k += 2, x += 2 * kGroup, y += 2 * kGroup) {
    if (k % 32 == 0) {
      lanes = _mm512_mask_cmp_ps_mask(lanes, _mm512_add_ps(sum0, sum1), limit, _CMP_LE_OQ);
      if (lanes == 0) return 0;
    }
    const __m512 gap0 = _mm512_sub_ps(_mm512_set1_ps(x[0]), _mm512_loadu_ps(y));
    const __m512 gap1 = _mm512_sub_ps(_mm512_set1_ps(x[kGroup]), _mm512_loadu_ps(y + kGroup));
    sum0 = _mm512_fmadd_ps(gap0, gap0, sum0);
    sum1 = _mm512_fmadd_ps(gap1, gap1, sum1);
  }
  if (k < s.width) {
    const __m512 gap = _mm512_sub_ps(_mm512_set1_ps(x[0]), _mm512_loadu_ps(y));
    sum0 = _mm512_fmadd_ps(gap, gap, sum0);
  }
  return _mm512_mask_cmp_ps_mask(lanes, _mm512_add_ps(sum0, sum1), limit, _CMP_LE_OQ);
}

// Sixteen elements as float32; the masked form reads only the elements whose bit is set.
template <class Type>
__m512 load16(const typename Type::Element* p, __mmask16 mask);
template <>
__m512 load16<F16>(const std::uint16_t* p, __mmask16 mask) {
  return _mm512_cvtph_ps(_mm256_maskz_loadu_epi16(mask, p));
}
template <>
__m512 load16<BF16>(const std::uint16_t* p, __mmask16 mask) {
  return _mm512_castsi512_ps(
      _mm512_slli_epi32(_mm512_cvtepu16_epi32(_mm256_maskz_loadu_epi16(mask, p)), 16));
}
template <>
__m512 load16<F32>(const float* p, __mmask16 mask) {
  return _mm512_maskz_loadu_ps(mask, p);
}

template <class Type>
float screen_avx512(const void* x, const void* y, std::size_t d, float limit) {
  const auto* a = static_cast<const typename Type::Element*>(x);
  const auto* b = static_cast<const typename Type::Element*>(y);
  __m512 sum0 = _mm512_setzero_ps(), sum1 = sum0, sum2 = sum0, sum3 = sum0;
  const auto add = [&](__m512& sum, std::size_t i, __mmask16 mask) {
    const __m512 gap = _mm512_sub_ps(load16<Type>(a + i, mask), load16<Type>(b + i, mask));
    sum = _mm512_fmadd_ps(gap, gap, sum);
  };
  const auto total = [&] {
    return _mm512_reduce_add_ps(
        _mm512_add_ps(_mm512_add_ps(sum0, sum1), _mm512_add_ps(sum2, sum3)));
  };
  std::size_t i = 0;
  while (d - i >= 128) {
    for (const std::size_t stop = i + 128; i < stop; i += 64) {
      add(sum0, i, 0xffff);
      add(sum1, i + 16, 0xffff);
      add(sum2, i + 32, 0xffff);
      add(sum3, i + 48, 0xffff);
    }
    const float partial = total();
    if (partial > limit) return partial;
  }
  for (; i < d; i += 16)
    add(sum0, i, static_cast<__mmask16>(d - i >= 16 ? 0xffffu : (1u << (d - i)) - 1u));
  return total();
}

constexpr JoinKernels kKernels = {
    scan_avx512,
    second_avx512,
    {screen_avx512<F16>, screen_avx512<BF16>, screen_avx512<F32>, nullptr},
};

}  // namespace

const JoinKernels* avx512_join_kernels() { return &kKernels; }

}  // namespace fastdim
