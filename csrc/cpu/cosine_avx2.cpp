// Cosines with AVX2 + FMA + F16C: read the warning in kernels.h before adding a line.
#include <immintrin.h>

#include "cosine_kernels.h"
#include "load_avx2.h"

namespace fastdim {
namespace {

void bin_avx2(const float* tile, float half_bins, const float* margin, const float* low,
              const float* high, std::int32_t* bins, std::uint32_t* unsure) {
  const __m256 half = _mm256_set1_ps(half_bins);
  const __m256 last = _mm256_set1_ps(2.0f * half_bins - 1.0f);
  const __m256 end = _mm256_set1_ps(2.0f * half_bins - 0.5f);
  const __m256 begin = _mm256_set1_ps(0.5f);
  const __m256 sign = _mm256_set1_ps(-0.0f);
  for (int r = 0; r < kRows; ++r) {
    const __m256 near_edge = _mm256_set1_ps(margin[r]);
    std::uint32_t mask = 0;
    for (int h = 0; h < 2; ++h) {
      const __m256 cosine = _mm256_load_ps(tile + r * kCols + h * 8);
      const __m256 position = _mm256_fmadd_ps(cosine, half, half);
      const __m256 edge = _mm256_round_ps(position, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
      const __m256 gap = _mm256_andnot_ps(sign, _mm256_sub_ps(position, edge));
      __m256 flag = _mm256_cmp_ps(gap, near_edge, _CMP_LE_OQ);
      flag = _mm256_and_ps(flag, _mm256_cmp_ps(edge, begin, _CMP_GT_OQ));
      flag = _mm256_and_ps(flag, _mm256_cmp_ps(edge, end, _CMP_LT_OQ));
      flag = _mm256_or_ps(flag, _mm256_cmp_ps(cosine, _mm256_set1_ps(low[r]), _CMP_LE_OQ));
      flag = _mm256_or_ps(flag, _mm256_cmp_ps(cosine, _mm256_set1_ps(high[r]), _CMP_GE_OQ));
      mask |= static_cast<std::uint32_t>(_mm256_movemask_ps(flag)) << (8 * h);
      const __m256 clipped = _mm256_min_ps(_mm256_max_ps(position, _mm256_setzero_ps()), last);
      _mm256_store_si256(reinterpret_cast<__m256i*>(bins + r * kCols + h * 8),
                         _mm256_cvttps_epi32(clipped));
    }
    unsure[r] = mask;
  }
}

template <class Type>
double dot_avx2(const void* x, const void* y, std::size_t d, double x_scale, double y_scale) {
  // Only products of float64 elements can leave the range of float64.
  constexpr bool kScaleFirst = sizeof(typename Type::Element) == 8;
  const auto* a = static_cast<const typename Type::Element*>(x);
  const auto* b = static_cast<const typename Type::Element*>(y);
  const __m256d factor_a = _mm256_set1_pd(x_scale);
  const __m256d factor_b = _mm256_set1_pd(y_scale);
  __m256d sum[2] = {_mm256_setzero_pd(), _mm256_setzero_pd()};
  const auto add = [&](__m256d& total, __m256d u, __m256d v) {
    if (kScaleFirst)
      total = _mm256_fmadd_pd(_mm256_mul_pd(factor_a, u), _mm256_mul_pd(factor_b, v), total);
    else
      total = _mm256_fmadd_pd(u, v, total);
  };
  std::size_t i = 0;
  for (; d - i >= 8; i += 8)
    for (int s = 0; s < 2; ++s) add(sum[s], Type::load(a + i + 4 * s), Type::load(b + i + 4 * s));
  for (; d - i >= 4; i += 4) add(sum[0], Type::load(a + i), Type::load(b + i));
  if (i < d) add(sum[0], load_tail<Type>(a + i, d - i), load_tail<Type>(b + i, d - i));
  const double all = sum_lanes(_mm256_add_pd(sum[0], sum[1]));
  return kScaleFirst ? all : all * (x_scale * y_scale);
}

constexpr CosineKernels kKernels = {
    nullptr,
    nullptr,
    nullptr,
    nullptr,
    nullptr,
    bin_avx2,
    {dot_avx2<F16>, dot_avx2<BF16>, dot_avx2<F32>, dot_avx2<F64>},
};

}  // namespace

const CosineKernels* avx2_cosine_kernels() { return &kKernels; }

}  // namespace fastdim
