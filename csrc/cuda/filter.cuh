// The filter: p = h_y + a.b of every pair on the tensor cores, the `keep` largest of each query.
#pragma once

#include "rows.cuh"

namespace fastdim::cuda {
namespace {

// rows x columns of a block's tile, values a slice, slices in flight. A warp takes 64 x 64.
template <int rows, int columns, int slice, int stages>
struct TileShape {
  static constexpr int kRows = rows, kColumns = columns, kSlice = slice, kStages = stages;
  static constexpr int kThreads = rows / 64 * (columns / 64) * 32;
  static constexpr int kStageBytes = (rows + columns) * slice * 2;
  static_assert(kThreads == rows, "one thread merges one row");
};
using SmallTile = TileShape<128, 128, 32, 4>;
using MediumTile = TileShape<256, 128, 32, 4>;
using LargeTile = TileShape<256, 128, 64, 3>;

// Pairs of one row that a tile may queue before the tile is gone through piece by piece: a piece is
// 8 columns of each of the two warps that share a row.
constexpr int kQueue = 16;

// Lists of candidates of a row of tiles; see `lists_of`.
struct Lists {
  std::int64_t first, count, block;
  std::int64_t other = -1;  // one list more, of pairs seen from the other side; -1 for none
};

// Blocks take whole rows of tiles in turn; what is left over is cut into equal runs of tiles.
struct Division {
  std::int64_t blocks, waves, rest, column_tiles;

  __host__ __device__ Division(std::int64_t row_tiles, std::int64_t columns, std::int64_t count)
      : blocks(count), waves(row_tiles / count), rest(row_tiles % count), column_tiles(columns) {}
  __host__ __device__ std::int64_t first_tile(std::int64_t block) const {
    return block * (rest * column_tiles) / blocks;
  }
  __host__ __device__ std::int64_t owner(std::int64_t tile) const {
    return ((tile + 1) * blocks - 1) / (rest * column_tiles);
  }
  // Lists of candidates: one a run, numbered without a gap larger than the runs of other rows.
  __host__ __device__ std::int64_t slots() const {
    return waves * blocks + (rest > 0 ? blocks + rest : 0);
  }
  // Where the lists of a row of tiles are: `count` from `first` on, those of the blocks from
  // `block` on; -1 where one block has the whole row.
  __device__ Lists lists_of(std::int64_t row_tile) const {
    const std::int64_t in_rest = row_tile - waves * blocks;
    if (in_rest < 0) return {row_tile, 1, -1};
    const std::int64_t block = owner(in_rest * column_tiles);
    const std::int64_t count = owner((in_rest + 1) * column_tiles - 1) - block + 1;
    return {waves * blocks + block + in_rest, count, block};
  }
};

// The same of chosen tiles: row r of tiles meets columns list[r * column_tiles ..], as many as
// starts[r + 1] - starts[r]; all of them one after the other are cut into equal runs.
struct Listed {
  const std::int64_t* starts;  // (row_tiles + 1,)
  const int* list;
  std::int64_t row_tiles, column_tiles, blocks;
  // Every row meets its own tile and those after it, without a list; see symmetric.cuh.
  bool upper = false;

  __device__ std::int64_t total() const { return starts[row_tiles]; }
  __device__ std::int64_t first_tile(std::int64_t block) const { return block * total() / blocks; }
  __device__ std::int64_t owner(std::int64_t tile) const {
    // A row's own tile holds the row itself, so there is a tile; without one nothing is found.
    return ((tile + 1) * blocks - 1) / max(total(), std::int64_t{1});
  }
  __device__ std::int64_t row_of(std::int64_t tile) const {
    std::int64_t low = 0, high = row_tiles - 1;
    while (low < high) {
      const std::int64_t middle = (low + high + 1) / 2;
      if (starts[middle] <= tile) {
        low = middle;
      } else {
        high = middle - 1;
      }
    }
    return low;
  }
  __device__ Lists lists_of(std::int64_t row_tile) const {
    const std::int64_t block = owner(starts[row_tile]);
    return {block + row_tile, owner(starts[row_tile + 1] - 1) - block + 1, block,
            upper ? blocks + row_tiles + row_tile : -1};
  }
};

struct FilterParams {
  const std::uint16_t* left;    // queries, padded to tiles
  const std::uint16_t* right;   // rows, padded to tiles
  const float* start;           // h of each row
  const std::int64_t* queries;  // row numbers of the queries, null: their own
  const Global* global;
  std::int64_t m, n, width;
  int keep;
  bool heap_shared;
  Division division;
  Listed listed;  // takes the place of `division` where the kernel is for chosen tiles
  float* scores;  // slots x keep x tile rows
  int* columns;   // the same
  unsigned long long* keys = nullptr;  // rows x keep, of the symmetric filter alone
};

// Whether a is a worse candidate than b: smaller p, or equal and the larger row number.
__device__ __forceinline__ bool worse(float a, int row_a, float b, int row_b) {
  return a < b || (a == b && row_a > row_b);
}

// A heap with the worst candidate at its root; element i of this thread's row at i * stride.
struct Heap {
  float* score;
  int* column;
  int stride, size;

