// Kernels over unit rows and over the tiles of pairs above the diagonal.
#pragma once

#include "cosine.h"
#include "rows.cuh"

namespace fastdim::cuda {
namespace {

template <class T>
__global__ void norm_rows(const T* data, std::int64_t n, std::int64_t d, std::int64_t row_stride,
                          double* norms) {
  const int lane = threadIdx.x % 32;
  const std::int64_t row = static_cast<std::int64_t>(blockIdx.x) * kWarps + threadIdx.x / 32;
  if (row >= n) return;
  double square = 0;
  for (std::int64_t c = lane; c < d; c += 32) {
    const double v = decode(data[row * row_stride + c]);
    square = fma(v, v, square);
  }
  square = warp_sum(square);
  if (lane == 0) norms[row] = sqrt(square);
}

// Sums of each column of the unit rows over one part of the chosen rows; parts x d.
template <class T>
__global__ void unit_parts(const T* data, std::int64_t d, std::int64_t row_stride,
                           const std::int64_t* chosen, std::int64_t m, const double* inverse,
                           std::int64_t parts, double* out) {
  const std::int64_t column_blocks = (d + blockDim.x - 1) / blockDim.x;
  const std::int64_t part = blockIdx.x / column_blocks;
  const std::int64_t column = blockIdx.x % column_blocks * blockDim.x + threadIdx.x;
  if (column >= d) return;
  double sum = 0;
  for (std::int64_t i = part * m / parts; i < (part + 1) * m / parts; ++i) {
    sum = fma(decode(data[chosen[i] * row_stride + column]), inverse[chosen[i]], sum);
  }
  out[part * d + column] = sum;
}

__global__ void unit_means(const double* parts, std::int64_t count, std::int64_t m, std::int64_t d,
                           double* mean) {
  const std::int64_t column = static_cast<std::int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
  if (column >= d) return;
  double sum = 0;
  for (std::int64_t p = 0; p < count; ++p) sum += parts[p * d + column];
  mean[column] = sum / static_cast<double>(m);
}

// One warp a row: w and a; the first block's first warp also sums the square of the mean.
template <class T>
__global__ void center_rows(const T* data, std::int64_t d, std::int64_t row_stride,
                            const std::int64_t* chosen, std::int64_t m, const double* inverse,
                            const double* mean, std::int64_t padded, std::int64_t width, double* w,
                            double* slopes, double* center) {
  const int lane = threadIdx.x % 32;
  const std::int64_t place = static_cast<std::int64_t>(blockIdx.x) * kWarps + threadIdx.x / 32;
  if (place >= padded) return;
  const std::int64_t row = place < m ? chosen[place] : 0;
  double slope = 0, square = 0;
  for (std::int64_t c = lane; c < width; c += 32) {
    const double shift = c < d ? mean[c] : 0;
    double value = 0;
    if (place < m && c < d) value = decode(data[row * row_stride + c]) * inverse[row] - shift;
    w[place * width + c] = value;
    slope = fma(value, shift, slope);
    square = fma(shift, shift, square);
  }
  slope = warp_sum(slope);
  square = warp_sum(square);
  if (lane != 0) return;
  slopes[place] = slope;
  if (place == 0) center[0] = square;
}

constexpr int kTile = static_cast<int>(kCosineTile), kSlice = static_cast<int>(kCosineSlice);
constexpr int kCosineThreads = 128, kCosineStages = 3;
constexpr int kSliceBytes = kSlice * 8, kCosineStageBytes = 2 * kTile * kSliceBytes;
// Tiles after which the shared counts move to memory: 2^31 pairs at most, so 32 bits hold them.
constexpr std::int64_t kFlush = 64;
// Shared bytes of the bins; up to four copies, one a warp, fit where there are few bins.
constexpr int kBinBytes = 32 << 10;

inline int bin_copies(std::int64_t bins) {
  const std::int64_t fit = kBinBytes / (4 * bins);
  return static_cast<int>(fit >= 4 ? 4 : fit >= 2 ? 2 : 1);
}
inline int cosine_bytes(std::int64_t bins) {
  return kCosineStages * kCosineStageBytes + static_cast<int>(4 * bins * bin_copies(bins)) +
         4 * 4 * 8;
}

// Tile (row, column) with row <= column, of the number-th in the order of rows.
struct TilePlace {
  std::int64_t row, column;

