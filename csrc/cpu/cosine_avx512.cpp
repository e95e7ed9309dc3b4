// Cosines with AVX-512 F, BW, VL, DQ: read the warning in kernels.h before adding a line.
#include <immintrin.h>

#include "cosine_kernels.h"
#include "load_avx512.h"

namespace fastdim {
namespace {

constexpr int kRows = 14;
constexpr int kCols = 32;

void product_avx512(const float* a, const float* b, std::size_t d, float* tile) {
  for (std::size_t start = 0; start == 0 || start < d; start += kBlock) {
    const std::size_t count = d - start < kBlock ? d - start : kBlock;
    const float* pa = a + start * kRows;
    const float* pb = b + start * kCols;
    __m512 sum[kRows][2];
    for (int r = 0; r < kRows; ++r) sum[r][0] = sum[r][1] = _mm512_setzero_ps();
    for (std::size_t i = 0; i < count; ++i, pa += kRows, pb += kCols) {
      const __m512 b0 = _mm512_load_ps(pb);
      const __m512 b1 = _mm512_load_ps(pb + 16);
#pragma GCC unroll 14
      for (int r = 0; r < kRows; ++r) {
        const __m512 element = _mm512_set1_ps(pa[r]);
        sum[r][0] = _mm512_fmadd_ps(element, b0, sum[r][0]);
        sum[r][1] = _mm512_fmadd_ps(element, b1, sum[r][1]);
      }
    }
    for (int r = 0; r < kRows; ++r)
      for (int h = 0; h < 2; ++h) {
        float* out = tile + r * kCols + h * 16;
        _mm512_store_ps(out, start ? _mm512_add_ps(_mm512_load_ps(out), sum[r][h]) : sum[r][h]);
      }
  }
}

void bin_avx512(const float* tile, float half_bins, float margin, float low, float high,
                std::int32_t* bins, std::uint32_t* unsure) {
  const __m512 half = _mm512_set1_ps(half_bins);
  const __m512 near_edge = _mm512_set1_ps(margin);
  const __m512 last = _mm512_set1_ps(2.0f * half_bins - 1.0f);
  const __m512 end = _mm512_set1_ps(2.0f * half_bins - 0.5f);
  const __m512 begin = _mm512_set1_ps(0.5f);
  const __m512 lowest = _mm512_set1_ps(low);
  const __m512 highest = _mm512_set1_ps(high);
  for (int r = 0; r < kRows; ++r) {
    std::uint32_t mask = 0;
    for (int h = 0; h < 2; ++h) {
      const __m512 cosine = _mm512_load_ps(tile + r * kCols + h * 16);
      const __m512 position = _mm512_fmadd_ps(cosine, half, half);
      const __m512 edge = _mm512_roundscale_ps(position, 0);  // to the nearest integer
      const __m512 gap = _mm512_abs_ps(_mm512_sub_ps(position, edge));
      __mmask16 flag = _mm512_cmp_ps_mask(gap, near_edge, _CMP_LE_OQ);
      flag = _mm512_mask_cmp_ps_mask(flag, edge, begin, _CMP_GT_OQ);
      flag = _mm512_mask_cmp_ps_mask(flag, edge, end, _CMP_LT_OQ);
      const __mmask16 extreme =
          static_cast<__mmask16>(_mm512_cmp_ps_mask(cosine, lowest, _CMP_LE_OQ) |
                                 _mm512_cmp_ps_mask(cosine, highest, _CMP_GE_OQ));
      mask |= (static_cast<std::uint32_t>(flag) | extreme) << (16 * h);
      const __m512 clipped = _mm512_min_ps(_mm512_max_ps(position, _mm512_setzero_ps()), last);
      _mm512_store_si512(bins + r * kCols + h * 16, _mm512_cvttps_epi32(clipped));
    }
    unsure[r] = mask;
  }
}

template <class Type>
double dot_avx512(const void* x, const void* y, std::size_t d, double x_scale, double y_scale) {
  const auto* a = static_cast<const typename Type::Element*>(x);
  const auto* b = static_cast<const typename Type::Element*>(y);
  const __m512d factor_a = _mm512_set1_pd(x_scale);
  const __m512d factor_b = _mm512_set1_pd(y_scale);
  __m512d sum[2] = {_mm512_setzero_pd(), _mm512_setzero_pd()};
  const auto add = [&](__m512d& total, __m512d u, __m512d v) {
    total = _mm512_fmadd_pd(_mm512_mul_pd(factor_a, u), _mm512_mul_pd(factor_b, v), total);
  };
  std::size_t i = 0;
  for (; d - i >= 16; i += 16)
    for (int s = 0; s < 2; ++s) add(sum[s], Type::load(a + i + 8 * s), Type::load(b + i + 8 * s));
  for (; i < d; i += 8) {
    const __mmask8 mask = first_lanes(d - i);
    add(sum[0], Type::load(a + i, mask), Type::load(b + i, mask));
  }
  return _mm512_reduce_add_pd(_mm512_add_pd(sum[0], sum[1]));
}

constexpr CosineKernels kKernels = {
    kRows,
    kCols,
    product_avx512,
    bin_avx512,
    {dot_avx512<F16>, dot_avx512<BF16>, dot_avx512<F32>, dot_avx512<F64>},
};

}  // namespace

const CosineKernels* avx512_cosine_kernels() { return &kKernels; }

}  // namespace fastdim
