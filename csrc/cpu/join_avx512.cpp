// AVX-512 F, BW, VL, DQ. Compiled with those flags: read the warning in kernels.h before adding a
// line.
#include <immintrin.h>

#include "join_kernels.h"
#include "load_avx512.h"
#include "scan_avx512.h"
#include "second.h"

namespace fastdim {
namespace {

struct Float32 {
  using Unit = float;
  using Vector = __m512;
  static Vector load(const Unit* y) { return _mm512_load_ps(y); }
  static Vector all(Unit x) { return _mm512_set1_ps(x); }
  static __m512 add(__m512 sum, Vector x, Vector y) { return _mm512_fmadd_ps(x, y, sum); }
};

// Adds the products of the bytes of y without sign with the signed ones of `unit`. Written
// out: for the intrinsic GCC 12 copies the sum before and after, 32 moves to 16 products.
__attribute__((always_inline)) inline void add_products(__m512i& sum, const __m512i& y,
                                                        const __m512i& unit) {
  __asm__("vpdpbusd %2, %1, %0" : "+v"(sum) : "v"(y), "v"(unit));
}

// Adds the products of units from `turned` and `y` on, up to `stop`.
__attribute__((always_inline)) inline void add_units(__m512i (&sum)[kScanRows][2],
                                                     const std::uint32_t*& turned,
                                                     const std::uint32_t*& y, std::size_t next,
                                                     const std::uint32_t* stop) {
  for (; turned < stop; turned += kScanRows, y += kGroup) {
    const __m512i y0 = _mm512_load_si512(y), y1 = _mm512_load_si512(y + next);
#pragma GCC unroll 8
    for (int r = 0; r < kScanRows; ++r) {
      const __m512i unit = _mm512_set1_epi32(static_cast<int>(turned[r]));
      add_products(sum[r][0], y0, unit);
      add_products(sum[r][1], y1, unit);
    }
  }
}

template <bool Head>
__attribute__((always_inline)) inline void scan_int8(const Scan& s) {
  const std::size_t next = s.units * kGroup;
  const std::uint32_t* end = s.turned + s.units * kScanRows;
  for (int c = 0; c < s.columns; c += kScanCols) {
    const std::uint32_t* turned = s.turned;
    const std::uint32_t* y =
        static_cast<const std::uint32_t*>(s.y) + static_cast<std::size_t>(c) * s.units;
    __m512i sum[kScanRows][2];
    __m512 score[kScanRows][2];
    const std::int32_t* offset = Head ? s.head_offset_x : s.offset_x;
#pragma GCC unroll 8
    for (int r = 0; r < kScanRows; ++r) sum[r][0] = sum[r][1] = _mm512_set1_epi32(offset[r]);
    if constexpr (Head) {
      add_units(sum, turned, y, next, s.turned + s.head_units * kScanRows);
      scores_of(s, c, sum, s.head_half_x, s.head_half_y, score);
      if (!any_reaches(s, c, score)) continue;
      ++*s.whole;
#pragma GCC unroll 8
      for (int r = 0; r < kScanRows; ++r) {
        const __m512i rest = _mm512_set1_epi32(s.offset_x[r] - offset[r]);
        sum[r][0] = _mm512_add_epi32(sum[r][0], rest);
        sum[r][1] = _mm512_add_epi32(sum[r][1], rest);
      }
    }
    add_units(sum, turned, y, next, end);
    scores_of(s, c, sum, s.half_x, s.half_y, score);
    list_hits(s, c, score);
  }
}

// Compiled beyond the level's flags: the caller asks the processor first. The instruction wants
// bytes without sign on one side, which are the columns', and signed ones on the other.
__attribute__((target("avx512vnni"))) void scan_int8_avx512(const Scan& s) {
  const std::uint32_t* x = static_cast<const std::uint32_t*>(s.x);
  const __m256i sign = _mm256_set1_epi8(-128);
  for (std::size_t u = 0; u < s.units; ++u) {
    const __m256i stored = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(x + u * kGroup));
    _mm256_store_si256(reinterpret_cast<__m256i*>(s.turned + u * kScanRows),
                       _mm256_xor_si256(stored, sign));
  }
  for (int r = 0; r < kScanRows; ++r) s.count[r] = 0;
  if (s.head_units > 0)
    scan_int8<true>(s);
  else
    scan_int8<false>(s);
}

// The lanes below `count`.
__mmask16 first16(std::size_t count) {
  return static_cast<__mmask16>(count >= 16 ? 0xffffu : (1u << count) - 1u);
}

// Sums over the sixteen lanes of four vectors.
__attribute__((always_inline)) inline __m128i four_sums(__m512i a, __m512i b, __m512i c,
                                                        __m512i d) {
  const __m512i ab = _mm512_add_epi32(_mm512_unpacklo_epi32(a, b), _mm512_unpackhi_epi32(a, b));
  const __m512i cd = _mm512_add_epi32(_mm512_unpacklo_epi32(c, d), _mm512_unpackhi_epi32(c, d));
  const __m512i all =
      _mm512_add_epi32(_mm512_unpacklo_epi64(ab, cd), _mm512_unpackhi_epi64(ab, cd));
  const __m256i half =
      _mm256_add_epi32(_mm512_castsi512_si256(all), _mm512_extracti32x8_epi32(all, 1));
  return _mm_add_epi32(_mm256_castsi256_si128(half), _mm256_extracti128_si256(half, 1));
}

__attribute__((target("avx512vnni"))) int rough_avx512(const Rough& s) {
  const int ahead = s.width <= 1024 ? 8 : 4;  // rows asked for in time
  alignas(64) std::int32_t sums[kListStride];
  const __m512i sign = _mm512_set1_epi8(-128);
  const auto row = [&](int i) {
    return s.y + static_cast<std::size_t>(s.column[i < s.count ? i : s.count - 1]) * s.width;
  };
  for (int i = 0; i < s.count; i += 4) {
    for (int next = i + ahead; next < i + ahead + 4 && next < s.count; ++next)
      for (std::size_t k = 0; k < s.width; k += 64)
        _mm_prefetch(reinterpret_cast<const char*>(row(next) + k), _MM_HINT_T0);
    const std::uint8_t *y0 = row(i), *y1 = row(i + 1), *y2 = row(i + 2), *y3 = row(i + 3);
    __m512i sum0 = _mm512_setzero_si512(), sum1 = sum0, sum2 = sum0, sum3 = sum0;
    for (std::size_t k = 0; k < s.width; k += 64) {
      const __m512i unit = _mm512_xor_si512(_mm512_load_si512(s.x + k), sign);
      add_products(sum0, _mm512_load_si512(y0 + k), unit);
      add_products(sum1, _mm512_load_si512(y1 + k), unit);
      add_products(sum2, _mm512_load_si512(y2 + k), unit);
      add_products(sum3, _mm512_load_si512(y3 + k), unit);
    }
    _mm_store_si128(reinterpret_cast<__m128i*>(sums + i), four_sums(sum0, sum1, sum2, sum3));
  }
  int left = 0;
  for (int i = 0; i < s.count; i += kGroup) {
    const __mmask16 here = first16(static_cast<std::size_t>(s.count - i));
    const __m512i column = _mm512_maskz_loadu_epi32(here, s.column + i);
    const __m512i sum =
        _mm512_add_epi32(_mm512_maskz_loadu_epi32(here, sums + i), _mm512_set1_epi32(s.offset_x));
    const __m512 scale =
        _mm512_mul_ps(_mm512_set1_ps(s.scale_x), _mm512_i32gather_ps(column, s.scale_y, 4));
    const __m512 halves =
        _mm512_sub_ps(_mm512_set1_ps(-s.half_x), _mm512_i32gather_ps(column, s.half_y, 4));
    const __m512 score = _mm512_fmadd_ps(_mm512_cvtepi32_ps(sum), scale, halves);
    const __m512 reach =
        _mm512_max_ps(_mm512_set1_ps(s.reach_x), _mm512_i32gather_ps(column, s.reach_y, 4));
    const __m512 most = _mm512_add_ps(_mm512_add_ps(reach, _mm512_set1_ps(s.error_x)),
                                      _mm512_i32gather_ps(column, s.error_y, 4));
    const __m512 limit = _mm512_fmadd_ps(_mm512_mul_ps(most, most), _mm512_set1_ps(1.0f + 0x1p-19f),
                                         _mm512_set1_ps(s.flushed));
    const __mmask16 kept = _mm512_mask_cmp_ps_mask(
        here, _mm512_mul_ps(_mm512_set1_ps(-2.0f), score), limit, _CMP_LE_OQ);
    const __m512 scanned = _mm512_maskz_loadu_ps(here, s.score + i);
    // left <= i: what is overwritten was read.
    _mm512_storeu_ps(s.score + left, _mm512_maskz_compress_ps(kept, scanned));
    _mm512_storeu_si512(s.column + left, _mm512_maskz_compress_epi32(kept, column));
    left += __builtin_popcount(kept);
  }
  return left;
}

float turn_avx512(float* values, std::size_t count, bool transform) {
  // Lengths that are squares of powers of two: what they are divided by is one then.
  std::size_t size = 4;
  float factor = transform ? 0.5f : 1.0f;
  for (; size < kMostTurned && count % (4 * size) == 0; size *= 4)
    if (transform) factor *= 0.5f;
  // Two of the log2(size) steps, an even number, at each pass: a pass waits for the stores of the
  // one before it.
  for (std::size_t step = count / size; transform && step < count; step *= 4)
    for (std::size_t from = 0; from < count; from += 4 * step)
      for (std::size_t i = from; i < from + step; i += 16) {
        const __mmask16 there = first16(from + step - i);
        const auto at = [&](std::size_t part) {
          return _mm512_maskz_loadu_ps(there, values + i + part * step);
        };
        const __m512 a = _mm512_add_ps(at(0), at(1)), b = _mm512_sub_ps(at(0), at(1));
        const __m512 c = _mm512_add_ps(at(2), at(3)), d = _mm512_sub_ps(at(2), at(3));
        _mm512_mask_storeu_ps(values + i, there, _mm512_add_ps(a, c));
        _mm512_mask_storeu_ps(values + i + step, there, _mm512_add_ps(b, d));
        _mm512_mask_storeu_ps(values + i + 2 * step, there, _mm512_sub_ps(a, c));
        _mm512_mask_storeu_ps(values + i + 3 * step, there, _mm512_sub_ps(b, d));
      }
  __m512 most = _mm512_setzero_ps();
  for (std::size_t i = 0; i < count; i += 16) {
    const __mmask16 there = first16(count - i);
    const __m512 value =
        _mm512_mul_ps(_mm512_set1_ps(factor), _mm512_maskz_loadu_ps(there, values + i));
    _mm512_mask_storeu_ps(values + i, there, value);
    most = _mm512_max_ps(most, _mm512_abs_ps(value));
  }
  return _mm512_reduce_max_ps(most);
}

void quantize_avx512(const float* values, std::size_t count, float scale, std::uint8_t* out,
                     std::int32_t* sum, std::int32_t* sum2, float* error2) {
  // Below, the quotient could leave the range of float32: all elements are 0 then.
  const __m512 factor = _mm512_set1_ps(scale >= 0x1p-120f ? 1.0f / scale : 0.0f);
  const __m512i most = _mm512_set1_epi32(127), least = _mm512_set1_epi32(-127);
  __m512i total = _mm512_setzero_si512(), squares = total;
  __m512 error = _mm512_setzero_ps();
  for (std::size_t i = 0; i < count; i += 16) {
    const __mmask16 there = first16(count - i);
    const __m512 value = _mm512_maskz_loadu_ps(there, values + i);
    const __m512i nearest = _mm512_cvtps_epi32(_mm512_mul_ps(value, factor));
    const __m512i whole = _mm512_max_epi32(least, _mm512_min_epi32(most, nearest));
    const __m512 gap = _mm512_fnmadd_ps(_mm512_cvtepi32_ps(whole), _mm512_set1_ps(scale), value);
    error = _mm512_fmadd_ps(gap, gap, error);
    total = _mm512_add_epi32(total, whole);
    squares = _mm512_add_epi32(squares, _mm512_mullo_epi32(whole, whole));
    _mm_mask_storeu_epi8(out + i, there,
                         _mm512_cvtepi32_epi8(_mm512_add_epi32(whole, _mm512_set1_epi32(128))));
  }
  *sum = _mm512_reduce_add_epi32(total);
  *sum2 = _mm512_reduce_add_epi32(squares);
  *error2 = _mm512_reduce_add_ps(error);
}

int second_avx512(const Second& s) {
  alignas(64) float sums[kListStride], limits[kListStride];
  const __m512 zero = _mm512_setzero_ps();
  int left = 0;
  for (int i = 0; i < s.count; i += kGroup) {
    const __mmask16 here = first16(static_cast<std::size_t>(s.count - i));
    const __m512i column = _mm512_maskz_loadu_epi32(here, s.column + i);
    const __m512 limit_y = _mm512_i32gather_ps(column, s.limit_y, 4);
    const __m512 tail_y = _mm512_i32gather_ps(column, s.tail_y, 4);
    const __m512 rest_y = _mm512_i32gather_ps(column, s.rest_y, 4);
    const __m512 error =
        _mm512_add_ps(_mm512_set1_ps(s.error_x), _mm512_i32gather_ps(column, s.error_y, 4));
    const __m512 limit = _mm512_max_ps(_mm512_set1_ps(s.limit_x), limit_y);
    const __m512 tail = _mm512_sub_ps(_mm512_set1_ps(s.tail_x), tail_y);
    const __m512 tail2 = _mm512_mul_ps(_mm512_set1_ps(1.0f + 0x1p-20f), _mm512_mul_ps(tail, tail));
    const __m512 score = _mm512_maskz_loadu_ps(here, s.score + i);
    const __m512 near2 = _mm512_sub_ps(_mm512_mul_ps(_mm512_set1_ps(-2.0f), score), tail2);
    const __m512 near =
        _mm512_max_ps(zero, _mm512_sub_ps(_mm512_sqrt_ps(_mm512_max_ps(zero, near2)), error));
    const __m512 rest = _mm512_sub_ps(_mm512_set1_ps(s.rest_x), rest_y);
    const __m512 sum = _mm512_fmadd_ps(near, near, _mm512_mul_ps(rest, rest));
    const __mmask16 kept = _mm512_mask_cmp_ps_mask(here, sum, limit, _CMP_LE_OQ);
    _mm512_storeu_ps(sums + left, _mm512_maskz_compress_ps(kept, sum));
    _mm512_storeu_ps(limits + left, _mm512_maskz_compress_ps(kept, limit));
    // left <= i: what is overwritten was read.
    _mm512_storeu_si512(s.column + left, _mm512_maskz_compress_epi32(kept, column));
    left += __builtin_popcount(kept);
  }
  return keep_within(s, sums, limits, left, [](const float* x, const float* y, std::size_t count) {
    __m512 sum = _mm512_setzero_ps();
    for (std::size_t k = 0; k < count; k += kGroup) {
      const __m512 gap = _mm512_sub_ps(_mm512_loadu_ps(x + k), _mm512_loadu_ps(y + k));
      sum = _mm512_fmadd_ps(gap, gap, sum);
    }
    return _mm512_reduce_add_ps(sum);
  });
}

// Sixteen elements as float32; the masked form reads only the elements whose bit is set.
template <class Type>
__m512 load16(const typename Type::Element* p, __mmask16 mask);
template <>
__m512 load16<F16>(const std::uint16_t* p, __mmask16 mask) {
  return _mm512_cvtph_ps(_mm256_maskz_loadu_epi16(mask, p));
}
template <>
__m512 load16<BF16>(const std::uint16_t* p, __mmask16 mask) {
  return _mm512_castsi512_ps(
      _mm512_slli_epi32(_mm512_cvtepu16_epi32(_mm256_maskz_loadu_epi16(mask, p)), 16));
}
template <>
__m512 load16<F32>(const float* p, __mmask16 mask) {
  return _mm512_maskz_loadu_ps(mask, p);
}

template <class Type>
float screen_avx512(const void* x, const void* y, std::size_t d, float limit) {
  const auto* a = static_cast<const typename Type::Element*>(x);
  const auto* b = static_cast<const typename Type::Element*>(y);
  __m512 sum0 = _mm512_setzero_ps(), sum1 = sum0, sum2 = sum0, sum3 = sum0;
  const auto add = [&](__m512& sum, std::size_t i, __mmask16 mask) {
    const __m512 gap = _mm512_sub_ps(load16<Type>(a + i, mask), load16<Type>(b + i, mask));
    sum = _mm512_fmadd_ps(gap, gap, sum);
  };
  const auto total = [&] {
    return _mm512_reduce_add_ps(
        _mm512_add_ps(_mm512_add_ps(sum0, sum1), _mm512_add_ps(sum2, sum3)));
  };
  std::size_t i = 0;
  while (d - i >= 128) {
    for (const std::size_t stop = i + 128; i < stop; i += 64) {
      add(sum0, i, 0xffff);
      add(sum1, i + 16, 0xffff);
      add(sum2, i + 32, 0xffff);
      add(sum3, i + 48, 0xffff);
    }
    const float partial = total();
    if (partial > limit) return partial;
  }
  for (; i < d; i += 16) add(sum0, i, first16(d - i));
  return total();
}

constexpr JoinKernels kKernels = {
    scan<Float32>,
    scan_int8_avx512,
    rough_avx512,
    turn_avx512,
    quantize_avx512,
    second_avx512,
    nullptr,
    nullptr,
    {screen_avx512<F16>, screen_avx512<BF16>, screen_avx512<F32>, nullptr},
};

}  // namespace

const JoinKernels* avx512_join_kernels() { return &kKernels; }

}  // namespace fastdim
