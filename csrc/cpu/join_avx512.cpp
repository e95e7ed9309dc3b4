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

// Compiled beyond the level's flags: the caller asks the processor first. The instruction wants
// bytes without sign on one side, which are the columns', and signed ones on the other.
__attribute__((target("avx512vnni"))) void scan_int8_avx512(const Scan& s) {
  const std::size_t next = s.units * kGroup;
  const std::uint32_t* x = static_cast<const std::uint32_t*>(s.x);
  const __m256i sign = _mm256_set1_epi8(-128);
  for (std::size_t u = 0; u < s.units; ++u) {
    const __m256i stored = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(x + u * kGroup));
    _mm256_store_si256(reinterpret_cast<__m256i*>(s.turned + u * kScanRows),
                       _mm256_xor_si256(stored, sign));
  }
  for (int r = 0; r < kScanRows; ++r) s.count[r] = 0;
  for (int c = 0; c < s.columns; c += kScanCols) {
    const std::uint32_t* y =
        static_cast<const std::uint32_t*>(s.y) + static_cast<std::size_t>(c) * s.units;
    __m512i sum[kScanRows][2];
#pragma GCC unroll 8
    for (int r = 0; r < kScanRows; ++r) sum[r][0] = sum[r][1] = _mm512_set1_epi32(s.offset_x[r]);
    const std::uint32_t* turned = s.turned;
    for (std::size_t u = 0; u < s.units; ++u, turned += kScanRows, y += kGroup) {
      const __m512i y0 = _mm512_load_si512(y), y1 = _mm512_load_si512(y + next);
#pragma GCC unroll 8
      for (int r = 0; r < kScanRows; ++r) {
        const __m512i unit = _mm512_set1_epi32(static_cast<int>(turned[r]));
        add_products(sum[r][0], y0, unit);
        add_products(sum[r][1], y1, unit);
      }
    }
    __m512 score[kScanRows][2];
#pragma GCC unroll 8
    for (int r = 0; r < kScanRows; ++r) {
      const __m512 half = _mm512_set1_ps(-s.half_x[r]), scale = _mm512_set1_ps(s.scale_x[r]);
#pragma GCC unroll 2
      for (int side = 0; side < 2; ++side) {
        const int at = c + side * kGroup;
        score[r][side] = _mm512_fmadd_ps(_mm512_cvtepi32_ps(sum[r][side]),
                                         _mm512_mul_ps(scale, _mm512_load_ps(s.scale_y + at)),
                                         _mm512_sub_ps(half, _mm512_load_ps(s.half_y + at)));
      }
    }
    list_hits(s, c, score);
  }
}

int second_avx512(const Second& s) {
  alignas(64) float sums[kListStride], limits[kListStride];
  const __m512 zero = _mm512_setzero_ps();
  int left = 0;
  for (int i = 0; i < s.count; i += kGroup) {
    const int rest_count = s.count - i;
    const __mmask16 here =
        static_cast<__mmask16>(rest_count >= kGroup ? 0xffffu : (1u << rest_count) - 1u);
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
  for (; i < d; i += 16)
    add(sum0, i, static_cast<__mmask16>(d - i >= 16 ? 0xffffu : (1u << (d - i)) - 1u));
  return total();
}

constexpr JoinKernels kKernels = {
    scan<Float32>, scan_int8_avx512,
    second_avx512, nullptr,
    nullptr,       {screen_avx512<F16>, screen_avx512<BF16>, screen_avx512<F32>, nullptr},
};

}  // namespace

const JoinKernels* avx512_join_kernels() { return &kKernels; }

}  // namespace fastdim
