// AVX2 with FMA and F16C. Compiled with those flags: read the warning in kernels.h before adding a
// line.
#include <immintrin.h>

#include <cstring>

#include "join_kernels.h"
#include "load_avx2.h"
#include "second.h"

namespace fastdim {
namespace {

constexpr int kLanes = 8;
constexpr int kPart = 4;  // rows whose sums with one group fit the registers

void scan_avx2(const Scan& s) {
  for (int r = 0; r < kScanRows; ++r) s.count[r] = 0;
  const float* columns = static_cast<const float*>(s.y);
  for (int c = 0; c < s.columns; c += kGroup, columns += s.units * kGroup)
    for (int part = 0; part < kScanRows; part += kPart) {
      const float* x = static_cast<const float*>(s.x) + part;
      const float* y = columns;
      const __m256 half0 = _mm256_load_ps(s.half_y + c);
      const __m256 half1 = _mm256_load_ps(s.half_y + c + kLanes);
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
      const __m256 bound0 = _mm256_load_ps(s.bound_y + c);
      const __m256 bound1 = _mm256_load_ps(s.bound_y + c + kLanes);
#pragma GCC unroll 4
      for (int r = 0; r < kPart; ++r) {
        const __m256 bound = _mm256_set1_ps(s.bound_x[part + r]);
        const __m256 hit0 = _mm256_cmp_ps(sum[r][0], _mm256_min_ps(bound, bound0), _CMP_GE_OQ);
        const __m256 hit1 = _mm256_cmp_ps(sum[r][1], _mm256_min_ps(bound, bound1), _CMP_GE_OQ);
        std::uint32_t hits = static_cast<std::uint32_t>(_mm256_movemask_ps(hit0)) |
                             static_cast<std::uint32_t>(_mm256_movemask_ps(hit1)) << kLanes;
        if (hits == 0) continue;
        alignas(32) float score[kGroup];
        _mm256_store_ps(score, sum[r][0]);
        _mm256_store_ps(score + kLanes, sum[r][1]);
        for (; hits != 0; hits &= hits - 1) {
          const int lane = __builtin_ctz(hits);
          const int at = (part + r) * kListStride + s.count[part + r]++;
          s.score[at] = score[lane];
          s.column[at] = c + lane;
        }
      }
    }
}

float sum_of(__m256 v) {
  alignas(32) float lanes[kLanes];
  _mm256_store_ps(lanes, v);
  return ((lanes[0] + lanes[4]) + (lanes[1] + lanes[5])) +
         ((lanes[2] + lanes[6]) + (lanes[3] + lanes[7]));
}

int second_avx2(const Second& s) {
  alignas(32) float sums[kListStride], limits[kListStride];
  const __m256 zero = _mm256_setzero_ps();
  int left = 0;
  for (int i = 0; i < s.count; i += kLanes) {
    const int here = s.count - i < kLanes ? s.count - i : kLanes;
    alignas(32) std::int32_t column[kLanes] = {};
    alignas(32) float score[kLanes] = {}, part[kLanes], most[kLanes];
    std::memcpy(column, s.column + i, static_cast<std::size_t>(here) * sizeof(std::int32_t));
    std::memcpy(score, s.score + i, static_cast<std::size_t>(here) * sizeof(float));
    const __m256i at = _mm256_load_si256(reinterpret_cast<const __m256i*>(column));
    const __m256 limit =
        _mm256_max_ps(_mm256_set1_ps(s.limit_x), _mm256_i32gather_ps(s.limit_y, at, 4));
    const __m256 error =
        _mm256_add_ps(_mm256_set1_ps(s.error_x), _mm256_i32gather_ps(s.error_y, at, 4));
    const __m256 tail =
        _mm256_sub_ps(_mm256_set1_ps(s.tail_x), _mm256_i32gather_ps(s.tail_y, at, 4));
    const __m256 tail2 = _mm256_mul_ps(_mm256_set1_ps(1.0f + 0x1p-20f), _mm256_mul_ps(tail, tail));
    const __m256 near2 =
        _mm256_sub_ps(_mm256_mul_ps(_mm256_set1_ps(-2.0f), _mm256_load_ps(score)), tail2);
    const __m256 near =
        _mm256_max_ps(zero, _mm256_sub_ps(_mm256_sqrt_ps(_mm256_max_ps(zero, near2)), error));
    const __m256 rest =
        _mm256_sub_ps(_mm256_set1_ps(s.rest_x), _mm256_i32gather_ps(s.rest_y, at, 4));
    _mm256_store_ps(part, _mm256_fmadd_ps(near, near, _mm256_mul_ps(rest, rest)));
    _mm256_store_ps(most, limit);
    for (int lane = 0; lane < here; ++lane) {
      // left <= i + lane: what is overwritten was read.
      s.column[left] = column[lane];
      sums[left] = part[lane];
      limits[left] = most[lane];
      left += part[lane] <= most[lane];
    }
  }
  return keep_within(s, sums, limits, left, [](const float* x, const float* y, std::size_t count) {
    __m256 sum0 = _mm256_setzero_ps(), sum1 = sum0;
    for (std::size_t k = 0; k < count; k += kGroup) {
      const __m256 gap0 = _mm256_sub_ps(_mm256_loadu_ps(x + k), _mm256_loadu_ps(y + k));
      const __m256 gap1 =
          _mm256_sub_ps(_mm256_loadu_ps(x + k + kLanes), _mm256_loadu_ps(y + k + kLanes));
      sum0 = _mm256_fmadd_ps(gap0, gap0, sum0);
      sum1 = _mm256_fmadd_ps(gap1, gap1, sum1);
    }
    return sum_of(_mm256_add_ps(sum0, sum1));
  });
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
  const auto total = [&] { return sum_of(_mm256_add_ps(sum0, sum1)); };
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
    scan_avx2, nullptr, nullptr,
    nullptr,   nullptr, second_avx2,
    nullptr,   nullptr, {screen_avx2<F16>, screen_avx2<BF16>, screen_avx2<F32>, nullptr},
};

}  // namespace

const JoinKernels* avx2_join_kernels() { return &kKernels; }

}  // namespace fastdim
