// AVX-512 F, BW, VL, DQ. Compiled with those flags: read the warning in kernels.h before adding a
// line.
#include <immintrin.h>

#include "kernels.h"

namespace fastdim {
namespace {

constexpr int kRows = 14;
constexpr int kCols = 32;

// Eight elements as float64; the masked form reads only the elements whose bit is set, the others
// are zero.
struct F16 {
  using Element = std::uint16_t;
  static __m512d load(const Element* p) { return load(p, 0xff); }
  static __m512d load(const Element* p, __mmask8 mask) {
    return _mm512_cvtps_pd(_mm256_cvtph_ps(_mm_maskz_loadu_epi16(mask, p)));
  }
};

struct BF16 {
  using Element = std::uint16_t;
  static __m512d load(const Element* p) { return load(p, 0xff); }
  static __m512d load(const Element* p, __mmask8 mask) {
    const __m256i bits =
        _mm256_slli_epi32(_mm256_cvtepu16_epi32(_mm_maskz_loadu_epi16(mask, p)), 16);
    return _mm512_cvtps_pd(_mm256_castsi256_ps(bits));
  }
};

struct F32 {
  using Element = float;
  static __m512d load(const Element* p) { return _mm512_cvtps_pd(_mm256_loadu_ps(p)); }
  static __m512d load(const Element* p, __mmask8 mask) {
    return _mm512_cvtps_pd(_mm256_maskz_loadu_ps(mask, p));
  }
};

struct F64 {
  using Element = double;
  static __m512d load(const Element* p) { return _mm512_loadu_pd(p); }
  static __m512d load(const Element* p, __mmask8 mask) { return _mm512_maskz_loadu_pd(mask, p); }
};

__mmask8 first_lanes(std::size_t count) {
  return static_cast<__mmask8>(count >= 8 ? 0xffu : (1u << count) - 1u);
}

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
  for (; i < d; i += 8) {
    const __mmask8 mask = first_lanes(d - i);
    add(sum[0], Type::load(a + i, mask), Type::load(b + i, mask));
  }
  return total();
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

constexpr Kernels kKernels = {
    kRows,
    kCols,
    product_avx512,
    filter_avx512,
    bin_avx512,
    center_avx512,
    {decode_avx512<F16>, decode_avx512<BF16>, decode_avx512<F32>, decode_avx512<F64>},
    {distance2_avx512<F16>, distance2_avx512<BF16>, distance2_avx512<F32>, distance2_avx512<F64>},
    {dot_avx512<F16>, dot_avx512<BF16>, dot_avx512<F32>, dot_avx512<F64>},
};

}  // namespace

const Kernels* avx512_kernels() { return &kKernels; }

}  // namespace fastdim
