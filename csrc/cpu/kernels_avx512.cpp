// AVX-512 F, BW, VL, DQ. Compiled with those flags: read the warning in kernels.h before adding a
// line.
#include <immintrin.h>

#include "kernels.h"
#include "load_avx512.h"

namespace fastdim {
namespace {

template <std::size_t Block, bool Add>
void product_avx512(const float* a, const float* b, std::size_t d, float* tile) {
  for (std::size_t start = 0; start == 0 || start < d; start += Block) {
    const std::size_t count = d - start < Block ? d - start : Block;
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
        _mm512_store_ps(out,
                        Add || start ? _mm512_add_ps(_mm512_load_ps(out), sum[r][h]) : sum[r][h]);
      }
  }
}

bool filter_avx512(float* tile, const float* row_bound, const float* col_bound,
                   std::uint32_t* hits) {
  const __m512 bound0 = _mm512_load_ps(col_bound);
  const __m512 bound1 = _mm512_load_ps(col_bound + 16);
  std::uint32_t any = 0;
  for (int r = 0; r < kRows; ++r) {
    float* row = tile + r * kCols;
    const __m512 bound = _mm512_set1_ps(row_bound[r]);
    const __m512 v0 = _mm512_sub_ps(_mm512_load_ps(row), bound0);
    const __m512 v1 = _mm512_sub_ps(_mm512_load_ps(row + 16), bound1);
    _mm512_store_ps(row, v0);
    _mm512_store_ps(row + 16, v1);
    const std::uint32_t m0 = _mm512_cmp_ps_mask(v0, bound, _CMP_GE_OQ);
    const std::uint32_t m1 = _mm512_cmp_ps_mask(v1, bound, _CMP_GE_OQ);
    hits[r] = m0 | m1 << 16;
    any |= hits[r];
  }
  return any != 0;
}

void center_avx512(const double* x, double pre, const double* mean, double post, std::size_t d,
                   float* out, double* norm2, double* error2) {
  const __m512d before = _mm512_set1_pd(pre);
  const __m512d after = _mm512_set1_pd(post);
  __m512d norm = _mm512_setzero_pd();
  __m512d error = _mm512_setzero_pd();
  for (std::size_t i = 0; i < d; i += 8) {
    const __mmask8 mask = first_lanes(d - i);
    const __m512d value = _mm512_maskz_loadu_pd(mask, x + i);
    const __m512d center = _mm512_maskz_loadu_pd(mask, mean + i);
    // Two roundings, as the bound assumes: an fma here would also be right, but would differ from
    // the scalar level for no gain.
    const __m512d exact = _mm512_mul_pd(after, _mm512_sub_pd(_mm512_mul_pd(before, value), center));
    const __m256 rounded = _mm512_cvtpd_ps(exact);
    _mm256_mask_storeu_ps(out + i, mask, rounded);
    const __m512d back = _mm512_cvtps_pd(rounded);
    const __m512d gap = _mm512_sub_pd(exact, back);
    norm = _mm512_fmadd_pd(back, back, norm);
    error = _mm512_fmadd_pd(gap, gap, error);
  }
  *norm2 = _mm512_reduce_add_pd(norm);
  *error2 = _mm512_reduce_add_pd(error);
}

template <class Type>
void decode_avx512(const void* x, std::size_t d, double* out) {
  const auto* row = static_cast<const typename Type::Element*>(x);
  for (std::size_t i = 0; i < d; i += 8) {
    const __mmask8 mask = first_lanes(d - i);
    _mm512_mask_storeu_pd(out + i, mask, Type::load(row + i, mask));
  }
}

template <class Type>
double distance2_avx512(const void* x, const void* y, std::size_t d, double scale, double limit) {
  const auto* a = static_cast<const typename Type::Element*>(x);
  const auto* b = static_cast<const typename Type::Element*>(y);
  const __m512d factor = _mm512_set1_pd(scale);
  __m512d sum[4] = {_mm512_setzero_pd(), _mm512_setzero_pd(), _mm512_setzero_pd(),
                    _mm512_setzero_pd()};
  const auto add = [&](__m512d& total, __m512d u, __m512d v) {
    const __m512d gap = _mm512_sub_pd(_mm512_mul_pd(factor, u), _mm512_mul_pd(factor, v));
    total = _mm512_fmadd_pd(gap, gap, total);
  };
  const auto total = [&] {
    return _mm512_reduce_add_pd(
        _mm512_add_pd(_mm512_add_pd(sum[0], sum[1]), _mm512_add_pd(sum[2], sum[3])));
  };
  std::size_t i = 0;
  while (d - i >= 128) {
    for (const std::size_t stop = i + 128; i < stop; i += 32)
      for (int s = 0; s < 4; ++s) add(sum[s], Type::load(a + i + 8 * s), Type::load(b + i + 8 * s));
    const double partial = total();
    if (partial > limit) return partial;
  }
  for (; d - i >= 8; i += 8) add(sum[0], Type::load(a + i), Type::load(b + i));
  if (i < d) {
    const __mmask8 mask = first_lanes(d - i);
    add(sum[0], Type::load(a + i, mask), Type::load(b + i, mask));
  }
  return total();
}

template <class Type>
void distances2_avx512(const void* x, const void* const* rows, std::size_t count, std::size_t d,
                       double scale, double* out) {
  constexpr std::size_t kAhead = 8, kAsked = 512;
  for (std::size_t c = 0; c < count; ++c) {
    // Rows lie anywhere in memory: the first lines of one are asked for in time.
    if (c + kAhead < count) {
      const char* next = static_cast<const char*>(rows[c + kAhead]);
      const std::size_t bytes = d * sizeof(typename Type::Element);
      for (std::size_t byte = 0; byte < bytes && byte < kAsked; byte += 64)
        _mm_prefetch(next + byte, _MM_HINT_T0);
    }
    out[c] = distance2_avx512<Type>(x, rows[c], d, scale, __builtin_inf());
  }
}

constexpr Kernels kKernels = {
    kRows,
    kCols,
    product_avx512<kBlock, false>,
    product_avx512<kShortBlock, true>,
    filter_avx512,
    center_avx512,
    {decode_avx512<F16>, decode_avx512<BF16>, decode_avx512<F32>, decode_avx512<F64>},
    {distance2_avx512<F16>, distance2_avx512<BF16>, distance2_avx512<F32>, distance2_avx512<F64>},
    {distances2_avx512<F16>, distances2_avx512<BF16>, distances2_avx512<F32>,
     distances2_avx512<F64>},
};

}  // namespace

const Kernels* avx512_kernels() { return &kKernels; }

}  // namespace fastdim
