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

constexpr JoinKernels kKernels = {scan<Pair>, nullptr, whole_avx512_bf16, {}};

}  // namespace

const JoinKernels* avx512_bf16_join_kernels() { return &kKernels; }

}  // namespace fastdim
