// AVX2 with FMA and F16C. Compiled with those flags: read the warning in kernels.h before adding a
// line.
#include <immintrin.h>

#include <cstring>

#include "join_kernels.h"
#include "load_avx2.h"

namespace fastdim {
namespace {

constexpr int kLanes = 8;
constexpr int kPart = 4;  // rows whose sums with one group fit the registers

bool scan_avx2(const Scan& s) {
  const float* rows = static_cast<const float*>(s.x);
  const float* columns = static_cast<const float*>(s.y);
  std::uint32_t any = 0;
  for (int r = 0; r < kScanRows; ++r) s.hits[r] = 0;
  for (int g = 0; g < kScanCols; g += kGroup, columns += s.units * kGroup)
    for (int part = 0; part < kScanRows; part += kPart) {
      const float* x = rows + part;
      const float* y = columns;
      const __m256 half0 = _mm256_load_ps(s.half_y + g);
      const __m256 half1 = _mm256_load_ps(s.half_y + g + kLanes);
      __m256 sum[kPart][2];
#pragma GCC unroll 4
      for (int r = 0; r < kPart; ++r) {
        const __m256 half = _mm256_set1_ps(-s.half_x[part + r]);
        sum[r][0] = _mm256_sub_ps(half, half0);
        sum[r][1] = _mm256_sub_ps(half, half1);
      }
      for (std::size_t u = 0; u < s.units; ++u, x += kGroup, y += kGroup) {
        const __m256 y0 = _mm256_load_ps(y), y1 = _mm256_load_ps(y + kLanes);
#pragma GCC unroll 4
        for (int r = 0; r < kPart; ++r) {
          const __m256 element = _mm256_broadcast_ss(x + r);
          sum[r][0] = _mm256_fmadd_ps(element, y0, sum[r][0]);
          sum[r][1] = _mm256_fmadd_ps(element, y1, sum[r][1]);
        }
      }
      const __m256 bound0 = _mm256_load_ps(s.bound_y + g);
      const __m256 bound1 = _mm256_load_ps(s.bound_y + g + kLanes);
#pragma GCC unroll 4
      for (int r = 0; r < kPart; ++r) {
        const __m256 bound = _mm256_set1_ps(s.bound_x[part + r]);
        const __m256 hit0 = _mm256_cmp_ps(sum[r][0], _mm256_min_ps(bound, bound0), _CMP_GE_OQ);
        const __m256 hit1 = _mm256_cmp_ps(sum[r][1], _mm256_min_ps(bound, bound1), _CMP_GE_OQ);
        const std::uint32_t bits = static_cast<std::uint32_t>(_mm256_movemask_ps(hit0)) |
                                   static_cast<std::uint32_t>(_mm256_movemask_ps(hit1)) << kLanes;
        s.hits[part + r] |= bits << g;
        any |= bits;
        float* out = s.score + (part + r) * kScanCols + g;
        _mm256_store_ps(out, sum[r][0]);
        _mm256_store_ps(out + kLanes, sum[r][1]);
      }
    }
  return any != 0;
}

std::uint32_t second_avx2(const Second& s) {
  const __m256 zero = _mm256_setzero_ps();
  std::uint32_t lanes = s.lanes;
  __m256 limit[2], sum[2];
  for (int h = 0; h < 2; ++h) {
    const int at = h * kLanes;
    limit[h] = _mm256_max_ps(_mm256_set1_ps(s.limit_x), _mm256_loadu_ps(s.limit_y + at));
    const __m256 tail = _mm256_sub_ps(_mm256_set1_ps(s.tail_x), _mm256_loadu_ps(s.tail_y + at));
    const __m256 tail2 = _mm256_mul_ps(_mm256_set1_ps(1.0f + 0x1p-20f), _mm256_mul_ps(tail, tail));
    const __m256 near2 =
        _mm256_sub_ps(_mm256_mul_ps(_mm256_set1_ps(-2.0f), _mm256_loadu_ps(s.score + at)), tail2);
    const __m256 near = _mm256_max_ps(
        zero, _mm256_sub_ps(_mm256_sqrt_ps(_mm256_max_ps(zero, near2)), _mm256_set1_ps(s.error)));
    const __m256 rest = _mm256_sub_ps(_mm256_set1_ps(s.rest_x), _mm256_loadu_ps(s.rest_y + at));
    sum[h] = _mm256_fmadd_ps(near, near, _mm256_mul_ps(rest, rest));
  }
  const auto below = [&] {
    const auto bits = [&](int h) {
      return static_cast<std::uint32_t>(
          _mm256_movemask_ps(_mm256_cmp_ps(sum[h], limit[h], _CMP_LE_OQ)));
    };
    return bits(0) | bits(1) << kLanes;
  };
  const float* x = s.x;
  const float* y = s.y;
  for (std::size_t k = 0; k < s.width; ++k, x += kGroup, y += kGroup) {
    if (k % 32 == 0) {
      lanes &= below();
      if (lanes == 0) return 0;
    }
    const __m256 element = _mm256_broadcast_ss(x);
    const __m256 gap0 = _mm256_sub_ps(element, _mm256_loadu_ps(y));
    const __m256 gap1 = _mm256_sub_ps(element, _mm256_loadu_ps(y + kLanes));
    sum[0] = _mm256_fmadd_ps(gap0, gap0, sum[0]);
    sum[1] = _mm256_fmadd_ps(gap1, gap1, sum[1]);
  }
  return lanes & below();
}

// Eight elements as float32.
template <class Type>
__m256 load8(const typename Type::Element* p);
template <>
__m256 load8<F16>(const std::uint16_t* p) {
  return _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
}
template <>
__m256 load8<BF16>(const std::uint16_t* p) {
  const __m128i half = _mm_loadu_si128(reinterpret_cast<const __m128i*>(p));
  return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(half), 16));
}
template <>
__m256 load8<F32>(const float* p) {
  return _mm256_loadu_ps(p);
}