  __device__ TilePlace(std::int64_t number, std::int64_t tiles) {
    const auto before = [&](std::int64_t r) { return r * tiles - r * (r - 1) / 2; };
    const double side = static_cast<double>(tiles) + 0.5;
    const double left = side * side - 2.0 * static_cast<double>(number);
    row = static_cast<std::int64_t>(side - sqrt(fmax(left, 0.0)));
    row = row < 0 ? 0 : row >= tiles ? tiles - 1 : row;
    while (before(row) > number) --row;
    while (before(row + 1) <= number) ++row;
    column = row + number - before(row);
  }
  __device__ void next(std::int64_t tiles) {
    if (++column == tiles) column = ++row;
  }
};

// One run of tiles a block, four warps of 32 x 32 pairs; copies run two slices ahead.
__global__ void __launch_bounds__(kCosineThreads) cosine_tiles(CosineParams p, int copies) {
  constexpr int kCopies = 2 * kTile * (kSliceBytes / 16) / kCosineThreads;
  unsigned char* stages = simt::shared();
  double* by_warp = reinterpret_cast<double*>(stages + kCosineStages * kCosineStageBytes);
  unsigned* counts = reinterpret_cast<unsigned*>(by_warp + 16);
  const int thread = threadIdx.x, lane = thread % 32, warp = thread / 32;
  const int bins = static_cast<int>(p.bins);
  const int warp_row = warp / 2 * 32, warp_column = warp % 2 * 32;
  const int part_row = lane / 4, part_column = lane % 4;
  const std::int64_t tiles = (p.m + kTile - 1) / kTile, all = tiles * (tiles + 1) / 2;
  const auto run_start = [&](std::int64_t run) {
    return run * (all / p.runs) + min(run, all % p.runs);
  };
  const std::int64_t first = run_start(blockIdx.x), last = run_start(blockIdx.x + 1);
  const int slices = static_cast<int>(p.width / kSlice);
  const double s = p.center[0];
  // Four rows put the same 32 bytes into other banks.
  const auto place_of = [](int row, int chunk) {
    return row * kSliceBytes + ((chunk ^ ((row & 3) << 1)) << 4);
  };

  for (int b = thread; b < bins * copies; b += kCosineThreads) counts[b] = 0;
  unsigned* mine = counts + warp % copies * bins;

  TilePlace fetched(first, tiles);
  std::int64_t fetch_number = first;
  int fetch_slice = 0, fetch_stage = 0;
  const auto fetch = [&] {
    if (fetch_number < last) {
      unsigned char* to = stages + fetch_stage * kCosineStageBytes;
#pragma unroll
      for (int i = 0; i < kCopies; ++i) {
        const int item = thread + i * kCosineThreads, row = item / 8, chunk = item % 8;
        const std::int64_t tile = row < kTile ? fetched.row : fetched.column;
        const std::int64_t from = tile * kTile + row % kTile;
        simt::copy16(to + place_of(row, chunk),
                     p.w + from * p.w_stride + fetch_slice * kSlice + 2 * chunk);
      }
      fetch_stage = fetch_stage + 1 == kCosineStages ? 0 : fetch_stage + 1;
      if (++fetch_slice == slices) {
        fetch_slice = 0;
        ++fetch_number;
        fetched.next(tiles);
      }
    }
    simt::commit();
  };
  for (int i = 0; i < kCosineStages - 1; ++i) fetch();

  double total = 0, squares = 0, low = HUGE_VAL, high = -HUGE_VAL;
  TilePlace tile(first, tiles);
  int stage = 0;
  for (std::int64_t number = first; number < last; ++number, tile.next(tiles)) {
    simt::Registers<double, 32> sum;  // [4 row parts][4 column parts][2]
#pragma unroll
    for (int e = 0; e < 32; ++e) sum[e] = 0;
    for (int slice = 0; slice < slices; ++slice) {
      simt::wait<kCosineStages - 2>();
      simt::sync();
      fetch();
      const unsigned char* left = stages + stage * kCosineStageBytes;
      const unsigned char* right = left + kTile * kSliceBytes;
      stage = stage + 1 == kCosineStages ? 0 : stage + 1;
#pragma unroll
      for (int step = 0; step < kSlice / 4; ++step) {
        simt::Registers<double, 4> a, b;
        const int chunk = 2 * step + part_column / 2;
#pragma unroll
        for (int i = 0; i < 4; ++i) {
          a[i] = reinterpret_cast<const double*>(
              left + place_of(warp_row + 8 * i + part_row, chunk))[part_column % 2];
          b[i] = reinterpret_cast<const double*>(
              right + place_of(warp_column + 8 * i + part_row, chunk))[part_column % 2];
        }
#pragma unroll
        for (int i = 0; i < 4; ++i) {
#pragma unroll
          for (int j = 0; j < 4; ++j) simt::mma_double(&sum[(i * 4 + j) * 2], a[i], b[j]);
        }
      }
    }
    double tile_total = 0, tile_squares = 0;
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const std::int64_t row = tile.row * kTile + warp_row + 8 * i + part_row;
      const double row_slope = p.slopes[row];
#pragma unroll
      for (int j = 0; j < 4; ++j) {
#pragma unroll
        for (int e = 0; e < 2; ++e) {
          const std::int64_t column =
              tile.column * kTile + warp_column + 8 * j + 2 * part_column + e;
          if (row >= column || column >= p.m) continue;
          const double excess = sum[(i * 4 + j) * 2 + e] + row_slope + p.slopes[column];
          tile_total += excess;
          tile_squares = fma(excess, excess, tile_squares);
          const double cosine = fmin(fmax(s + excess, -1.0), 1.0);
          low = fmin(low, cosine);
          high = fmax(high, cosine);
          int bin = static_cast<int>((cosine + 1.0) * 0.5 * static_cast<double>(bins));
          bin = bin < bins ? bin : bins - 1;
          // The product may be rounded across an edge.
          if (cosine < p.edges[bin]) {
            --bin;
          } else if (bin < bins - 1 && cosine >= p.edges[bin + 1]) {
            ++bin;
          }
          simt::atomic_add(&mine[bin], 1u);
        }
      }
    }
    total += tile_total;
    squares += tile_squares;
    if ((number - first) % kFlush == kFlush - 1 || number + 1 == last) {
      simt::sync();
      for (int b = thread; b < bins; b += kCosineThreads) {
        unsigned long long found = 0;
        for (int copy = 0; copy < copies; ++copy) {
          found += counts[copy * bins + b];
          counts[copy * bins + b] = 0;
        }
        if (found != 0) simt::atomic_add(&p.histogram[b], found);
      }
      // The next tile's barriers come before its counts.
    }
  }
  simt::wait<0>();

