// AVX-512 F, BW, VL, DQ. Compiled with those flags: read the warning in kernels.h before adding a
// line.
#include <immintrin.h>

#include "select_kernels.h"

namespace fastdim {
namespace {

constexpr float kLowest = -__builtin_inff();

inline __mmask16 first16(std::size_t count) {
  return static_cast<__mmask16>(count >= 16 ? 0xffffu : (1u << count) - 1u);
}

inline __mmask8 first8(std::size_t count) {
  return static_cast<__mmask8>(count >= 8 ? 0xffu : (1u << count) - 1u);
}

inline std::size_t ones(std::uint32_t mask) {
  return static_cast<std::size_t>(__builtin_popcount(mask));
}

// Whole numbers in the order of the floats.
inline __m512i key_of(__m512 value) {
  const __m512i bits = _mm512_castps_si512(value);
  return _mm512_mask_blend_epi32(_mm512_movepi32_mask(bits),
                                 _mm512_or_si512(bits, _mm512_set1_epi32(INT32_MIN)),
                                 _mm512_xor_si512(bits, _mm512_set1_epi32(-1)));
}

// The k-th largest bit by bit: the same time for any order of scores.
float kth_by_bits(const float* scores, std::size_t count, std::size_t k) {
  std::uint32_t key = 0;
  for (int bit = 31; bit >= 0; --bit) {
    const std::uint32_t tried = key | 1u << bit;
    const __m512i least = _mm512_set1_epi32(static_cast<std::int32_t>(tried));
    std::size_t reached = 0;
    for (std::size_t i = 0; i < count; i += 16) {
      const __mmask16 mask = first16(count - i);
      const __m512i keys = key_of(_mm512_maskz_loadu_ps(mask, scores + i));
      reached += ones(_mm512_mask_cmpge_epu32_mask(mask, keys, least));
    }
    if (reached >= k) key = tried;
  }
  const std::uint32_t bits = key >> 31 ? key & 0x7fffffffu : ~key;
  return _mm512_cvtss_f32(_mm512_castsi512_ps(_mm512_set1_epi32(static_cast<std::int32_t>(bits))));
}

inline float median(float a, float b, float c) {
  const float low = a < b ? a : b, high = a < b ? b : a;
  return c < low ? low : (c < high ? c : high);
}

// Quickselect: what is above the pivot stays at the front, what is below goes to `other`; both have
// room for count and 16. Where pivots are bad the k-th is found bit by bit.
float kth_of(float* scores, float* other, std::size_t count, std::size_t k) {
  constexpr int most_rounds = 48;
  for (int round = 0; round < most_rounds; ++round) {
    const float pivot = median(scores[0], scores[count / 2], scores[count - 1]);
    const __m512 level = _mm512_set1_ps(pivot);
    std::size_t above = 0, below = 0;
    for (std::size_t i = 0; i < count; i += 16) {
      const __mmask16 mask = first16(count - i);
      const __m512 value = _mm512_maskz_loadu_ps(mask, scores + i);
      const __mmask16 more = _mm512_mask_cmp_ps_mask(mask, value, level, _CMP_GT_OQ);
      const __mmask16 less = _mm512_mask_cmp_ps_mask(mask, value, level, _CMP_LT_OQ);
      // Whole vectors: none reaches beyond what was read already.
      _mm512_storeu_ps(scores + above, _mm512_maskz_compress_ps(more, value));
      _mm512_storeu_ps(other + below, _mm512_maskz_compress_ps(less, value));
      above += ones(more);
      below += ones(less);
    }
    if (k <= above) {
      count = above;
      continue;
    }
    if (k <= count - below) return pivot;
    k -= count - below;
    count = below;
    float* const swapped = scores;
    scores = other;
    other = swapped;
  }
  return kth_by_bits(scores, count, k);
}

float kth_avx512(const Listed& listed, std::size_t k, bool folded, float* room) {
  std::size_t count = 0;
  for (std::size_t i = 0; i < listed.count; i += 16) {
    __mmask16 mask = first16(listed.count - i);
    const __m512 score = _mm512_maskz_loadu_ps(mask, listed.score + i);
    if (folded) {
      const __m512i slot = _mm512_maskz_loadu_epi32(mask, listed.slot + i);
      const __m512 error =
          _mm512_mask_i32gather_ps(_mm512_setzero_ps(), mask, slot, listed.error, 4);
      mask = static_cast<__mmask16>(mask & ~_mm512_movepi32_mask(_mm512_castps_si512(error)));
    }
    _mm512_storeu_ps(room + count, _mm512_maskz_compress_ps(mask, score));
    count += ones(mask);
  }
  return count < k ? kLowest : kth_of(room, room + listed.count + 16, count, k);
}

std::size_t keep_avx512(const Listed& listed, const Within& within) {
  const __m512 base = _mm512_set1_ps(within.reach + within.error_x);
  const __m512 stretch = _mm512_set1_ps(within.stretch);
  const __m512 flushed = _mm512_set1_ps(within.flushed), twice = _mm512_set1_ps(-2.0f);
  std::size_t kept = 0;
  for (std::size_t i = 0; i < listed.count; i += 16) {
    const __mmask16 mask = first16(listed.count - i);
    const __m512 score = _mm512_maskz_loadu_ps(mask, listed.score + i);
    const __m512i slot = _mm512_maskz_loadu_epi32(mask, listed.slot + i);
    const __m512 error = _mm512_mask_i32gather_ps(_mm512_setzero_ps(), mask, slot, listed.error, 4);
    const __m512 sum = _mm512_add_ps(base, error);
    const __m512 limit = _mm512_add_ps(_mm512_mul_ps(_mm512_mul_ps(sum, sum), stretch), flushed);
    const __mmask16 within_it =
        _mm512_mask_cmp_ps_mask(mask, _mm512_mul_ps(twice, score), limit, _CMP_LE_OQ);
    const __mmask16 room = first16(ones(within_it));
    _mm512_mask_storeu_ps(listed.score + kept, room, _mm512_maskz_compress_ps(within_it, score));
    _mm512_mask_storeu_epi32(listed.slot + kept, room,
                             _mm512_maskz_compress_epi32(within_it, slot));
    kept += ones(within_it);
  }
  return kept;
}

std::size_t divide_avx512(const Listed& listed, float kth, float* best_score, std::int32_t* best) {
  const __m512 level = _mm512_set1_ps(kth);
  std::size_t first = 0, rest = 0;
  for (std::size_t i = 0; i < listed.count; i += 16) {
    const __mmask16 mask = first16(listed.count - i);
    const __m512 score = _mm512_maskz_loadu_ps(mask, listed.score + i);
    const __m512i slot = _mm512_maskz_loadu_epi32(mask, listed.slot + i);
    const __m512 error = _mm512_mask_i32gather_ps(_mm512_setzero_ps(), mask, slot, listed.error, 4);
    const __mmask16 moved =
        static_cast<__mmask16>(_mm512_mask_cmp_ps_mask(mask, score, level, _CMP_GE_OQ) &
                               ~_mm512_movepi32_mask(_mm512_castps_si512(error)));
    const __mmask16 left = static_cast<__mmask16>(mask & ~moved);
    _mm512_mask_storeu_ps(best_score + first, first16(ones(moved)),
                          _mm512_maskz_compress_ps(moved, score));
    _mm512_mask_storeu_epi32(best + first, first16(ones(moved)),
                             _mm512_maskz_compress_epi32(moved, slot));
    _mm512_mask_storeu_ps(listed.score + rest, first16(ones(left)),
                          _mm512_maskz_compress_ps(left, score));
    _mm512_mask_storeu_epi32(listed.slot + rest, first16(ones(left)),
                             _mm512_maskz_compress_epi32(left, slot));
    first += ones(moved);
    rest += ones(left);
  }
  return first;
}

// Of each pair how many distances are less, four pairs at a time.
bool order_avx512(const void* pairs, std::size_t count, std::size_t k, double* distances,
                  std::int64_t* numbers) {
  alignas(64) double distance[kMostOrdered];
  const __m512i even = _mm512_setr_epi64(0, 2, 4, 6, 8, 10, 12, 14);
  for (std::size_t i = 0; i < count; i += 8) {
    const std::size_t left = count - i;
    const char* from = static_cast<const char*>(pairs) + 16 * i;
    const __m512d low = _mm512_maskz_loadu_pd(first8(2 * left), from);
    const __m512d high =
        left > 4 ? _mm512_maskz_loadu_pd(first8(2 * left - 8), from + 64) : _mm512_setzero_pd();
    const __m512d both = _mm512_permutex2var_pd(low, even, high);
    _mm512_store_pd(distance + i,
                    _mm512_mask_blend_pd(first8(left), _mm512_set1_pd(__builtin_inf()), both));
  }
  std::size_t sum = 0;
  for (std::size_t i = 0; i < count; i += 4) {
    std::size_t place[4] = {0, 0, 0, 0};
    __m512d mine[4];
    for (int s = 0; s < 4; ++s) mine[s] = _mm512_set1_pd(distance[i + static_cast<std::size_t>(s)]);
    for (std::size_t j = 0; j < count; j += 8) {
      const __m512d other = _mm512_load_pd(distance + j);
      for (int s = 0; s < 4; ++s) place[s] += ones(_mm512_cmp_pd_mask(other, mine[s], _CMP_LT_OQ));
    }
    for (std::size_t s = 0; s < 4 && i + s < count; ++s) {
      sum += place[s];
      if (place[s] >= k) continue;
      distances[place[s]] = distance[i + s];
      __builtin_memcpy(numbers + place[s], static_cast<const char*>(pairs) + 16 * (i + s) + 8, 8);
    }
  }
  // Equal ones have equal places, so that the sum is less.
  return sum == count * (count - 1) / 2;
}

constexpr SelectKernels kKernels = {kth_avx512, keep_avx512, divide_avx512, order_avx512};

}  // namespace

const SelectKernels* avx512_select_kernels() { return &kKernels; }

}  // namespace fastdim
