// Elements of every number type as float64, for the files of this level alone: everything is local
// to the file that includes it, as kernels.h demands.
#pragma once

#include <immintrin.h>

#include <cstddef>
#include <cstdint>
#include <cstring>

namespace fastdim {
namespace {

// The tile of Kernels.
constexpr int kRows = 6;
constexpr int kCols = 16;

// Four elements as float64.
struct F16 {
  using Element = std::uint16_t;
  static __m256d load(const Element* p) {
    return _mm256_cvtps_pd(_mm_cvtph_ps(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(p))));
  }
};

struct BF16 {
  using Element = std::uint16_t;
  static __m256d load(const Element* p) {
    const __m128i half = _mm_loadl_epi64(reinterpret_cast<const __m128i*>(p));
    const __m128i bits = _mm_slli_epi32(_mm_cvtepu16_epi32(half), 16);
    return _mm256_cvtps_pd(_mm_castsi128_ps(bits));
  }
};

struct F32 {
  using Element = float;
  static __m256d load(const Element* p) { return _mm256_cvtps_pd(_mm_loadu_ps(p)); }
};

struct F64 {
  using Element = double;
  static __m256d load(const Element* p) { return _mm256_loadu_pd(p); }
};

// The last 1 to 3 elements of a row, filled up with zeros.
template <class Type>
__m256d load_tail(const typename Type::Element* p, std::size_t count) {
  typename Type::Element padded[4] = {};
  std::memcpy(padded, p, count * sizeof padded[0]);
  return Type::load(padded);
}

inline double sum_lanes(__m256d v) {
  const __m128d pair = _mm_add_pd(_mm256_castpd256_pd128(v), _mm256_extractf128_pd(v, 1));
  return _mm_cvtsd_f64(_mm_add_sd(pair, _mm_unpackhi_pd(pair, pair)));
}

}  // namespace
}  // namespace fastdim
