// AVX-512 with BF16. Compiled with those flags: read the warning in kernels.h before adding a line.
#include <immintrin.h>

#include "join_kernels.h"
#include "scan_avx512.h"

namespace fastdim {
namespace {

// Two bfloat16 in 32 bits.
struct Pair {
  using Unit = std::uint32_t;
  using Vector = __m512bh;
  static Vector load(const Unit* y) { return (__m512bh)_mm512_load_si512(y); }
  static Vector all(Unit x) { return (__m512bh)_mm512_set1_epi32(static_cast<int>(x)); }
  static __m512 add(__m512 sum, Vector x, Vector y) { return _mm512_dpbf16_ps(sum, x, y); }
};

int whole_avx512_bf16(const Whole& s) {
  int kept = 0;
  for (int i = 0; i < s.count; ++i) {
    const std::int32_t column = s.column[i];
    const std::uint16_t* y = s.y + static_cast<std::size_t>(column) * s.width;
    if (i + 1 < s.count) {
      const std::uint16_t* next = s.y + static_cast<std::size_t>(s.column[i + 1]) * s.width;
      for (std::size_t k = 0; k < s.width; k += kScanCols)
        _mm_prefetch(reinterpret_cast<const char*>(next + k), _MM_HINT_T0);
    }
    // Two sums: one would wait for itself.
    __m512 sum0 = _mm512_setzero_ps(), sum1 = sum0;
    std::size_t k = 0;
    for (; k + 2 * kScanCols <= s.width; k += 2 * kScanCols) {
      sum0 = _mm512_dpbf16_ps(sum0, (__m512bh)_mm512_load_si512(s.x + k),
                              (__m512bh)_mm512_load_si512(y + k));
      sum1 = _mm512_dpbf16_ps(sum1, (__m512bh)_mm512_load_si512(s.x + k + kScanCols),
                              (__m512bh)_mm512_load_si512(y + k + kScanCols));
    }
    if (k < s.width)
      sum0 = _mm512_dpbf16_ps(sum0, (__m512bh)_mm512_load_si512(s.x + k),
                              (__m512bh)_mm512_load_si512(y + k));
    const float product = _mm512_reduce_add_ps(_mm512_add_ps(sum0, sum1));
    const float score = (product - s.half_x) - s.half_y[column];
    const float reach = s.reach_x > s.reach_y[column] ? s.reach_x : s.reach_y[column];
    const float most = reach + s.error_x + s.error_y[column];
    s.column[kept] = column;
    kept += -2.0f * score <= most * most * (1.0f + 0x1p-19f) + 0x1p-98f;
  }
  return kept;
}

// By integers as the scalar code rounds: the instruction flushes subnormal numbers to zero.
void round_avx512_bf16(const float* x, std::size_t d, std::uint16_t* out, double* norm2,
                       double* error2) {
  const __m512i one = _mm512_set1_epi32(1), half = _mm512_set1_epi32(0x7fff);
  __m512d norm = _mm512_setzero_pd(), error = norm;
  for (std::size_t k = 0; k < d; k += 16) {
    const __mmask16 there = d - k >= 16 ? 0xffff : static_cast<__mmask16>((1u << (d - k)) - 1u);
    const __m512 value = _mm512_maskz_loadu_ps(there, x + k);
    const __m512i bits = _mm512_castps_si512(value);
    const __m512i odd = _mm512_and_si512(_mm512_srli_epi32(bits, 16), one);
    const __m512i top = _mm512_srli_epi32(_mm512_add_epi32(bits, _mm512_add_epi32(half, odd)), 16);
    _mm256_mask_storeu_epi16(out + k, there, _mm512_cvtepi32_epi16(top));
    const __m512 seen = _mm512_castsi512_ps(_mm512_slli_epi32(top, 16));
    for (int part = 0; part < 2; ++part) {
      const __m256 low = part ? _mm512_extractf32x8_ps(seen, 1) : _mm512_castps512_ps256(seen);
      const __m256 all = part ? _mm512_extractf32x8_ps(value, 1) : _mm512_castps512_ps256(value);
      const __m512d rounded = _mm512_cvtps_pd(low);
      const __m512d gap = _mm512_sub_pd(_mm512_cvtps_pd(all), rounded);
      norm = _mm512_fmadd_pd(rounded, rounded, norm);
      error = _mm512_fmadd_pd(gap, gap, error);
    }
  }
  *norm2 = _mm512_reduce_add_pd(norm);
  *error2 = _mm512_reduce_add_pd(error);
}

constexpr JoinKernels kKernels = {
    scan<Pair>, nullptr,           nullptr,           nullptr, nullptr,
    nullptr,    whole_avx512_bf16, round_avx512_bf16, {},
};

}  // namespace

const JoinKernels* avx512_bf16_join_kernels() { return &kKernels; }

}  // namespace fastdim
