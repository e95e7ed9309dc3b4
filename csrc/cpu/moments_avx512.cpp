// Sums over rows with AVX-512 F, BW, VL, DQ: read the warning in kernels.h before adding a line.
#include <immintrin.h>

#include "load_avx512.h"
#include "moments_kernels.h"

namespace fastdim {
namespace {

constexpr std::size_t kWidth = 24;       // of float64 panels
constexpr std::size_t kFloatWidth = 48;  // of float32 panels
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

void gram_avx512(const double* a, const double* b, std::size_t count, double* tile) {
  __m512d sum[kTileRows][3];
#pragma GCC unroll 8
  for (int r = 0; r < kTileRows; ++r) sum[r][0] = sum[r][1] = sum[r][2] = _mm512_setzero_pd();
  for (std::size_t k = 0; k < count; ++k, a += kWidth, b += kWidth) {
    const __m512d b0 = _mm512_loadu_pd(b);
    const __m512d b1 = _mm512_loadu_pd(b + 8);
    const __m512d b2 = _mm512_loadu_pd(b + 16);
#pragma GCC unroll 8
    for (int r = 0; r < kTileRows; ++r) {
      const __m512d element = _mm512_set1_pd(a[r]);
      sum[r][0] = _mm512_fmadd_pd(element, b0, sum[r][0]);
      sum[r][1] = _mm512_fmadd_pd(element, b1, sum[r][1]);
      sum[r][2] = _mm512_fmadd_pd(element, b2, sum[r][2]);
    }
  }
#pragma GCC unroll 8
  for (int r = 0; r < kTileRows; ++r) {
    double* out = tile + static_cast<std::size_t>(r) * kWidth;
    _mm512_storeu_pd(out, sum[r][0]);
    _mm512_storeu_pd(out + 8, sum[r][1]);
    _mm512_storeu_pd(out + 16, sum[r][2]);
  }
}

void add(double* out, __m256 value) {
  _mm512_storeu_pd(out, _mm512_add_pd(_mm512_loadu_pd(out), _mm512_cvtps_pd(value)));
}

void gram_floats_avx512(const float* a, const float* b, std::size_t count, double* tile) {
  for (std::size_t i = 0; i < kTileRows * kFloatWidth; i += 8)
    _mm512_storeu_pd(tile + i, _mm512_setzero_pd());
  for (std::size_t start = 0; start < count; start += kShortBlock) {
    const std::size_t stop = count - start < kShortBlock ? count : start + kShortBlock;
    __m512 sum[kTileRows][3];
#pragma GCC unroll 8
    for (int r = 0; r < kTileRows; ++r) sum[r][0] = sum[r][1] = sum[r][2] = _mm512_setzero_ps();
    for (std::size_t k = start; k < stop; ++k, a += kFloatWidth, b += kFloatWidth) {
      const __m512 b0 = _mm512_loadu_ps(b);
      const __m512 b1 = _mm512_loadu_ps(b + 16);
      const __m512 b2 = _mm512_loadu_ps(b + 32);
#pragma GCC unroll 8
      for (int r = 0; r < kTileRows; ++r) {
        const __m512 element = _mm512_set1_ps(a[r]);
        sum[r][0] = _mm512_fmadd_ps(element, b0, sum[r][0]);
        sum[r][1] = _mm512_fmadd_ps(element, b1, sum[r][1]);
        sum[r][2] = _mm512_fmadd_ps(element, b2, sum[r][2]);
      }
    }
#pragma GCC unroll 8
    for (int r = 0; r < kTileRows; ++r)
#pragma GCC unroll 3
      for (int h = 0; h < 3; ++h) {
        double* out = tile + static_cast<std::size_t>(r) * kFloatWidth + 16 * h;
        add(out, _mm512_castps512_ps256(sum[r][h]));
        add(out + 8, _mm512_extractf32x8_ps(sum[r][h], 1));
      }
  }
}

double dot_avx512(const double* a, const double* b, std::size_t d) {
  __m512d sum[4] = {_mm512_setzero_pd(), _mm512_setzero_pd(), _mm512_setzero_pd(),
                    _mm512_setzero_pd()};
  std::size_t i = 0;
  for (; d - i >= 32; i += 32)
    for (int s = 0; s < 4; ++s)
      sum[s] =
          _mm512_fmadd_pd(_mm512_loadu_pd(a + i + 8 * s), _mm512_loadu_pd(b + i + 8 * s), sum[s]);
  for (; i < d; i += 8) {
    const __mmask8 mask = first_lanes(d - i);
    sum[0] = _mm512_fmadd_pd(F64::load(a + i, mask), F64::load(b + i, mask), sum[0]);
  }
  return _mm512_reduce_add_pd(
      _mm512_add_pd(_mm512_add_pd(sum[0], sum[1]), _mm512_add_pd(sum[2], sum[3])));
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
     gram_avx512},
    {kFloatWidth,
     kTileRows,
     {pack_avx512<F16, kFloatWidth>, pack_avx512<BF16, kFloatWidth>, pack_avx512<F32, kFloatWidth>,
      pack_avx512<F64, kFloatWidth>},
     gram_floats_avx512},
    dot_avx512,
    remove_avx512,
    forms_avx512<float>,
    forms_avx512<std::int32_t>,
};

}  // namespace

const MomentsKernels* avx512_moments_kernels() { return &kKernels; }

}  // namespace fastdim
