// Cosines with AVX-512 F, BW, VL, DQ: read the warning in kernels.h before adding a line.
#include <immintrin.h>

#include "cosine_kernels.h"
#include "load_avx512.h"

namespace fastdim {
namespace {

// How two int16, or four bytes, of a row meet those of sixteen columns. Written out: for the
// intrinsics GCC 12 copies the sum before and after.
struct Pairs {
  static void add(__m512i& sum, const __m512i& columns, const __m512i& row) {
    __asm__("vpdpwssd %2, %1, %0" : "+v"(sum) : "v"(columns), "v"(row));
  }
};
struct Bytes {  // with sign on the side of the row alone
  static void add(__m512i& sum, const __m512i& columns, const __m512i& row) {
    __asm__("vpdpbusd %2, %1, %0" : "+v"(sum) : "v"(columns), "v"(row));
  }
};

// Adds the products of `count` groups of four bytes of a panel of rows with those of one of
// columns.
template <class Elements>
__attribute__((always_inline)) inline void add_panels(const void* rows, const void* columns,
                                                      std::size_t count, __m512i (&sum)[kRows][2]) {
  const auto* a = static_cast<const char*>(rows);
  const auto* b = static_cast<const char*>(columns);
  for (std::size_t i = 0; i < count; ++i, a += 4 * kRows, b += 4 * kCols) {
    const __m512i b0 = _mm512_load_si512(b);
    const __m512i b1 = _mm512_load_si512(b + 64);
#pragma GCC unroll 14
    for (int r = 0; r < kRows; ++r) {
      std::int32_t element;
      __builtin_memcpy(&element, a + 4 * r, sizeof element);
      const __m512i all = _mm512_set1_epi32(element);
      Elements::add(sum[r][0], b0, all);
      Elements::add(sum[r][1], b1, all);
    }
  }
}

// Compiled beyond the level's flags: the caller asks the processor first.
__attribute__((target("avx512vnni"))) void product_ints_avx512(const IntPanels& p,
                                                               std::int32_t* tile) {
  __m512i sum[kRows][2];
#pragma GCC unroll 14
  for (int r = 0; r < kRows; ++r) sum[r][0] = sum[r][1] = _mm512_setzero_si512();
  add_panels<Pairs>(p.a, p.b, p.pairs, sum);
  const __m128i shift = _mm_cvtsi32_si128(p.shift);
#pragma GCC unroll 14
  for (int r = 0; r < kRows; ++r) {
    const __m512i start = _mm512_set1_epi32(p.start[r]);
    sum[r][0] = _mm512_add_epi32(start, _mm512_sra_epi32(sum[r][0], shift));
    sum[r][1] = _mm512_add_epi32(start, _mm512_sra_epi32(sum[r][1], shift));
  }
  add_panels<Bytes>(p.a_bytes, p.b_bytes, p.units, sum);
#pragma GCC unroll 14
  for (int r = 0; r < kRows; ++r) {
    _mm512_store_si512(tile + r * kCols, sum[r][0]);
    _mm512_store_si512(tile + r * kCols + 16, sum[r][1]);
  }
}

void extent_avx512(const double* x, std::size_t d, double* norm2, double* largest) {
  __m512d sum = _mm512_setzero_pd();
  __m512d most = _mm512_setzero_pd();
  for (std::size_t i = 0; i < d; i += 8) {
    const __m512d value = F64::load(x + i, first_lanes(d - i));
    sum = _mm512_fmadd_pd(value, value, sum);
    most = _mm512_max_pd(most, _mm512_abs_pd(value));
  }
  *norm2 = _mm512_reduce_add_pd(sum);
  *largest = _mm512_reduce_max_pd(most);
}

double quantize_avx512(const double* x, std::size_t d, double scale, std::int16_t* out) {
  const __m512d factor = _mm512_set1_pd(scale);
  __m512d sum = _mm512_setzero_pd();
  for (std::size_t i = 0; i < d; i += 8) {
    const __mmask8 mask = first_lanes(d - i);
    const __m512d value = _mm512_mul_pd(factor, F64::load(x + i, mask));
    const __m256i rounded = _mm512_cvtpd_epi32(value);
    _mm256_mask_cvtepi32_storeu_epi16(out + i, mask, rounded);
    const __m512d gap = _mm512_sub_pd(value, _mm512_cvtepi32_pd(rounded));
    sum = _mm512_fmadd_pd(gap, gap, sum);
  }
  return _mm512_reduce_add_pd(sum) / (scale * scale);
}

void deflate_avx512(double* x, const double* axes, std::size_t count, std::size_t d,
                    double* places) {
  for (std::size_t k = 0; k < count; ++k) {
    const double* axis = axes + k * d;
    __m512d sum[4] = {_mm512_setzero_pd(), _mm512_setzero_pd(), _mm512_setzero_pd(),
                      _mm512_setzero_pd()};
    std::size_t i = 0;
    for (; d - i >= 32; i += 32)
      for (int s = 0; s < 4; ++s)
        sum[s] = _mm512_fmadd_pd(_mm512_loadu_pd(x + i + 8 * s), _mm512_loadu_pd(axis + i + 8 * s),
                                 sum[s]);
    for (; i < d; i += 8) {
      const __mmask8 mask = first_lanes(d - i);
      sum[0] = _mm512_fmadd_pd(F64::load(x + i, mask), F64::load(axis + i, mask), sum[0]);
    }
    places[k] = _mm512_reduce_add_pd(
        _mm512_add_pd(_mm512_add_pd(sum[0], sum[1]), _mm512_add_pd(sum[2], sum[3])));
  }
  for (std::size_t i = 0; i < d; i += 8) {
    const __mmask8 mask = first_lanes(d - i);
    __m512d value = F64::load(x + i, mask);
    for (std::size_t k = 0; k < count; ++k)
      value = _mm512_fnmadd_pd(_mm512_set1_pd(places[k]), F64::load(axes + k * d + i, mask), value);
    _mm512_mask_storeu_pd(x + i, mask, value);
  }
}

void combine_avx512(const std::int32_t* ints, const float* row_scale, const float* col_scale,
                    float* tile) {
  const __m512 scale0 = _mm512_loadu_ps(col_scale);
  const __m512 scale1 = _mm512_loadu_ps(col_scale + 16);
  for (int r = 0; r < kRows; ++r) {
    const __m512 scale = _mm512_set1_ps(row_scale[r]);
    float* out = tile + r * kCols;
    const __m512 v0 = _mm512_cvtepi32_ps(_mm512_load_si512(ints + r * kCols));
    const __m512 v1 = _mm512_cvtepi32_ps(_mm512_load_si512(ints + r * kCols + 16));
    _mm512_store_ps(out, _mm512_fmadd_ps(_mm512_mul_ps(v0, scale), scale0, _mm512_load_ps(out)));
    _mm512_store_ps(out + 16,
                    _mm512_fmadd_ps(_mm512_mul_ps(v1, scale), scale1, _mm512_load_ps(out + 16)));
  }
}

void bin_avx512(const float* tile, float half_bins, const float* margin, const float* low,
                const float* high, std::int32_t* bins, std::uint32_t* unsure) {
  const __m512 half = _mm512_set1_ps(half_bins);
  const __m512 last = _mm512_set1_ps(2.0f * half_bins - 1.0f);
  const __m512 end = _mm512_set1_ps(2.0f * half_bins - 0.5f);
  const __m512 begin = _mm512_set1_ps(0.5f);
  for (int r = 0; r < kRows; ++r) {
    const __m512 near_edge = _mm512_set1_ps(margin[r]);
    const __m512 lowest = _mm512_set1_ps(low[r]);
    const __m512 highest = _mm512_set1_ps(high[r]);
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
  // Only products of float64 elements can leave the range of float64.
  constexpr bool kScaleFirst = sizeof(typename Type::Element) == 8;
  const auto* a = static_cast<const typename Type::Element*>(x);
  const auto* b = static_cast<const typename Type::Element*>(y);
  const __m512d factor_a = _mm512_set1_pd(x_scale);
  const __m512d factor_b = _mm512_set1_pd(y_scale);
  __m512d sum[2] = {_mm512_setzero_pd(), _mm512_setzero_pd()};
  const auto add = [&](__m512d& total, __m512d u, __m512d v) {
    if (kScaleFirst)
      total = _mm512_fmadd_pd(_mm512_mul_pd(factor_a, u), _mm512_mul_pd(factor_b, v), total);
    else
      total = _mm512_fmadd_pd(u, v, total);
  };
  std::size_t i = 0;
  for (; d - i >= 16; i += 16)
    for (int s = 0; s < 2; ++s) add(sum[s], Type::load(a + i + 8 * s), Type::load(b + i + 8 * s));
  for (; i < d; i += 8) {
    const __mmask8 mask = first_lanes(d - i);
    add(sum[0], Type::load(a + i, mask), Type::load(b + i, mask));
  }
  const double all = _mm512_reduce_add_pd(_mm512_add_pd(sum[0], sum[1]));
  return kScaleFirst ? all : all * (x_scale * y_scale);
}

constexpr CosineKernels kKernels = {
    product_ints_avx512,
    extent_avx512,
    quantize_avx512,
    deflate_avx512,
    combine_avx512,
    bin_avx512,
    {dot_avx512<F16>, dot_avx512<BF16>, dot_avx512<F32>, dot_avx512<F64>},
};

}  // namespace

const CosineKernels* avx512_cosine_kernels() { return &kKernels; }

}  // namespace fastdim
