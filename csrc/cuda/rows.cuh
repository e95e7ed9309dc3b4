// Rows as the filter reads them: means, scale, 16-bit values and the constants of the bound.
#pragma once

#include "knn.h"

namespace fastdim::cuda {
namespace {

struct Float16 {
  std::uint16_t bits;
};
struct BFloat16 {
  std::uint16_t bits;
};
__device__ __forceinline__ double decode(Float16 v) { return simt::from_half(v.bits); }
__device__ __forceinline__ double decode(BFloat16 v) { return simt::from_bfloat(v.bits); }
__device__ __forceinline__ double decode(float v) { return v; }
__device__ __forceinline__ double decode(double v) { return v; }

// What the host asks of the device without waiting for it, and what a row's bound needs.
struct Global {
  unsigned long long largest;    // bits of the largest |x - mean|
  unsigned long long coarse;     // rows that float16 rounds badly
  unsigned long long uncertain;  // rows to be searched again
};
struct RowBound {
  double norm2;  // (1 - g) |a|^2
  double error;  // e_x
};

constexpr double kSlack = 0x1p-9;  // t
constexpr int kWarps = 8;          // warps of a block of the kernels that give a row to a warp
// The filter takes the columns in slices of this many values at most.
constexpr std::int64_t kColumns = 64;

__device__ __forceinline__ double margin(std::int64_t d) {
  // One term more than the sums have: h may be added at the end (symmetric.cuh).
  return 1.5 * static_cast<double>((d + kColumns - 1) / kColumns * kColumns + 1) * 0x1p-23;
}
__device__ __forceinline__ double underflow(std::int64_t d) {
  return static_cast<double>(d) * 0x1p-120;
}
// A power of two that brings the largest value to 2^14..2^15, within float16.
__device__ __forceinline__ double scale_of(const Global* global) {
  const double largest = simt::from_bits(global->largest);
  return largest > 0 ? ldexp(1.0, 14 - ilogb(largest)) : 1.0;
}

__device__ __forceinline__ double warp_sum(double v) {
  for (int mask = 16; mask > 0; mask >>= 1) v += simt::shuffle_xor(v, mask);
  return v;
}

// Sum, minimum and maximum of each column over one part of the rows; parts x 3 x d.
template <class T>
__global__ void column_parts(const T* data, std::int64_t n, std::int64_t d, std::int64_t row_stride,
                             int parts, double* out) {
  const std::int64_t column_blocks = (d + blockDim.x - 1) / blockDim.x;
  const std::int64_t part = blockIdx.x / column_blocks;
  const std::int64_t column = blockIdx.x % column_blocks * blockDim.x + threadIdx.x;
  if (column >= d) return;
  const std::int64_t first = part * n / parts, last = (part + 1) * n / parts;
  double sum = 0, low = HUGE_VAL, high = -HUGE_VAL;
#pragma unroll 4
  for (std::int64_t i = first; i < last; ++i) {
    const double v = decode(data[i * row_stride + column]);
    sum += v;
    low = fmin(low, v);
    high = fmax(high, v);
  }
  double* at = out + part * 3 * d + column;
  at[0] = sum;
  at[d] = low;
  at[2 * d] = high;
}

__global__ void column_means(const double* parts, int count, std::int64_t n, std::int64_t d,
                             double* mean, Global* global) {
  const std::int64_t column = static_cast<std::int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
  if (column >= d) return;
  double sum = 0, low = HUGE_VAL, high = -HUGE_VAL;
#pragma unroll 4
  for (int p = 0; p < count; ++p) {
    const double* at = parts + p * 3 * d + column;
    sum += at[0];
    low = fmin(low, at[d]);
    high = fmax(high, at[2 * d]);
  }
  const double m = sum / static_cast<double>(n);
  mean[column] = m;
  simt::atomic_max(&global->largest, simt::bits(fmax(fabs(high - m), fabs(low - m))));
}

// One warp a row: 16-bit values padded with zeros to `width`, start h of the sum, and the bound.
// Rows beyond n are zero and can never be chosen. With bfloat, only if float16 did not fit. order:
// number of the row at each place, null where they stay where they are.
template <class T, bool bfloat>
__global__ void pack_rows(const T* data, std::int64_t n, std::int64_t d, std::int64_t row_stride,
                          const std::int64_t* order, const double* mean, Global* global,
                          std::int64_t padded_rows, std::int64_t width, std::uint16_t* packed,
                          float* start, RowBound* bounds) {
  if (bfloat && global->coarse <= static_cast<unsigned long long>(n / 16)) return;
  const int lane = threadIdx.x % 32;
  const std::int64_t row = static_cast<std::int64_t>(blockIdx.x) * kWarps + threadIdx.x / 32;
  if (row >= padded_rows) return;
  const bool real = row < n;
  const std::int64_t from = real && order != nullptr ? order[row] : row;
  const double scale = scale_of(global);
  double error2 = 0, norm2 = 0, full2 = 0;
  for (std::int64_t c = lane; c < width; c += 32) {
    double y = 0;
    if (real && c < d) y = (decode(data[from * row_stride + c]) - mean[c]) * scale;
    const float f = static_cast<float>(y);
    const std::uint16_t bits = bfloat ? simt::to_bfloat(f) : simt::to_half(f);
    const double rounded = bfloat ? simt::from_bfloat(bits) : simt::from_half(bits);
    packed[row * width + c] = bits;
    error2 += (y - rounded) * (y - rounded);
    norm2 += rounded * rounded;
    full2 += y * y;
  }
  error2 = warp_sum(error2);
  norm2 = warp_sum(norm2);
  full2 = warp_sum(full2);
  if (lane != 0) return;
  // Sums of d float64 terms and the rounding of y itself, generously.
  const double error = sqrt(error2) * (1 + 0x1p-30) + sqrt(full2) * 0x1p-50;
  const double g = margin(d);
  const double h = 0.5 * ((1 + 1 / kSlack) * error * error - (1 - g) * norm2 * (1 - 0x1p-30));
  start[row] = real ? simt::round_up(h + 2 * g * fabs(h)) : -HUGE_VALF;
  bounds[row] = {(1 - g) * norm2 * (1 - 0x1p-30), error};
  if (!bfloat && real && error2 > full2 * 0x1p-20) simt::atomic_add(&global->coarse, 1ull);
}

// Packed rows of the queries, one after the other; one warp a row, 16 bytes at a time.
__global__ void gather_rows(const std::uint16_t* packed, const std::int64_t* queries,
                            std::int64_t m, std::int64_t padded, std::int64_t width,
                            std::uint16_t* out) {
  const std::int64_t row = static_cast<std::int64_t>(blockIdx.x) * kWarps + threadIdx.x / 32;
  if (row >= padded) return;
  const std::uint16_t* from = packed + (row < m ? queries[row] : 0) * width;
  for (std::int64_t c = 8 * (threadIdx.x % 32); c < width; c += 8 * 32) {
    *reinterpret_cast<uint4*>(out + row * width + c) = *reinterpret_cast<const uint4*>(from + c);
  }
}

}  // namespace
}  // namespace fastdim::cuda
