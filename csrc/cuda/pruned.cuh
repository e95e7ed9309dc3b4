// The pruned search's choice of tiles: rows on a few axes, tiles of them that can hold a neighbour.
//
// Rows are taken in an order that puts near rows near each other. With z the shifted and scaled row
// and Q any p x d matrix, v = (Q z, rho) with rho = sqrt(|z|^2 - |Q z|^2), the length of the rest:
//     |v_x - v_y|^2 <= sigma^2 |z_x - z_y|^2,  sigma^2 = 1 + delta (1 + delta),
//     delta = |Q Q' - I|_F                                     (csrc/prepare.h, point 2)
// v is formed in float64: sums of d terms put Q z off by eta = 2^-50 (d + 64) (1 + delta) |z| at
// most, and rho by min(E / rho, sqrt(E)), E = (2^-48 (d + 64) (1 + delta) + 2 delta (1 + delta))
// |z|^2. Times a power of two it is rounded to float16: u. With e_x what this and the errors above
// come to, D <= T implies |u_x - u_y| <= reach T + e_x + e_y, the premise of knn.h, so that a pair
// can matter only if h_y + u_x.u_y >= L_x(T), with the margins derived there for 64 columns. T is
// the distance of the k-th neighbour among the rows of the tiles next to the row's own. A tile
// without such a pair holds no neighbour of any of its queries. Axes with delta above 1/2 could
// leave the range of float16: then every tile is taken.
#pragma once

#include "refine.cuh"