  __device__ void clear() {
    for (int i = 0; i < size; ++i) {
      score[i * stride] = -HUGE_VALF;
      column[i * stride] = 0x7fffffff;
    }
  }
  __device__ void offer(float p, int j) {
    if (!worse(score[0], column[0], p, j)) return;
    int at = 0;
    for (;;) {
      int child = 2 * at + 1;
      if (child >= size) break;
      if (child + 1 < size && worse(score[(child + 1) * stride], column[(child + 1) * stride],
                                    score[child * stride], column[child * stride])) {
        ++child;
      }
      if (!worse(score[child * stride], column[child * stride], p, j)) break;
      score[at * stride] = score[child * stride];
      column[at * stride] = column[child * stride];
      at = child;
    }
    score[at * stride] = p;
    column[at * stride] = j;
  }
};

// A candidate as a number that orders as candidates do: larger for the better one, 0 for none.
__device__ __forceinline__ unsigned long long key_of(float p, std::int64_t row) {
  const unsigned bits = simt::float_bits(p);
  const unsigned ordered = bits & 0x80000000u ? ~bits : bits | 0x80000000u;
  return static_cast<unsigned long long>(ordered) << 32 |
         (0xffffffffu - static_cast<unsigned>(row));
}
__device__ __forceinline__ float score_of(unsigned long long key) {
  const unsigned ordered = static_cast<unsigned>(key >> 32);
  if (key == 0) return -HUGE_VALF;
  return simt::float_of(ordered & 0x80000000u ? ordered ^ 0x80000000u : ~ordered);
}
__device__ __forceinline__ int row_of_key(unsigned long long key) {
  return key == 0 ? 0x7fffffff : static_cast<int>(0xffffffffu - static_cast<unsigned>(key));
}

// Keeps the best `keep` keys of a row that any number of threads offer to at a time, worst first:
// what a place gives up is offered to the next one, so the outcome does not depend on the order.
__device__ __forceinline__ void offer_key(unsigned long long* keys, int keep,
                                          unsigned long long key) {
  if (key <= simt::latest(keys)) return;
  for (int e = keep - 1; e >= 0 && key != 0; --e) {
    key = min(key, simt::atomic_max(&keys[e], key));
  }
}

template <class Shape>
__host__ __device__ constexpr int filter_bytes(int keep_shared, bool symmetric = false) {
  return Shape::kStages * Shape::kStageBytes + Shape::kRows * 8 * (kQueue + keep_shared) +
         Shape::kRows * 8 + Shape::kColumns * 4 * (symmetric ? 5 : 2);
}

template <class Shape, bool bfloat, bool chosen, bool symmetric = false>
__global__ void __launch_bounds__(Shape::kThreads, 1) knn_filter(FilterParams params) {
  if (bfloat != (params.global->coarse > static_cast<unsigned long long>(params.n / 16))) return;
  constexpr int kRows = Shape::kRows, kColumns = Shape::kColumns, kSlice = Shape::kSlice;
  constexpr int kThreads = Shape::kThreads, kStages = Shape::kStages;
  constexpr int kRowBytes = kSlice * 2, kChunks = kSlice / 8;
  constexpr int kLeftCopies = kRows * kChunks / kThreads;
  constexpr int kRightCopies = kColumns * kChunks / kThreads;
  constexpr int kStep = kThreads / kChunks;  // rows between two copies of a thread
  // Neighbouring rows put the same column into other banks: 8 rows x 16 bytes cover all 32.
  const auto swizzle = [](int row) { return kSlice == 64 ? row & 7 : (row >> 1) & 3; };

  unsigned char* memory = simt::shared();
  unsigned char* stages = memory;
  float* queue_score = reinterpret_cast<float*>(stages + kStages * Shape::kStageBytes);
  int* queue_column = reinterpret_cast<int*>(queue_score + kRows * kQueue);
  float* limits = reinterpret_cast<float*>(queue_column + kRows * kQueue);
  int* queued = reinterpret_cast<int*>(limits + kRows);
  float* starts = reinterpret_cast<float*>(queued + kRows);  // two tiles of columns, in turn
  // Of the symmetric filter: h of the rows, and limits of two tiles of columns, in turn.
  float* row_starts = starts + 2 * kColumns;
  float* column_limits = row_starts + kColumns;
  float* heap_score = starts + (symmetric ? 5 : 2) * kColumns;
  int* heap_column = reinterpret_cast<int*>(heap_score + kRows * params.keep);

  const int thread = threadIdx.x, lane = thread % 32, warp = thread / 32;
  const int warp_row = warp / (kColumns / 64) * 64, warp_column = warp % (kColumns / 64) * 64;
  const std::int64_t width = params.width;
  const int slices = static_cast<int>(width / kSlice);

  const int copy_row = thread / kChunks, copy_chunk = thread % kChunks;
  const int copy_offset = copy_row * kRowBytes + ((copy_chunk ^ swizzle(copy_row)) << 4);
  const int left_row = warp_row + (lane & 15), left_chunk = lane >> 4;
  const int right_row = warp_column + (lane & 7) + ((lane >> 4) << 3),
            right_chunk = (lane >> 3) & 1;

  const Division& division = params.division;
  const std::int64_t block = blockIdx.x;
  const Listed& listed = params.listed;
  std::int64_t run = chosen              ? listed.first_tile(block)
                     : division.rest > 0 ? division.first_tile(block)
                                         : 0;
  const std::int64_t run_end = chosen              ? listed.first_tile(block + 1)
                               : division.rest > 0 ? division.first_tile(block + 1)
                                                   : 0;
  const std::int64_t waves = chosen ? 0 : division.waves;

  for (std::int64_t wave = 0; wave < waves || run < run_end; ++wave) {
    std::int64_t row_tile, slot, first = 0, last = division.column_tiles;
    const int* list = nullptr;
    if constexpr (chosen) {
      row_tile = listed.row_of(run);
      slot = block + row_tile;
      first = run - listed.starts[row_tile];
      last = min(listed.starts[row_tile + 1] - listed.starts[row_tile], first + run_end - run);
      list = listed.list + row_tile * listed.column_tiles;
      run += last - first;
    } else if (wave < waves) {
      row_tile = wave * division.blocks + block;
      slot = row_tile;
    } else {
      const std::int64_t row = run / division.column_tiles;
      row_tile = division.waves * division.blocks + row;
      slot = division.waves * division.blocks + block + row;
      first = run % division.column_tiles;
      last = min(last, first + run_end - run);
      run += last - first;
    }
    const std::int64_t row = row_tile * kRows + thread;  // of which this thread merges the queue
    const std::int64_t self = row >= params.m             ? -1
                              : params.queries != nullptr ? params.queries[row]
                                                          : row;
    float* slot_score = params.scores + slot * params.keep * kRows;
    int* slot_column = params.columns + slot * params.keep * kRows;
    Heap heap = {(params.heap_shared ? heap_score : slot_score) + thread,
                 (params.heap_shared ? heap_column : slot_column) + thread, kRows, params.keep};
    heap.clear();
    simt::sync();  // the run before may still be read
    limits[thread] = row < params.m ? -HUGE_VALF : HUGE_VALF;
    queued[thread] = 0;
    if constexpr (symmetric) row_starts[thread] = params.start[row];

    const std::uint16_t* left =
        params.left + (row_tile * kRows + copy_row) * width + 8 * copy_chunk;
    const auto number_of = [&](std::int64_t tile) -> std::int64_t {
      return symmetric ? row_tile + tile : chosen ? list[tile] : tile;
    };
    const std::uint16_t* right =
        params.right + (number_of(first) * kColumns + copy_row) * width + 8 * copy_chunk;
    int fetch_slice = 0, fetch_stage = 0;
    std::int64_t fetch_tile = first;
    const auto fetch = [&] {
      if (fetch_tile < last) {
        unsigned char* to = stages + fetch_stage * Shape::kStageBytes + copy_offset;
        const std::uint16_t* from_left = left + fetch_slice * kSlice;
#pragma unroll
        for (int i = 0; i < kLeftCopies; ++i) {
          simt::copy16(to + i * kStep * kRowBytes, from_left + i * kStep * width);
        }
        to += kRows * kRowBytes;
        const std::uint16_t* from_right = right + fetch_slice * kSlice;
#pragma unroll
        for (int i = 0; i < kRightCopies; ++i) {
          simt::copy16(to + i * kStep * kRowBytes, from_right + i * kStep * width);
        }
        fetch_stage = fetch_stage + 1 == kStages ? 0 : fetch_stage + 1;
        if (++fetch_slice == slices) {
          fetch_slice = 0;
          ++fetch_tile;
          if constexpr (!chosen) {
            right += kColumns * width;
          } else if (fetch_tile < last) {
            right = params.right + (number_of(fetch_tile) * kColumns + copy_row) * width +
                    8 * copy_chunk;
          }
        }
      }
      simt::commit();
    };
    for (int i = 0; i < kStages - 1; ++i) fetch();
    if (thread < kColumns) starts[thread] = params.start[number_of(first) * kColumns + thread];
    simt::sync();

    int stage = 0;
    for (std::int64_t tile = first; tile < last; ++tile) {
      const int parity = static_cast<int>(tile - first) & 1;
      const float* start = starts + parity * kColumns;
      simt::Registers<float, 128> sum;  // [4 row parts][8 column parts][4]
#pragma unroll
      for (int j = 0; j < 8; ++j) {
        const float h0 = symmetric ? 0 : start[warp_column + 8 * j + 2 * (lane % 4)];
        const float h1 = symmetric ? 0 : start[warp_column + 8 * j + 2 * (lane % 4) + 1];
#pragma unroll
        for (int i = 0; i < 4; ++i) {
          float* c = &sum[(i * 8 + j) * 4];
          c[0] = c[2] = h0;
          c[1] = c[3] = h1;
        }
      }
      if constexpr (symmetric) {
        const std::int64_t column = number_of(tile) * kColumns + thread;
        column_limits[parity * kColumns + thread] =
            column < params.n ? score_of(simt::latest(params.keys + column * params.keep))
                              : HUGE_VALF;
      }
      if (thread < kColumns && tile + 1 < last) {
        starts[(parity ^ 1) * kColumns + thread] =
            params.start[number_of(tile + 1) * kColumns + thread];
      }
      for (int slice = 0; slice < slices; ++slice) {
        simt::wait<kStages - 2>();
        simt::sync();
        fetch();
        const unsigned char* left_base = stages + stage * Shape::kStageBytes;
        const unsigned char* right_base = left_base + kRows * kRowBytes;
        stage = stage + 1 == kStages ? 0 : stage + 1;
#pragma unroll
        for (int step = 0; step < kSlice / 16; ++step) {
          simt::Registers<std::uint32_t, 16> a, b;
#pragma unroll
          for (int i = 0; i < 4; ++i) {
            simt::load_matrices(&a[4 * i],
                                left_base + (left_row + 16 * i) * kRowBytes +
                                    (((2 * step + left_chunk) ^ swizzle(left_row)) << 4));
          }
#pragma unroll
          for (int j = 0; j < 4; ++j) {
            simt::load_matrices(&b[4 * j],
                                right_base + (right_row + 16 * j) * kRowBytes +
                                    (((2 * step + right_chunk) ^ swizzle(right_row)) << 4));
          }
#pragma unroll
          for (int i = 0; i < 4; ++i) {
#pragma unroll
            for (int j = 0; j < 8; ++j) {
              simt::mma<bfloat>(&sum[(i * 8 + j) * 4], &a[4 * i], &b[2 * j]);
            }
          }
        }
      }

      const int row0 = warp_row + lane / 4;
      const std::int64_t column0 = number_of(tile) * kColumns + warp_column + 2 * (lane % 4);
      if constexpr (symmetric) {
        // The other side of each pair: p of the column as the query. A tile on the diagonal holds
        // both sides already.
        if (tile > 0) {
          float h[8];
#pragma unroll
          for (int part = 0; part < 8; ++part) h[part] = row_starts[row0 + 8 * part];
#pragma unroll
          for (int j = 0; j < 8; ++j) {
#pragma unroll
            for (int e = 0; e < 2; ++e) {
              const int c = warp_column + 8 * j + 2 * (lane % 4) + e;
              const float limit = column_limits[parity * kColumns + c];
              float best = -HUGE_VALF;
#pragma unroll
              for (int part = 0; part < 8; ++part) {
                const float s = sum[(part / 2 * 8 + j) * 4 + 2 * (part % 2) + e];
                best = fmaxf(best, s + h[part]);
              }
              if (best < limit || best == -HUGE_VALF) continue;
#pragma unroll
              for (int part = 0; part < 8; ++part) {
                const float p = sum[(part / 2 * 8 + j) * 4 + 2 * (part % 2) + e] + h[part];
                if (p < limit || p == -HUGE_VALF) continue;
                offer_key(params.keys + (column0 + 8 * j + e) * params.keep, params.keep,
                          key_of(p, row_tile * kRows + row0 + 8 * part));
              }
            }
          }
        }
#pragma unroll
        for (int j = 0; j < 8; ++j) {
#pragma unroll
          for (int i = 0; i < 4; ++i) {
#pragma unroll
            for (int e = 0; e < 4; ++e) {
              sum[(i * 8 + j) * 4 + e] += start[warp_column + 8 * j + 2 * (lane % 4) + (e & 1)];
            }
          }
        }
      }

      // Candidates better than the worst one kept, usually none once some tiles have passed.
      const auto append = [&](int r, float p, std::int64_t column) {
        const int place = simt::atomic_add(&queued[r], 1);
        if (place < kQueue) {
          queue_score[place * kRows + r] = p;
          queue_column[place * kRows + r] = static_cast<int>(column);
        }
      };
      const auto merge = [&] {
        const int count = queued[thread];
        for (int i = 0; i < count; ++i) {
          const int column = queue_column[i * kRows + thread];
          if (column != self) heap.offer(queue_score[i * kRows + thread], column);
        }
        queued[thread] = 0;
        if (row < params.m) limits[thread] = heap.score[0];
      };
      bool some = false;
#pragma unroll
      for (int i = 0; i < 4; ++i) {
#pragma unroll
        for (int half = 0; half < 2; ++half) {
          const int r = row0 + 16 * i + 8 * half;
          const float limit = limits[r];
          float best = -HUGE_VALF;
#pragma unroll
          for (int j = 0; j < 8; ++j) {
            const float* c = &sum[(i * 8 + j) * 4 + 2 * half];
            best = fmaxf(best, fmaxf(c[0], c[1]));
          }
          if (best > limit) {
            some = true;
#pragma unroll
            for (int j = 0; j < 8; ++j) {
              const float* c = &sum[(i * 8 + j) * 4 + 2 * half];
              if (c[0] > limit) append(r, c[0], column0 + 8 * j);
              if (c[1] > limit) append(r, c[1], column0 + 8 * j + 1);
            }
          }
        }
      }
      if (!simt::sync_or(some)) continue;
      if (!simt::sync_or(queued[thread] > kQueue)) {
        merge();
        continue;
      }
      // Too many for the queue: 8 columns of each warp at a time always fit. Ties are taken up
      // here, since the columns of the two warps do not come in order.
#pragma unroll
      for (int j = 0; j < 8; ++j) {
        queued[thread] = 0;
        simt::sync();
#pragma unroll
        for (int i = 0; i < 4; ++i) {
#pragma unroll
          for (int e = 0; e < 4; ++e) {
            const int r = row0 + 16 * i + 8 * (e >> 1);
            const float p = sum[(i * 8 + j) * 4 + e];
            const std::int64_t column = column0 + 8 * j + (e & 1);
            if (p >= limits[r] && column < params.n) append(r, p, column);
          }
        }
        simt::sync();
        merge();
        simt::sync();
      }
    }
    simt::wait<0>();
    if (params.heap_shared) {
      for (int i = 0; i < params.keep; ++i) {
        slot_score[i * kRows + thread] = heap.score[i * kRows];
        slot_column[i * kRows + thread] = heap.column[i * kRows];
      }
    }
  }
}

}  // namespace
}  // namespace fastdim::cuda
