// Elements of every number type as float64, for the files of this level alone: everything is local
// to the file that includes it, as kernels.h demands.
#pragma once

#include <immintrin.h>

#include <cstddef>
#include <cstdint>

namespace fastdim {
namespace {

// The tile of Kernels.
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

inline __mmask8 first_lanes(std::size_t count) {
  return static_cast<__mmask8>(count >= 8 ? 0xffu : (1u << count) - 1u);
}

}  // namespace
}  // namespace fastdim
