// Sums over rows with AVX2 + FMA + F16C: read the warning in kernels.h before adding a line.
#include <immintrin.h>

#include "load_avx2.h"
#include "moments_kernels.h"
#include "moments_tiles.h"

namespace fastdim {
namespace {

constexpr std::size_t kWidth = 12;       // of float64 panels: 3 vectors
constexpr std::size_t kFloatWidth = 24;  // of float32 panels: likewise
constexpr int kTileRows = 4;

void store(double* out, __m256d value) { _mm256_storeu_pd(out, value); }
void store(float* out, __m256d value) { _mm_storeu_ps(out, _mm256_cvtpd_ps(value)); }

template <class Type>
__m256d load_part(const typename Type::Element* p, std::size_t count) {
  if (count >= 4) return Type::load(p);
  return count ? load_tail<Type>(p, count) : _mm256_setzero_pd();
}

template <class Type, std::size_t Width, class Value>
void pack_avx2(const void* x, std::size_t d, double scale, const double* shift, std::size_t panel,
               Value* out) {
  const auto* row = static_cast<const typename Type::Element*>(x);
  const __m256d factor = _mm256_set1_pd(scale);
  for (std::size_t start = 0; start < d; start += Width, out += panel)
    for (std::size_t i = 0; i < Width; i += 4) {
      const std::size_t c = start + i, count = c < d ? d - c : 0;
      const __m256d value = load_part<Type>(row + c, count);
      const __m256d center = load_part<F64>(shift + c, count);
      store(out + i, _mm256_sub_pd(_mm256_mul_pd(factor, value), center));
    }
}

// Elements side by side.
struct Doubles {
  using Element = double;
  using Vector = __m256d;
  static constexpr std::size_t lanes = 4;
  static Vector zero() { return _mm256_setzero_pd(); }
  static Vector load(const Element* p) { return _mm256_loadu_pd(p); }
  static Vector all(const Element* p) { return _mm256_broadcast_sd(p); }
  static Vector add(Vector a, Vector b, Vector sum) { return _mm256_fmadd_pd(a, b, sum); }
  static void keep(double* out, Vector sum) { store(out, sum); }
};

void add_to(double* out, __m128 value) {
  _mm256_storeu_pd(out, _mm256_add_pd(_mm256_loadu_pd(out), _mm256_cvtps_pd(value)));
}

struct Floats {
  using Element = float;
  using Vector = __m256;
  static constexpr std::size_t lanes = 8;
  static Vector zero() { return _mm256_setzero_ps(); }
  static Vector load(const Element* p) { return _mm256_loadu_ps(p); }
  static Vector all(const Element* p) { return _mm256_broadcast_ss(p); }
  static Vector add(Vector a, Vector b, Vector sum) { return _mm256_fmadd_ps(a, b, sum); }
  static void keep(double* out, Vector sum) {
    add_to(out, _mm256_castps256_ps128(sum));
    add_to(out + 4, _mm256_extractf128_ps(sum, 1));
  }
};

double sum_doubles(__m256d v) {
  const __m128d half = _mm_add_pd(_mm256_castpd256_pd128(v), _mm256_extractf128_pd(v, 1));
  return _mm_cvtsd_f64(_mm_add_sd(half, _mm_unpackhi_pd(half, half)));
}

template <class Type>
double dot_avx2(const double* a, const typename Type::Element* b, std::size_t d) {
  __m256d sum[4] = {_mm256_setzero_pd(), _mm256_setzero_pd(), _mm256_setzero_pd(),
                    _mm256_setzero_pd()};
  std::size_t i = 0;
  for (; d - i >= 16; i += 16)
    for (int s = 0; s < 4; ++s)
      sum[s] = _mm256_fmadd_pd(_mm256_loadu_pd(a + i + 4 * s), Type::load(b + i + 4 * s), sum[s]);
  for (; i < d; i += 4)
    sum[0] = _mm256_fmadd_pd(load_part<F64>(a + i, d - i), load_part<Type>(b + i, d - i), sum[0]);
  return sum_doubles(_mm256_add_pd(_mm256_add_pd(sum[0], sum[1]), _mm256_add_pd(sum[2], sum[3])));
}

double remove_avx2(double* row, const double* axis, double z, std::size_t d) {
  const __m256d factor = _mm256_set1_pd(z);
  std::size_t i = 0;
  for (; d - i >= 4; i += 4)
    _mm256_storeu_pd(row + i,
                     _mm256_fnmadd_pd(factor, _mm256_loadu_pd(axis + i), _mm256_loadu_pd(row + i)));
  for (; i < d; ++i) row[i] -= z * axis[i];
  return dot_avx2<F64>(row, row, d);
}

__m256 load_values(const float* p) { return _mm256_loadu_ps(p); }
__m256 load_values(const std::int32_t* p) {
  return _mm256_cvtepi32_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)));
}

float sum_floats(__m256 v) {
  __m128 half = _mm_add_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps(v, 1));
  half = _mm_add_ps(half, _mm_movehl_ps(half, half));
  return _mm_cvtss_f32(_mm_add_ss(half, _mm_movehdup_ps(half)));
}

template <class Element>
void forms_avx2(const Element* tile, const float* weights, float* out) {
  for (int r = 0; r < kRows; ++r) {
    const __m256 v0 = load_values(tile + r * kCols);
    const __m256 v1 = load_values(tile + r * kCols + 8);
    const __m256 q0 = _mm256_mul_ps(v0, v0);
    const __m256 q1 = _mm256_mul_ps(v1, v1);
    for (int s = 0; s < 2; ++s) {
      const float* w = weights + s * kCols;
      out[2 * r + s] = sum_floats(
          _mm256_fmadd_ps(q0, _mm256_loadu_ps(w), _mm256_mul_ps(q1, _mm256_loadu_ps(w + 8))));
    }
  }
}

constexpr MomentsKernels kKernels = {
    {kWidth,
     kTileRows,
     {pack_avx2<F16, kWidth>, pack_avx2<BF16, kWidth>, pack_avx2<F32, kWidth>,
      pack_avx2<F64, kWidth>},
     keep_products<Doubles, kTileRows>},
    {kFloatWidth,
     kTileRows,
     {pack_avx2<F16, kFloatWidth>, pack_avx2<BF16, kFloatWidth>, pack_avx2<F32, kFloatWidth>,
      pack_avx2<F64, kFloatWidth>},
     add_blocks<Floats, kTileRows, kShortBlock>},
    {kFloatWidth,
     kTileRows,
     {pack_avx2<F16, kFloatWidth>, pack_avx2<BF16, kFloatWidth>, pack_avx2<F32, kFloatWidth>,
      pack_avx2<F64, kFloatWidth>},
     add_blocks<Floats, kTileRows, kLongBlock>},
    dot_avx2<F64>,
    dot_avx2<F32>,
    bilinear<Floats>,
    nullptr,
    nullptr,
    remove_avx2,
    forms_avx2<float>,
    forms_avx2<std::int32_t>,
};

}  // namespace

const MomentsKernels* avx2_moments_kernels() { return &kKernels; }

}  // namespace fastdim
