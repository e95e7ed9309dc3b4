// AVX2 + FMA + F16C. Compiled with those flags: read the warning in kernels.h before adding a line.
#include <immintrin.h>

#include <cstring>

#include "kernels.h"
#include "load_avx2.h"

namespace fastdim {
namespace {

template <std::size_t Block, bool Add>
void product_avx2(const float* a, const float* b, std::size_t d, float* tile) {
  for (std::size_t start = 0; start == 0 || start < d; start += Block) {
    const std::size_t count = d - start < Block ? d - start : Block;
    const float* pa = a + start * kRows;
    const float* pb = b + start * kCols;
    __m256 sum[kRows][2];
    for (int r = 0; r < kRows; ++r) sum[r][0] = sum[r][1] = _mm256_setzero_ps();
    for (std::size_t i = 0; i < count; ++i, pa += kRows, pb += kCols) {
      const __m256 b0 = _mm256_load_ps(pb);
      const __m256 b1 = _mm256_load_ps(pb + 8);
#pragma GCC unroll 6
      for (int r = 0; r < kRows; ++r) {
        const __m256 element = _mm256_broadcast_ss(pa + r);
        sum[r][0] = _mm256_fmadd_ps(element, b0, sum[r][0]);
        sum[r][1] = _mm256_fmadd_ps(element, b1, sum[r][1]);
      }
    }
    for (int r = 0; r < kRows; ++r)
      for (int h = 0; h < 2; ++h) {
        float* out = tile + r * kCols + h * 8;
        _mm256_store_ps(out,
                        Add || start ? _mm256_add_ps(_mm256_load_ps(out), sum[r][h]) : sum[r][h]);
      }
  }
}

bool filter_avx2(float* tile, const float* row_bound, const float* col_bound, std::uint32_t* hits) {
  const __m256 bound0 = _mm256_load_ps(col_bound);
  const __m256 bound1 = _mm256_load_ps(col_bound + 8);
  std::uint32_t any = 0;
  for (int r = 0; r < kRows; ++r) {
    float* row = tile + r * kCols;
    const __m256 bound = _mm256_set1_ps(row_bound[r]);
    const __m256 v0 = _mm256_sub_ps(_mm256_load_ps(row), bound0);
    const __m256 v1 = _mm256_sub_ps(_mm256_load_ps(row + 8), bound1);
    _mm256_store_ps(row, v0);
    _mm256_store_ps(row + 8, v1);
    const int m0 = _mm256_movemask_ps(_mm256_cmp_ps(v0, bound, _CMP_GE_OQ));
    const int m1 = _mm256_movemask_ps(_mm256_cmp_ps(v1, bound, _CMP_GE_OQ));
    hits[r] = static_cast<std::uint32_t>(m0) | static_cast<std::uint32_t>(m1) << 8;
    any |= hits[r];
  }
  return any != 0;
}

void center_avx2(const double* x, double pre, const double* mean, double post, std::size_t d,
                 float* out, double* norm2, double* error2) {
  const __m256d before = _mm256_set1_pd(pre);
  const __m256d after = _mm256_set1_pd(post);
  __m256d norm = _mm256_setzero_pd();
  __m256d error = _mm256_setzero_pd();
  for (std::size_t i = 0; i < d; i += 4) {
    const std::size_t count = d - i < 4 ? d - i : 4;
    const __m256d value = count == 4 ? _mm256_loadu_pd(x + i) : load_tail<F64>(x + i, count);
    const __m256d center = count == 4 ? _mm256_loadu_pd(mean + i) : load_tail<F64>(mean + i, count);
    // Two roundings, as the bound assumes: an fma here would also be right, but would differ from
    // the scalar level for no gain.
    const __m256d exact = _mm256_mul_pd(after, _mm256_sub_pd(_mm256_mul_pd(before, value), center));
    const __m128 rounded = _mm256_cvtpd_ps(exact);
    if (count == 4) {
      _mm_storeu_ps(out + i, rounded);
    } else {
      float padded[4];
      _mm_storeu_ps(padded, rounded);
      std::memcpy(out + i, padded, count * sizeof(float));
    }
    const __m256d back = _mm256_cvtps_pd(rounded);
    const __m256d gap = _mm256_sub_pd(exact, back);
    norm = _mm256_fmadd_pd(back, back, norm);
    error = _mm256_fmadd_pd(gap, gap, error);
  }
  *norm2 = sum_lanes(norm);
  *error2 = sum_lanes(error);
}

template <class Type>
void decode_avx2(const void* x, std::size_t d, double* out) {
  const auto* row = static_cast<const typename Type::Element*>(x);
  std::size_t i = 0;
  for (; d - i >= 4; i += 4) _mm256_storeu_pd(out + i, Type::load(row + i));
  if (i < d) {
    double padded[4];
    _mm256_storeu_pd(padded, load_tail<Type>(row + i, d - i));
    std::memcpy(out + i, padded, (d - i) * sizeof(double));
  }
}

template <class Type>
double distance2_avx2(const void* x, const void* y, std::size_t d, double scale, double limit) {
  const auto* a = static_cast<const typename Type::Element*>(x);
  const auto* b = static_cast<const typename Type::Element*>(y);
  const __m256d factor = _mm256_set1_pd(scale);
  __m256d sum[4] = {_mm256_setzero_pd(), _mm256_setzero_pd(), _mm256_setzero_pd(),
                    _mm256_setzero_pd()};
  const auto add = [&](__m256d& total, __m256d u, __m256d v) {
    const __m256d gap = _mm256_sub_pd(_mm256_mul_pd(factor, u), _mm256_mul_pd(factor, v));
    total = _mm256_fmadd_pd(gap, gap, total);
  };
  const auto total = [&] {
    return sum_lanes(_mm256_add_pd(_mm256_add_pd(sum[0], sum[1]), _mm256_add_pd(sum[2], sum[3])));
  };
  std::size_t i = 0;
  while (d - i >= 64) {
    for (const std::size_t stop = i + 64; i < stop; i += 16)
      for (int s = 0; s < 4; ++s) add(sum[s], Type::load(a + i + 4 * s), Type::load(b + i + 4 * s));
    const double partial = total();
    if (partial > limit) return partial;
  }
  for (; d - i >= 4; i += 4) add(sum[0], Type::load(a + i), Type::load(b + i));
  if (i < d) add(sum[0], load_tail<Type>(a + i, d - i), load_tail<Type>(b + i, d - i));
  return total();
}

template <class Type>
void distances2_avx2(const void* x, const void* const* rows, std::size_t count, std::size_t d,
                     double scale, double* out) {
  for (std::size_t c = 0; c < count; ++c) {
    out[c] = distance2_avx2<Type>(x, rows[c], d, scale, __builtin_inf());
  }
}

constexpr Kernels kKernels = {
    kRows,
    kCols,
    product_avx2<kBlock, false>,
    product_avx2<kShortBlock, true>,
    filter_avx2,
    center_avx2,
    {decode_avx2<F16>, decode_avx2<BF16>, decode_avx2<F32>, decode_avx2<F64>},
    {distance2_avx2<F16>, distance2_avx2<BF16>, distance2_avx2<F32>, distance2_avx2<F64>},
    {distances2_avx2<F16>, distances2_avx2<BF16>, distances2_avx2<F32>, distances2_avx2<F64>},
};

}  // namespace

const Kernels* avx2_kernels() { return &kKernels; }

}  // namespace fastdim
