// Sums over rows with AVX-512 F, BW, VL, DQ: read the warning in kernels.h before adding a line.
#include <immintrin.h>

#include "load_avx512.h"
#include "moments_kernels.h"
#include "moments_tiles.h"

namespace fastdim {
namespace {

constexpr std::size_t kWidth = 24;       // of float64 panels: 3 vectors
constexpr std::size_t kFloatWidth = 48;  // of float32 panels: likewise
constexpr int kTileRows = 8;

void store(double* out, __m512d value) { _mm512_storeu_pd(out, value); }
void store(float* out, __m512d value) { _mm256_storeu_ps(out, _mm512_cvtpd_ps(value)); }

template <class Type, std::size_t Width, class Value>
void pack_avx512(const void* x, std::size_t d, double scale, const double* shift, std::size_t panel,
                 Value* out) {
  const auto* row = static_cast<const typename Type::Element*>(x);
  const __m512d factor = _mm512_set1_pd(scale);
  for (std::size_t start = 0; start < d; start += Width, out += panel)
    for (std::size_t i = 0; i < Width; i += 8) {
      const std::size_t c = start + i;
      const __mmask8 mask = c < d ? first_lanes(d - c) : 0;
      const __m512d value = mask == 0xff ? Type::load(row + c) : Type::load(row + c, mask);
      const __m512d center = _mm512_maskz_loadu_pd(mask, shift + c);
      store(out + i, _mm512_sub_pd(_mm512_mul_pd(factor, value), center));
    }
}

// Elements side by side.
struct Doubles {
  using Element = double;
  using Vector = __m512d;
  static constexpr std::size_t lanes = 8;
  static Vector zero() { return _mm512_setzero_pd(); }
  static Vector load(const Element* p) { return _mm512_loadu_pd(p); }
  static Vector all(const Element* p) { return _mm512_set1_pd(*p); }
  static Vector add(Vector a, Vector b, Vector sum) { return _mm512_fmadd_pd(a, b, sum); }
  static void keep(double* out, Vector sum) { store(out, sum); }
};

void add_to(double* out, __m256 value) {
  _mm512_storeu_pd(out, _mm512_add_pd(_mm512_loadu_pd(out), _mm512_cvtps_pd(value)));
}

struct Floats {
  using Element = float;
  using Vector = __m512;
  static constexpr std::size_t lanes = 16;
  static Vector zero() { return _mm512_setzero_ps(); }
  static Vector load(const Element* p) { return _mm512_loadu_ps(p); }
  static Vector all(const Element* p) { return _mm512_set1_ps(*p); }
  static Vector add(Vector a, Vector b, Vector sum) { return _mm512_fmadd_ps(a, b, sum); }
  static void keep(double* out, Vector sum) {
    add_to(out, _mm512_castps512_ps256(sum));
    add_to(out + 8, _mm512_extractf32x8_ps(sum, 1));
  }
};

template <class Type>
double dot_avx512(const double* a, const typename Type::Element* b, std::size_t d) {
  __m512d sum[4] = {_mm512_setzero_pd(), _mm512_setzero_pd(), _mm512_setzero_pd(),
                    _mm512_setzero_pd()};
  std::size_t i = 0;
  for (; d - i >= 32; i += 32)
    for (int s = 0; s < 4; ++s)
      sum[s] = _mm512_fmadd_pd(_mm512_loadu_pd(a + i + 8 * s), Type::load(b + i + 8 * s), sum[s]);
  for (; i < d; i += 8) {
    const __mmask8 mask = first_lanes(d - i);
    sum[0] = _mm512_fmadd_pd(F64::load(a + i, mask), Type::load(b + i, mask), sum[0]);
  }
  return _mm512_reduce_add_pd(
      _mm512_add_pd(_mm512_add_pd(sum[0], sum[1]), _mm512_add_pd(sum[2], sum[3])));
}

// The factors that make whole numbers of sixteen columns of a panel.
__m512 factors_of(const float* column, std::size_t count) {
  __m512 most = _mm512_setzero_ps(), norm2 = _mm512_setzero_ps();
  for (std::size_t k = 0; k < count; ++k) {
    const __m512 value = _mm512_loadu_ps(column + k * kFloatWidth);
    most = _mm512_max_ps(most, _mm512_abs_ps(value));
    norm2 = _mm512_fmadd_ps(value, value, norm2);
  }
  // Squares that may have left the range of float32 say nothing: then no length is more than this.
  const __mmask16 sure = _mm512_cmp_ps_mask(norm2, _mm512_set1_ps(0x1p-80f), _CMP_GE_OQ) &
                         _mm512_cmp_ps_mask(norm2, _mm512_set1_ps(0x1p120f), _CMP_LE_OQ);
  const __m512 least =
      _mm512_mul_ps(most, _mm512_sqrt_ps(_mm512_set1_ps(static_cast<float>(count))));
  const __m512 norm = _mm512_mask_mov_ps(least, sure, _mm512_sqrt_ps(norm2));
  // Rounding adds at most sqrt(kLongBlock) / 2 = 8 to the length; 2 more pay for these lines, whose
  // sums of squares are good to 2^-15.
  const __m512 factor = _mm512_min_ps(_mm512_div_ps(_mm512_set1_ps(46330.0f), norm),
                                      _mm512_div_ps(_mm512_set1_ps(32766.0f), most));
  const __mmask16 there = _mm512_cmp_ps_mask(most, _mm512_set1_ps(0x1p-100f), _CMP_GE_OQ);
  return _mm512_maskz_mov_ps(there, factor);
}

void round_columns_avx512(const float* rows, std::size_t count, double* unit, std::int16_t* out) {
  for (std::size_t h = 0; h < kFloatWidth; h += 16) {
    const __m512 factor = factors_of(rows + h, count);
    alignas(64) float factors[16];
    _mm512_store_ps(factors, factor);
    for (std::size_t c = 0; c < 16; ++c)
      unit[h + c] = factors[c] > 0.0f ? 1.0 / static_cast<double>(factors[c]) : 0.0;
    for (std::size_t k = 0; k < count; k += 2) {
      const float* row = rows + k * kFloatWidth + h;
      const __m512i first = _mm512_cvtps_epi32(_mm512_mul_ps(factor, _mm512_loadu_ps(row)));
      const __m512i second =
          k + 1 < count
              ? _mm512_cvtps_epi32(_mm512_mul_ps(factor, _mm512_loadu_ps(row + kFloatWidth)))
              : _mm512_setzero_si512();
      const __m512i low = _mm512_and_si512(first, _mm512_set1_epi32(0xffff));
      _mm512_storeu_si512(out + k * kFloatWidth + 2 * h,
                          _mm512_or_si512(low, _mm512_slli_epi32(second, 16)));
    }
  }
}

// Compiled beyond the level's flags: the caller asks the processor first.
__attribute__((target("avx512vnni"))) void gram_ints_avx512(const std::int16_t* a,
                                                            const std::int16_t* b,
                                                            std::size_t pairs, const double* unit_a,
                                                            const double* unit_b, double* tile) {
  __m512i sum[kTileRows][3];
#pragma GCC unroll 8
  for (int r = 0; r < kTileRows; ++r) sum[r][0] = sum[r][1] = sum[r][2] = _mm512_setzero_si512();
  for (std::size_t k = 0; k < pairs; ++k, a += 2 * kFloatWidth, b += 2 * kFloatWidth) {
    const __m512i b0 = _mm512_loadu_si512(b);
    const __m512i b1 = _mm512_loadu_si512(b + 32);
    const __m512i b2 = _mm512_loadu_si512(b + 64);
#pragma GCC unroll 8
    for (int r = 0; r < kTileRows; ++r) {
      std::int32_t element;
      __builtin_memcpy(&element, a + 2 * r, sizeof element);
      const __m512i all = _mm512_set1_epi32(element);
      // Written out: for the intrinsics GCC 12 copies the sum before and after.
      __asm__("vpdpwssd %2, %1, %0" : "+v"(sum[r][0]) : "v"(b0), "v"(all));
      __asm__("vpdpwssd %2, %1, %0" : "+v"(sum[r][1]) : "v"(b1), "v"(all));
      __asm__("vpdpwssd %2, %1, %0" : "+v"(sum[r][2]) : "v"(b2), "v"(all));
    }
  }
#pragma GCC unroll 8
  for (int r = 0; r < kTileRows; ++r) {
    const __m512d row = _mm512_set1_pd(unit_a[r]);
#pragma GCC unroll 3
    for (int h = 0; h < 3; ++h) {
      double* out = tile + r * static_cast<int>(kFloatWidth) + 16 * h;
      const __m512d low = _mm512_cvtepi32_pd(_mm512_castsi512_si256(sum[r][h]));
      const __m512d high = _mm512_cvtepi32_pd(_mm512_extracti32x8_epi32(sum[r][h], 1));
      _mm512_storeu_pd(out,
                       _mm512_mul_pd(low, _mm512_mul_pd(row, _mm512_loadu_pd(unit_b + 16 * h))));
      _mm512_storeu_pd(
          out + 8, _mm512_mul_pd(high, _mm512_mul_pd(row, _mm512_loadu_pd(unit_b + 16 * h + 8))));
    }
  }
}

double remove_avx512(double* row, const double* axis, double z, std::size_t d) {
  const __m512d factor = _mm512_set1_pd(z);
  __m512d sum[2] = {_mm512_setzero_pd(), _mm512_setzero_pd()};
  for (std::size_t i = 0; i < d; i += 8) {
    const __mmask8 mask = first_lanes(d - i);
    const __m512d left =
        _mm512_fnmadd_pd(factor, F64::load(axis + i, mask), F64::load(row + i, mask));
    _mm512_mask_storeu_pd(row + i, mask, left);
    sum[i / 8 % 2] = _mm512_fmadd_pd(left, left, sum[i / 8 % 2]);
  }
  return _mm512_reduce_add_pd(_mm512_add_pd(sum[0], sum[1]));
}

__m512 load_values(const float* p) { return _mm512_loadu_ps(p); }
__m512 load_values(const std::int32_t* p) { return _mm512_cvtepi32_ps(_mm512_loadu_si512(p)); }

template <class Element>
void forms_avx512(const Element* tile, const float* weights, float* out) {
  const __m512 first0 = _mm512_loadu_ps(weights);
  const __m512 first1 = _mm512_loadu_ps(weights + 16);
  const __m512 second0 = _mm512_loadu_ps(weights + kCols);
  const __m512 second1 = _mm512_loadu_ps(weights + kCols + 16);
  for (int r = 0; r < kRows; ++r) {
    const __m512 v0 = load_values(tile + r * kCols);
    const __m512 v1 = load_values(tile + r * kCols + 16);
    const __m512 q0 = _mm512_mul_ps(v0, v0);
    const __m512 q1 = _mm512_mul_ps(v1, v1);
    out[2 * r] = _mm512_reduce_add_ps(_mm512_fmadd_ps(q0, first0, _mm512_mul_ps(q1, first1)));
    out[2 * r + 1] = _mm512_reduce_add_ps(_mm512_fmadd_ps(q0, second0, _mm512_mul_ps(q1, second1)));
  }
}

constexpr MomentsKernels kKernels = {
    {kWidth,
     kTileRows,
     {pack_avx512<F16, kWidth>, pack_avx512<BF16, kWidth>, pack_avx512<F32, kWidth>,
      pack_avx512<F64, kWidth>},
     keep_products<Doubles, kTileRows>},
    {kFloatWidth,
     kTileRows,
     {pack_avx512<F16, kFloatWidth>, pack_avx512<BF16, kFloatWidth>, pack_avx512<F32, kFloatWidth>,
      pack_avx512<F64, kFloatWidth>},
     add_blocks<Floats, kTileRows, kShortBlock>},
    {kFloatWidth,
     kTileRows,
     {pack_avx512<F16, kFloatWidth>, pack_avx512<BF16, kFloatWidth>, pack_avx512<F32, kFloatWidth>,
      pack_avx512<F64, kFloatWidth>},
     add_blocks<Floats, kTileRows, kLongBlock>},
    dot_avx512<F64>,
    dot_avx512<F32>,
    bilinear<Floats>,
    round_columns_avx512,
    gram_ints_avx512,
    remove_avx512,
    forms_avx512<float>,
    forms_avx512<std::int32_t>,
};

}  // namespace

const MomentsKernels* avx512_moments_kernels() { return &kKernels; }

}  // namespace fastdim
