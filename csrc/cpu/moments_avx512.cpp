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
    remove_avx512,
    forms_avx512<float>,
    forms_avx512<std::int32_t>,
};

}  // namespace

const MomentsKernels* avx512_moments_kernels() { return &kKernels; }

}  // namespace fastdim