template <class Type>
float screen_avx2(const void* x, const void* y, std::size_t d, float limit) {
  using Element = typename Type::Element;
  const auto* a = static_cast<const Element*>(x);
  const auto* b = static_cast<const Element*>(y);
  __m256 sum0 = _mm256_setzero_ps(), sum1 = sum0;
  const auto add = [&](__m256& sum, const Element* p, const Element* q) {
    const __m256 gap = _mm256_sub_ps(load8<Type>(p), load8<Type>(q));
    sum = _mm256_fmadd_ps(gap, gap, sum);
  };
  const auto total = [&] {
    alignas(32) float lanes[kLanes];
    _mm256_store_ps(lanes, _mm256_add_ps(sum0, sum1));
    return ((lanes[0] + lanes[4]) + (lanes[1] + lanes[5])) +
           ((lanes[2] + lanes[6]) + (lanes[3] + lanes[7]));
  };
  std::size_t i = 0;
  while (d - i >= 64) {
    for (const std::size_t stop = i + 64; i < stop; i += 16) {
      add(sum0, a + i, b + i);
      add(sum1, a + i + kLanes, b + i + kLanes);
    }
    const float partial = total();
    if (partial > limit) return partial;
  }
  for (; i < d; i += kLanes) {
    const std::size_t count = d - i < kLanes ? d - i : kLanes;
    Element tail[2][kLanes] = {};
    std::memcpy(tail[0], a + i, count * sizeof(Element));
    std::memcpy(tail[1], b + i, count * sizeof(Element));
    add(sum0, tail[0], tail[1]);
  }
  return total();
}

constexpr JoinKernels kKernels = {
    scan_avx2,
    second_avx2,
    {screen_avx2<F16>, screen_avx2<BF16>, screen_avx2<F32>, nullptr},
};

}  // namespace

const JoinKernels* avx2_join_kernels() { return &kKernels; }

}  // namespace fastdim