  total = warp_sum(total);
  squares = warp_sum(squares);
  for (int mask = 16; mask > 0; mask >>= 1) {
    low = fmin(low, simt::shuffle_xor(low, mask));
    high = fmax(high, simt::shuffle_xor(high, mask));
  }
  if (lane == 0) {
    by_warp[warp] = total;
    by_warp[4 + warp] = squares;
    by_warp[8 + warp] = low;
    by_warp[12 + warp] = high;
  }
  simt::sync();
  if (thread != 0) return;
  double* out = p.moments + static_cast<std::int64_t>(blockIdx.x) * 4;
  out[0] = (by_warp[0] + by_warp[1]) + (by_warp[2] + by_warp[3]);
  out[1] = (by_warp[4] + by_warp[5]) + (by_warp[6] + by_warp[7]);
  out[2] = fmin(fmin(by_warp[8], by_warp[9]), fmin(by_warp[10], by_warp[11]));
  out[3] = fmax(fmax(by_warp[12], by_warp[13]), fmax(by_warp[14], by_warp[15]));
}

// One warp a pair.
template <class T>
__global__ void cosines_of_pairs(const T* data, std::int64_t d, std::int64_t row_stride,
                                 const std::int64_t* left, const std::int64_t* right,
                                 const double* inverse, std::int64_t count, double* out) {
  const int lane = threadIdx.x % 32;
  const std::int64_t pair = static_cast<std::int64_t>(blockIdx.x) * kWarps + threadIdx.x / 32;
  if (pair >= count) return;
  const std::int64_t i = left[pair], j = right[pair];
  const double first = inverse[i], second = inverse[j];
  double sum = 0;
  for (std::int64_t c = lane; c < d; c += 32) {
    sum = fma(decode(data[i * row_stride + c]) * first, decode(data[j * row_stride + c]) * second,
              sum);
  }
  sum = warp_sum(sum);
  if (lane == 0) out[pair] = fmin(fmax(sum, -1.0), 1.0);
}

}  // namespace
}  // namespace fastdim::cuda
