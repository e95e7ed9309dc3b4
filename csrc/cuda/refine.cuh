// From candidates to distances, and the full search of rows that the filter could not make sure of.
#pragma once

#include "filter.cuh"

namespace fastdim::cuda {
namespace {

template <class T>
struct Source {
  const T* data;
  std::int64_t n, d, row_stride;
  const std::int64_t* queries;
  std::int64_t m, k;
  double* distances;
  std::int64_t* indices;
  Global* global;
  std::int64_t* uncertain;    // numbers of the queries to search again
  const std::int64_t* order;  // row at each place of the filter, null: rows stay where they are

  __device__ std::int64_t query(std::int64_t i) const {
    return queries != nullptr ? queries[i] : i;
  }
  __device__ const T* row(std::int64_t i) const { return data + i * row_stride; }
};

// Sums of squares below this may have lost terms to underflow.
constexpr double kSafeSum = 0x1p-900;

__device__ __forceinline__ bool before(double a, std::int64_t i, double b, std::int64_t j) {
  return a < b || (a == b && i < j);
}

// Of the pairs (value, index) of a warp's lanes the one that comes first, on all lanes.
template <class Value, class Index, class Before>
__device__ __forceinline__ void warp_first(Value& value, Index& index, Before comes_before) {
  for (int mask = 16; mask > 0; mask >>= 1) {
    const Value other = simt::shuffle_xor(value, mask);
    const Index j = simt::shuffle_xor(index, mask);
    if (comes_before(other, j, value, index)) {
      value = other;
      index = j;
    }
  }
}

// |x - y| by one warp, the same on all lanes. Values are scaled so that no square overflows.
template <class T>
__device__ double warp_distance(const T* x, const T* y, std::int64_t d, double scale) {
  const int lane = threadIdx.x % 32;
  double part[4] = {0, 0, 0, 0};
  std::int64_t c = lane;
  for (; c + 96 < d; c += 128) {
#pragma unroll
    for (int u = 0; u < 4; ++u) {
      const double difference = (decode(x[c + 32 * u]) - decode(y[c + 32 * u])) * scale;
      part[u] = fma(difference, difference, part[u]);
    }
  }
  for (; c < d; c += 32) {
    const double difference = (decode(x[c]) - decode(y[c])) * scale;
    part[0] = fma(difference, difference, part[0]);
  }
  const double sum = warp_sum((part[0] + part[1]) + (part[2] + part[3]));
  if (sum >= kSafeSum) return sqrt(sum) / scale;
  double largest = 0;
  for (c = lane; c < d; c += 32) largest = fmax(largest, fabs(decode(x[c]) - decode(y[c])));
  for (int mask = 16; mask > 0; mask >>= 1)
    largest = fmax(largest, simt::shuffle_xor(largest, mask));
  if (largest == 0) return 0;
  double ratios = 0;
  for (c = lane; c < d; c += 32) {
    const double ratio = (decode(x[c]) - decode(y[c])) / largest;
    ratios = fma(ratio, ratio, ratios);
  }
  return largest * sqrt(warp_sum(ratios));
}

// The scale of `warp_distance`: only float64 values can be too large or small to be squared.
template <class T>
__device__ __forceinline__ double distance_scale(const Global* global) {
  return sizeof(T) == 8 ? scale_of(global) : 1.0;
}

// Puts (distance, j) into an ascending list of at most k, if it belongs there; one thread.
__device__ __forceinline__ int insert(double* distances, std::int64_t* indices, std::int64_t k,
                                      int count, double distance, std::int64_t j) {
  if (count == k && !before(distance, j, distances[k - 1], indices[k - 1])) return count;
  std::int64_t at = count < k ? count : k - 1;
  for (; at > 0 && before(distance, j, distances[at - 1], indices[at - 1]); --at) {
    distances[at] = distances[at - 1];
    indices[at] = indices[at - 1];
  }
  distances[at] = distance;
  indices[at] = j;
  return count < k ? count + 1 : count;
}

// One warp a query: candidates in order of p until none can matter; the certificate.
template <class T, int tile_rows, class Tiles>
__global__ void refine(Source<T> source, Tiles division, int keep, const float* scores,
                       const int* columns, const RowBound* bounds) {
  const int lane = threadIdx.x % 32;
  const std::int64_t i = static_cast<std::int64_t>(blockIdx.x) * kWarps + threadIdx.x / 32;
  if (i >= source.m) return;
  const bool ordered = source.order != nullptr;
  const std::int64_t query = ordered ? source.order[i] : source.query(i);
  const std::int64_t in_tile = i % tile_rows, to = ordered ? query : i;
  const Lists lists = division.lists_of(i / tile_rows);
  const std::int64_t slot = lists.first, runs = lists.count;
  const std::int64_t slots = runs + (lists.other >= 0 ? 1 : 0);
  const double scale = distance_scale<T>(source.global), packed_scale = scale_of(source.global);
  const RowBound bound = bounds[ordered ? i : query];
  const double loss = underflow(source.d);
  const auto lowest = [&](double distance) {
    const double reach = distance * packed_scale * (1 + 0x1p-40) + bound.error;
    const double far2 = (1 + kSlack) * reach * reach;
    return simt::round_down(0.5 * (bound.norm2 - far2) - loss - 0x1p-45 * (bound.norm2 + far2));
  };
  double* distances = source.distances + to * source.k;
  std::int64_t* indices = source.indices + to * source.k;

  // The smallest p kept by a run bounds what that run left out. Blocks without tiles have no list.
  float left_out = -HUGE_VALF;
  const auto slot_of = [&](std::int64_t s) { return s < runs ? slot + s : lists.other; };
  const auto is_run = [&](std::int64_t s) {
    return lists.block < 0 || s == runs ||
           division.first_tile(lists.block + s) < division.first_tile(lists.block + s + 1);
  };
  for (std::int64_t s = 0; s < slots; ++s) {
    if (is_run(s)) left_out = fmaxf(left_out, scores[slot_of(s) * keep * tile_rows + in_tile]);
  }
  float last_score = HUGE_VALF;
  int last_column = -1, count = 0;
  double worst = HUGE_VAL;
  float limit = -HUGE_VALF;
  for (;;) {
    // The best candidate that is worse than the last one.
    float best = -HUGE_VALF;
    int column = 0x7fffffff;
    for (std::int64_t e = lane; e < slots * keep; e += 32) {
      if (!is_run(e / keep)) continue;
      const std::int64_t at = (slot_of(e / keep) * keep + e % keep) * tile_rows + in_tile;
      const float p = scores[at];
      const int j = columns[at];
      if (worse(p, j, last_score, last_column) && worse(best, column, p, j)) {
        best = p;
        column = j;
      }
    }
    warp_first(best, column, [](float p, int j, float q, int i) { return worse(q, i, p, j); });
    if (column == 0x7fffffff || best < limit) break;
    last_score = best;
    last_column = column;
    const std::int64_t row = ordered ? source.order[column] : column;
    const double distance = warp_distance(source.row(query), source.row(row), source.d, scale);
    if (lane == 0) {
      count = insert(distances, indices, source.k, count, distance, row);
      if (count == source.k) worst = distances[source.k - 1];
    }
    worst = simt::shuffle(worst, 0);
    if (worst < HUGE_VAL) limit = lowest(worst);
  }
  if (lane == 0 && left_out >= limit && left_out > -HUGE_VALF) {
    const auto place = simt::atomic_add(&source.global->uncertain, 1ull);
    source.uncertain[place] = to;
  }
}

// Queries that a block of `search_all` takes at once, rows it reads at once, columns of a slice.
constexpr int kGroup = 16, kRead = 64, kPart = 32;
constexpr int kSearchThreads = 256;

// Groups of queries and, where there are few, parts of the rows: one work item each.
struct Search {
  std::int64_t groups, parts;
  __device__ Search(std::int64_t count, std::int64_t blocks)
      : groups((count + kGroup - 1) / kGroup), parts(groups < blocks ? blocks / groups : 1) {}
};
__host__ __device__ inline std::int64_t search_lists(std::int64_t m, std::int64_t blocks) {
  return ((m + kGroup - 1) / kGroup + blocks) * kGroup;
}

inline int search_bytes() { return (kGroup + kRead) * (kPart + 1) * 8; }

// All pairs in float64. A warp takes two queries and keeps their lists; a lane takes two rows.
template <class T>
__global__ void __launch_bounds__(kSearchThreads)
    search_all(Source<T> source, double* list_distances, std::int64_t* list_indices) {
  const auto count = static_cast<std::int64_t>(source.global->uncertain);
  if (count == 0) return;
  const Search search(count, gridDim.x);
  double* left = reinterpret_cast<double*>(simt::shared());  // [kGroup][kPart + 1]
  double* right = left + kGroup * (kPart + 1);               // [kRead][kPart + 1]
  const int thread = threadIdx.x, lane = thread % 32, warp = thread / 32;
  const double scale = distance_scale<T>(source.global);
  for (std::int64_t item = blockIdx.x; item < search.groups * search.parts; item += gridDim.x) {
    const std::int64_t group = item / search.parts, part = item % search.parts;
    const std::int64_t begin = part * source.n / search.parts;
    const std::int64_t end = (part + 1) * source.n / search.parts;
    std::int64_t self[2];
    int filled[2] = {0, 0};
    double limit2[2] = {HUGE_VAL, HUGE_VAL};
#pragma unroll
    for (int a = 0; a < 2; ++a) {
      const std::int64_t place = group * kGroup + warp + 8 * a;
      self[a] = place < count ? source.query(source.uncertain[place]) : -1;
    }
    for (std::int64_t base = begin; base < end; base += kRead) {
      double sum[2][2] = {{0, 0}, {0, 0}};
      for (std::int64_t c0 = 0; c0 < source.d; c0 += kPart) {
        simt::sync();
        for (int e = thread; e < (kGroup + kRead) * kPart; e += kSearchThreads) {
          const int r = e / kPart, c = e % kPart;
          double value = 0;
          if (c0 + c < source.d) {
            if (r < kGroup) {
              const std::int64_t place = group * kGroup + r;
              if (place < count) {
                value = decode(source.row(source.query(source.uncertain[place]))[c0 + c]);
              }
            } else if (base + r - kGroup < end) {
              value = decode(source.row(base + r - kGroup)[c0 + c]);
            }
          }
          left[r * (kPart + 1) + c] = value;
        }
        simt::sync();
#pragma unroll
        for (int c = 0; c < kPart; ++c) {
#pragma unroll
          for (int a = 0; a < 2; ++a) {
            const double x = left[(warp + 8 * a) * (kPart + 1) + c];
#pragma unroll
            for (int b = 0; b < 2; ++b) {
              const double difference = (x - right[(lane + 32 * b) * (kPart + 1) + c]) * scale;
              sum[a][b] = fma(difference, difference, sum[a][b]);
            }
          }
        }
      }
#pragma unroll
      for (int a = 0; a < 2; ++a) {
        if (self[a] < 0) continue;
        const std::int64_t list = (item * kGroup + warp + 8 * a) * source.k;
#pragma unroll
        for (int b = 0; b < 2; ++b) {
          const std::int64_t j = base + lane + 32 * b;
          const bool wanted = j < end && j != self[a] && sum[a][b] <= limit2[a];
          unsigned waiting = simt::ballot(wanted);
          while (waiting != 0) {
            int from = 0;
            while (!(waiting >> from & 1)) ++from;
            waiting &= waiting - 1;
            const double square = simt::shuffle(sum[a][b], from);
            const std::int64_t row = base + from + 32 * b;
            // Few pairs are so close that squares underflow; they are summed anew.
            const double distance =
                square >= kSafeSum
                    ? sqrt(square) / scale
                    : warp_distance(source.row(self[a]), source.row(row), source.d, scale);
            if (lane == 0) {
              filled[a] = insert(list_distances + list, list_indices + list, source.k, filled[a],
                                 distance, row);
              if (filled[a] == source.k) {
                const double worst = list_distances[list + source.k - 1] * scale;
                limit2[a] = fmax(worst * worst * (1 + 0x1p-40), kSafeSum);
              }
            }
          }
          limit2[a] = simt::shuffle(limit2[a], 0);
        }
        if (lane == 0) {
          for (std::int64_t e = filled[a]; e < source.k; ++e) list_indices[list + e] = -1;
        }
      }
    }
  }
}

// One warp a query that was searched again: the k nearest of its lists, distances summed as
// `refine` sums them, so that a row has the same bits whichever way it went.
template <class T>
__global__ void merge_lists(Source<T> source, int blocks, const double* list_distances,
                            const std::int64_t* list_indices) {
  const int lane = threadIdx.x % 32;
  const auto count = static_cast<std::int64_t>(source.global->uncertain);
  if (count == 0) return;
  const Search search(count, blocks);
  const double scale = distance_scale<T>(source.global);
  for (std::int64_t place = static_cast<std::int64_t>(blockIdx.x) * kWarps + threadIdx.x / 32;
       place < count; place += static_cast<std::int64_t>(gridDim.x) * kWarps) {
    const std::int64_t i = source.uncertain[place], query = source.query(i);
    double* distances = source.distances + i * source.k;
    std::int64_t* indices = source.indices + i * source.k;
    double last = -1;
    std::int64_t last_row = -1;
    int filled = 0;
    for (std::int64_t e = 0; e < source.k; ++e) {
      double best = HUGE_VAL;
      std::int64_t best_row = source.n;
      for (std::int64_t c = lane; c < search.parts * source.k; c += 32) {
        const std::int64_t item = place / kGroup * search.parts + c / source.k;
        const std::int64_t at = (item * kGroup + place % kGroup) * source.k + c % source.k;
        const std::int64_t j = list_indices[at];
        if (j < 0) continue;
        const double distance = list_distances[at];
        if (before(last, last_row, distance, j) && before(distance, j, best, best_row)) {
          best = distance;
          best_row = j;
        }
      }
      warp_first(best, best_row, before);
      last = best;
      last_row = best_row;
      const double distance =
          warp_distance(source.row(query), source.row(best_row), source.d, scale);
      if (lane == 0) filled = insert(distances, indices, source.k, filled, distance, best_row);
    }
  }
}

__global__ void write_counts(const Global* global, const std::int64_t* tiles,
                             std::int64_t* counts) {
  if (threadIdx.x != 0) return;
  counts[0] = static_cast<std::int64_t>(global->uncertain);
  counts[1] = static_cast<std::int64_t>(global->coarse);
  counts[2] = tiles != nullptr ? *tiles : -1;
}

}  // namespace
}  // namespace fastdim::cuda