namespace fastdim::cuda {
namespace {

constexpr int kPrefix = 64;  // columns of v, the last one rho
constexpr int kSide = 128;   // rows and columns of a tile: those of SmallTile
constexpr int kNear = 2;     // tiles to each side of a row's own that give it a first threshold
constexpr int kGiven = 16;   // rows that a block of `project_rows` takes at once

// delta^2 of `axes` (count x d), one block.
__global__ void axes_defect(const double* axes, std::int64_t count, std::int64_t d, double* out) {
  double* by_warp = reinterpret_cast<double*>(simt::shared());
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  double defect = 0;
  for (std::int64_t pair = warp; pair < count * count; pair += kWarps) {
    const double *a = axes + pair / count * d, *b = axes + pair % count * d;
    double sum = 0;
    for (std::int64_t c = lane; c < d; c += 32) sum = fma(a[c], b[c], sum);
    sum = warp_sum(sum) - (pair / count == pair % count ? 1 : 0);
    defect = fma(sum, sum, defect);
  }
  if (lane == 0) by_warp[warp] = defect;
  simt::sync();
  if (threadIdx.x != 0) return;
  double total = 0;
  for (int w = 0; w < kWarps; ++w) total += by_warp[w];
  out[0] = total;
}

// A power of two that keeps |v| within float16 for values below 2^15 in each of d columns.
__host__ __device__ inline double shrink(std::int64_t d) {
  double factor = 1;
  for (std::int64_t reach = 1; reach < d; reach *= 4) factor *= 0.5;
  return factor * 0.5;
}

inline int project_bytes() { return (kGiven + kPrefix) * (kPart + 1) * 8; }

// u (padded x 64), h and the bound of the rows in their order; rows beyond n are zero, h = -inf.
template <class T>
__global__ void project_rows(Source<T> source, const double* mean, const double* axes,
                             std::int64_t count, const double* defect, std::int64_t padded,
                             std::uint16_t* out, float* start, RowBound* bounds) {
  double* left = reinterpret_cast<double*>(simt::shared());  // [kGiven][kPart + 1]
  double* right = left + kGiven * (kPart + 1);               // [kPrefix][kPart + 1]
  const int thread = threadIdx.x, lane = thread % 32, warp = thread / 32;
  const std::int64_t base = static_cast<std::int64_t>(blockIdx.x) * kGiven;
  const double scale = scale_of(source.global);
  const int axis = thread % kPrefix, group = thread / kPrefix;
  double sum[4] = {0, 0, 0, 0}, square[2] = {0, 0};
  for (std::int64_t c0 = 0; c0 < source.d; c0 += kPart) {
    simt::sync();
    for (int e = thread; e < (kGiven + kPrefix) * kPart; e += 32 * kWarps) {
      const int r = e / kPart;
      const std::int64_t c = c0 + e % kPart;
      double value = 0;
      if (c < source.d) {
        if (r >= kGiven) {
          if (r - kGiven < count) value = axes[(r - kGiven) * source.d + c];
        } else if (base + r < source.n) {
          value = (decode(source.row(source.order[base + r])[c]) - mean[c]) * scale;
        }
      }
      left[r * (kPart + 1) + e % kPart] = value;
    }
    simt::sync();
    for (int c = 0; c < kPart; ++c) {
      const double q = right[axis * (kPart + 1) + c];
#pragma unroll
      for (int r = 0; r < 4; ++r) sum[r] = fma(left[(4 * group + r) * (kPart + 1) + c], q, sum[r]);
    }
#pragma unroll
    for (int r = 0; r < 2; ++r) {
      const double value = left[(2 * warp + r) * (kPart + 1) + lane];
      square[r] = fma(value, value, square[r]);
    }
  }
  simt::sync();
  double* along = left;  // [kGiven][kPrefix], over both
#pragma unroll
  for (int r = 0; r < 4; ++r) along[(4 * group + r) * kPrefix + axis] = sum[r];
  simt::sync();
  const double factor = shrink(source.d), delta = sqrt(defect[0]);
#pragma unroll
  for (int r = 0; r < 2; ++r) {
    const int at = 2 * warp + r;
    const std::int64_t place = base + at;
    const double full2 = warp_sum(square[r]);
    const double a = along[at * kPrefix + lane], b = along[at * kPrefix + 32 + lane];
    const double inside2 = warp_sum(fma(a, a, b * b));
    const double slip = static_cast<double>(source.d + 64) * (1 + delta);
    const double loss = (0x1p-48 * slip + 2 * delta * (1 + delta)) * full2;
    const double rest = sqrt(fmax(full2 - inside2, 0.0));
    const double off = rest * rest > loss ? loss / rest : sqrt(loss);
    // Axes are fewer than kPrefix: the last column is free for the rest.
    const double value[2] = {a * factor, (lane == 31 ? rest : b) * factor};
    double error2 = 0, norm2 = 0;
#pragma unroll
    for (int e = 0; e < 2; ++e) {
      const std::uint16_t bits = simt::to_half(static_cast<float>(value[e]));
      const double rounded = simt::from_half(bits);
      if (place < padded) out[place * kPrefix + 32 * e + lane] = bits;
      error2 += (value[e] - rounded) * (value[e] - rounded);
      norm2 += rounded * rounded;
    }
    error2 = warp_sum(error2);
    norm2 = warp_sum(norm2);
    if (lane != 0 || place >= padded) continue;
    const double off_by = sqrt(error2) * (1 + 0x1p-30) +
                          factor * (off + 0x1p-50 * slip * sqrt(full2)) * (1 + 0x1p-30);
    const double g = margin(kPrefix);
    const double h = 0.5 * ((1 + 1 / kSlack) * off_by * off_by - (1 - g) * norm2 * (1 - 0x1p-30));
    start[place] = place < source.n ? simt::round_up(h + 2 * g * fabs(h)) : -HUGE_VALF;
    bounds[place] = {(1 - g) * norm2 * (1 - 0x1p-30), off_by};
  }
}

// L of every place from the distances found so far: -inf where there are too few, inf beyond n.
template <class T>
__global__ void survey_limits(Source<T> source, const double* defect, const RowBound* bounds,
                              std::int64_t padded, float* limits) {
  const std::int64_t place = static_cast<std::int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
  if (place >= padded) return;
  if (place >= source.n) {
    limits[place] = HUGE_VALF;
    return;
  }
  const double distance = source.distances[(source.order[place] + 1) * source.k - 1];
  const double delta = sqrt(defect[0]);
  const double sigma = sqrt(1 + delta * (1 + delta));
  const double reach =
      distance * scale_of(source.global) * shrink(source.d) * sigma * (1 + 0x1p-40) +
      bounds[place].error;
  const double far2 = (1 + kSlack) * reach * reach, norm2 = bounds[place].norm2;
  limits[place] =
      far2 >= 0
          ? simt::round_down(0.5 * (norm2 - far2) - underflow(kPrefix) - 0x1p-45 * (norm2 + far2))
          : -HUGE_VALF;
}

// The tiles next to each row of tiles, as a list.
__global__ void near_tiles(std::int64_t row_tiles, std::int64_t column_tiles, int* list,
                           std::int64_t* counts) {
  const std::int64_t row = static_cast<std::int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
  if (row >= row_tiles) return;
  const std::int64_t first = row < kNear ? 0 : row - kNear;
  const std::int64_t last = min(row + kNear + 1, column_tiles);
  for (std::int64_t c = first; c < last; ++c) {
    list[row * column_tiles + c - first] = static_cast<int>(c);
  }
  counts[row] = last - first;
}

constexpr int kSurveyThreads = 128, kSurveyBytes = 3 * kSide * kPrefix * 2 + 2 * kSide * 4;

// Which tiles of a row of them hold a pair that can matter: alive (row_tiles x column_tiles). A
// block takes one of `parts` runs of columns of one row; its four warps 64 x 64 pairs each.
__global__ void __launch_bounds__(kSurveyThreads)
    survey_tiles(const std::uint16_t* rows, const float* start, const float* limits,
                 std::int64_t column_tiles, std::int64_t parts, unsigned char* alive) {
  constexpr int kTileBytes = kSide * kPrefix * 2, kRowBytes = kPrefix * 2, kChunks = kPrefix / 8;
  unsigned char* left = simt::shared();
  unsigned char* columns = left + kTileBytes;  // two tiles, in turn
  float* starts = reinterpret_cast<float*>(columns + 2 * kTileBytes);
  const int thread = threadIdx.x, lane = thread % 32, warp = thread / 32;
  const int warp_row = warp / 2 * 64, warp_column = warp % 2 * 64;
  const std::int64_t row_tile = blockIdx.x / parts, part = blockIdx.x % parts;
  const std::int64_t first = part * column_tiles / parts;
  const std::int64_t last = (part + 1) * column_tiles / parts;
  const auto copy_tile = [&](unsigned char* to, std::int64_t tile) {
    for (int item = thread; item < kSide * kChunks; item += kSurveyThreads) {
      const int row = item / kChunks, chunk = item % kChunks;
      simt::copy16(to + row * kRowBytes + ((chunk ^ (row & 7)) << 4),
                   rows + (tile * kSide + row) * kPrefix + 8 * chunk);
    }
  };
  const auto fetch = [&](std::int64_t tile) {
    if (tile < last) {
      const int parity = static_cast<int>(tile - first) & 1;
      copy_tile(columns + parity * kTileBytes, tile);
      starts[parity * kSide + thread] = start[tile * kSide + thread];
    }
    simt::commit();
  };
  copy_tile(left, row_tile);
  fetch(first);
  float limit[8];  // of this lane's rows
#pragma unroll
  for (int i = 0; i < 8; ++i) {
    limit[i] = limits[row_tile * kSide + warp_row + lane / 4 + 8 * i];
  }
  const int left_row = warp_row + (lane & 15), left_chunk = lane / 16;
  const int right_row = warp_column + (lane & 7) + ((lane >> 4) << 3);
  const int right_chunk = (lane >> 3) & 1;
  for (std::int64_t tile = first; tile < last; ++tile) {
    const int parity = static_cast<int>(tile - first) & 1;
    simt::wait<0>();
    simt::sync();
    fetch(tile + 1);
    const unsigned char* right = columns + parity * kTileBytes;
    bool some = false;
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      simt::Registers<float, 64> sum;  // [2 row parts][8 column parts][4]
#pragma unroll
      for (int j = 0; j < 8; ++j) {
        const float* h = starts + parity * kSide + warp_column + 8 * j + 2 * (lane % 4);
#pragma unroll
        for (int i = 0; i < 2; ++i) {
          float* c = &sum[(i * 8 + j) * 4];
          c[0] = c[2] = h[0];
          c[1] = c[3] = h[1];
        }
      }
#pragma unroll
      for (int step = 0; step < kPrefix / 16; ++step) {
        simt::Registers<std::uint32_t, 8> a;
        simt::Registers<std::uint32_t, 16> b;
#pragma unroll
        for (int i = 0; i < 2; ++i) {
          const int row = left_row + 32 * half + 16 * i;
          simt::load_matrices(
              &a[4 * i], left + row * kRowBytes + (((2 * step + left_chunk) ^ (row & 7)) << 4));
        }
#pragma unroll
        for (int j = 0; j < 4; ++j) {
          const int row = right_row + 16 * j;
          simt::load_matrices(
              &b[4 * j], right + row * kRowBytes + (((2 * step + right_chunk) ^ (row & 7)) << 4));
        }
#pragma unroll
        for (int i = 0; i < 2; ++i) {
#pragma unroll
          for (int j = 0; j < 8; ++j) {
            simt::mma<false>(&sum[(i * 8 + j) * 4], &a[4 * i], &b[2 * j]);
          }
        }
      }
#pragma unroll
      for (int i = 0; i < 2; ++i) {
#pragma unroll
        for (int side = 0; side < 2; ++side) {
          float best = -HUGE_VALF;
#pragma unroll
          for (int j = 0; j < 8; ++j) {
            const float* c = &sum[(i * 8 + j) * 4 + 2 * side];
            best = fmaxf(best, fmaxf(c[0], c[1]));
          }
          some |= !(best < limit[4 * half + 2 * i + side]);
        }
      }
    }
    const bool any = simt::sync_or(some);
    if (thread == 0) alive[row_tile * column_tiles + tile] = any;
  }
  simt::wait<0>();
}

// One warp a row of tiles: the numbers of the tiles that are alive, ascending.
__global__ void list_alive(const unsigned char* alive, std::int64_t row_tiles,
                           std::int64_t column_tiles, int* list, std::int64_t* counts) {
  const int lane = threadIdx.x % 32;
  const std::int64_t row = static_cast<std::int64_t>(blockIdx.x) * kWarps + threadIdx.x / 32;
  if (row >= row_tiles) return;
  std::int64_t count = 0;
  for (std::int64_t base = 0; base < column_tiles; base += 32) {
    const std::int64_t column = base + lane;
    const bool wanted = column < column_tiles && alive[row * column_tiles + column] != 0;
    const unsigned mask = simt::ballot(wanted);
    std::int64_t before = 0, all = 0;
    for (int other = 0; other < 32; ++other) {
      const bool there = mask >> other & 1;
      before += there && other < lane;
      all += there;
    }
    if (wanted) list[row * column_tiles + count + before] = static_cast<int>(column);
    count += all;
  }
  if (lane == 0) counts[row] = count;
}

// starts (row_tiles + 1,) from the numbers of tiles in each row; one warp.
__global__ void sum_counts(const std::int64_t* counts, std::int64_t row_tiles,
                           std::int64_t* starts) {
  const int lane = threadIdx.x;
  std::int64_t total = 0;
  for (std::int64_t base = 0; base < row_tiles; base += 32) {
    std::int64_t mine = base + lane < row_tiles ? counts[base + lane] : 0;
    std::int64_t sum = mine;  // of the lanes up to this one
    for (int step = 1; step < 32; step *= 2) {
      const std::int64_t other = simt::shuffle(sum, lane - step);
      if (lane >= step) sum += other;
    }
    if (base + lane < row_tiles) starts[base + lane] = total + sum - mine;
    total += simt::shuffle(sum, 31);
  }
  if (lane == 0) starts[row_tiles] = total;
}

}  // namespace
}  // namespace fastdim::cuda
