#include "cosine.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <stdexcept>
#include <string>
#include <vector>

#include "cosine_levels.h"
#include "distinct.h"
#include "pack.h"
#include "threads.h"

namespace fastdim {
namespace {

constexpr std::int64_t kChunkBytes = std::int64_t{64} << 20;
constexpr std::int64_t kBlockBytes = std::int64_t{256} << 10;  // row panels kept in L2
constexpr std::int64_t kPairsPerTask = 4096;
constexpr double kUnit = 1.0 - 1e-12;
// Neighbouring pairs often fall into one bin: several histograms keep one increment from waiting
// for the one before.
constexpr std::int64_t kCopies = 4;

std::int64_t tasks(std::int64_t count, std::int64_t size) { return (count + size - 1) / size; }

void check(const CosineParams& p) {
  if (p.threads < 1) throw std::invalid_argument("cosine: threads must be at least 1");
  for (std::int64_t i = 0; i < p.rows.n; ++i)
    if (!(p.inv_norms[i] >= 0.0) || std::isinf(p.inv_norms[i]))
      throw std::invalid_argument("cosine: inverse norm of row " + std::to_string(i) +
                                  " is negative or not finite");
}

double clip(double cosine) { return std::min(1.0, std::max(-1.0, cosine)); }

// The nonzero distinct rows, each with the number of rows equal to it.
struct Weighted {
  std::vector<std::int64_t> ids, weights;
  bool repeated = false;  // some weight is above 1
};

Weighted nonzero_distinct(const CosineParams& p) {
  std::vector<std::int64_t> first(static_cast<std::size_t>(p.rows.n)), inverse(first.size());
  const std::int64_t groups = distinct(p.rows, p.threads, p.poll, first.data(), inverse.data());
  // Equal rows may be left out one by one: the first that takes part stands for the others.
  std::vector<std::int64_t> count(static_cast<std::size_t>(groups), 0);
  for (std::int64_t row = p.rows.n; row-- > 0;) {
    if (p.inv_norms[row] == 0.0) continue;
    const std::int64_t g = inverse[static_cast<std::size_t>(row)];
    first[static_cast<std::size_t>(g)] = row;
    ++count[static_cast<std::size_t>(g)];
  }
  Weighted rows;
  for (std::size_t g = 0; g < count.size(); ++g) {
    if (count[g] == 0) continue;
    rows.ids.push_back(first[g]);
    rows.weights.push_back(count[g]);
    rows.repeated = rows.repeated || count[g] > 1;
  }
  return rows;
}

struct Job {
  const CosineParams& p;
  const Kernels& common;
  const CosineKernels& kernels;
  const Weighted& rows;
  Transform transform;
  std::int64_t bins;
  double step;        // width of a bin
  double margin;      // of a float32 cosine
  float edge_margin;  // the same in bins, with the rounding of the position
  std::int64_t n, d;

  double exact(std::int64_t i, std::int64_t j) const {
    const std::int64_t x = rows.ids[static_cast<std::size_t>(i)];
    const std::int64_t y = rows.ids[static_cast<std::size_t>(j)];
    return clip(kernels.dot[static_cast<int>(p.rows.dtype)](
        p.rows.row(x), p.rows.row(y), static_cast<std::size_t>(d), p.inv_norms[x], p.inv_norms[y]));
  }

  double edge(std::int64_t b) const { return static_cast<double>(b) * step - 1.0; }

  std::int64_t bin(double cosine) const {
    const double position = (cosine + 1.0) / step;
    std::int64_t b = std::clamp<std::int64_t>(static_cast<std::int64_t>(position), 0, bins - 1);
    while (b > 0 && cosine < edge(b)) --b;
    while (b < bins - 1 && cosine >= edge(b + 1)) ++b;
    return b;
  }
};

// What one thread gathers.
struct Gather {
  RowScratch row;
  AlignedFloats panels;
  AlignedFloats tile;
  std::vector<std::int64_t> histogram;  // kCopies x bins
  double min = std::numeric_limits<double>::infinity();
  double max = -std::numeric_limits<double>::infinity();
  std::int64_t refined = 0;

  Gather(const Job& job, std::int64_t block_rows)
      : row(job.d),
        panels(static_cast<std::size_t>(block_rows * job.d)),
        tile(kMaxTileRows * kMaxTileCols),
        histogram(static_cast<std::size_t>(kCopies * job.bins), 0) {}
};

struct Tile {
  std::int64_t row, rows;  // first row and how many are real
  std::int64_t col, cols;
};

void count_tile(const Job& job, const Tile& at, Gather& mine) {
  alignas(64) std::int32_t bins[kMaxTileRows * kMaxTileCols];
  std::uint32_t unsure[kMaxTileRows];
  constexpr float infinity = std::numeric_limits<float>::infinity();
  const float low = mine.min <= -kUnit ? -infinity : round_up(mine.min + job.margin);
  const float high = mine.max >= kUnit ? infinity : round_down(mine.max - job.margin);
  job.kernels.bin(mine.tile.data(), static_cast<float>(job.bins) * 0.5f, job.edge_margin, low, high,
                  bins, unsure);

  const std::int64_t width = job.kernels.tile_cols;
  std::int64_t* histogram = mine.histogram.data();
  for (std::int64_t r = 0; r < at.rows; ++r) {
    const std::int64_t i = at.row + r;
    const std::int32_t* row = bins + r * width;
    const std::int64_t from = std::max<std::int64_t>(0, i + 1 - at.col);
    if (!job.rows.repeated) {
      for (std::int64_t c = from; c < at.cols; ++c) ++histogram[(c % kCopies) * job.bins + row[c]];
    } else {
      const std::int64_t* weights = job.rows.weights.data();
      for (std::int64_t c = from; c < at.cols; ++c)
        histogram[(c % kCopies) * job.bins + row[c]] += weights[i] * weights[at.col + c];
    }
    for (std::uint32_t mask = unsure[r]; mask; mask &= mask - 1) {
      const std::int64_t c = __builtin_ctz(mask);
      if (c < from || c >= at.cols) continue;
      const std::int64_t j = at.col + c;
      const double cosine = job.exact(i, j);
      ++mine.refined;
      mine.min = std::min(mine.min, cosine);
      mine.max = std::max(mine.max, cosine);
      const std::int64_t weight = job.rows.weights[static_cast<std::size_t>(i)] *
                                  job.rows.weights[static_cast<std::size_t>(j)];
      histogram[(c % kCopies) * job.bins + row[c]] -= weight;
      histogram[job.bin(cosine)] += weight;
    }
  }
}

// Pairs of the rows [begin, end) with the later rows of a chunk.
void count_block(const Job& job, const float* chunk, std::int64_t chunk_start,
                 std::int64_t chunk_count, std::int64_t begin, std::int64_t end, Gather& mine) {
  const std::int64_t rows = job.kernels.tile_rows, cols = job.kernels.tile_cols;
  const std::int64_t panels = tasks(end - begin, rows);
  for (std::int64_t panel = 0; panel < panels; ++panel) {
    const std::int64_t first = begin + panel * rows;
    pack_panel(job.common, job.p.rows, job.transform, job.rows.ids.data() + first,
               static_cast<int>(std::min(rows, end - first)), job.kernels.tile_rows, mine.row,
               mine.panels.data() + panel * rows * job.d);
  }
  const std::int64_t skip = std::max<std::int64_t>(0, begin + 1 - chunk_start) / cols;
  for (std::int64_t column = skip; column < tasks(chunk_count, cols); ++column) {
    const std::int64_t col = chunk_start + column * cols;
    const std::int64_t count = std::min(cols, chunk_count - column * cols);
    for (std::int64_t panel = 0; panel < panels; ++panel) {
      const std::int64_t row = begin + panel * rows;
      if (col + count - 1 <= row) break;  // this and all further rows come after the columns
      job.kernels.product(mine.panels.data() + panel * rows * job.d, chunk + column * cols * job.d,
                          static_cast<std::size_t>(job.d), mine.tile.data());
      count_tile(job, {row, std::min(rows, end - row), col, count}, mine);
    }
  }
}

}  // namespace

const CosineKernels& cosine_kernels(Isa isa) {
#if defined(FASTDIM_AVX512)
  if (isa == Isa::avx512) return *avx512_cosine_kernels();
#endif
#if defined(FASTDIM_AVX2)
  if (isa == Isa::avx2) return *avx2_cosine_kernels();
#endif
  (void)isa;
  return *scalar_cosine_kernels();
}

bool has_int16(Isa isa) { return cosine_kernels(isa).product_i16 && cpu_features().avx512_vnni; }

CosineRange cosine_histogram(const CosineParams& p, std::int64_t bins, std::int64_t* histogram) {
  check(p);
  if (bins < 1 || bins > (std::int64_t{1} << 22))
    throw std::invalid_argument("cosine: bins must be between 1 and 2^22");
  std::fill(histogram, histogram + bins, 0);
  const Weighted rows = nonzero_distinct(p);
  const std::int64_t n = static_cast<std::int64_t>(rows.ids.size()), d = p.rows.d;

  Job job = {p,
             kernels(p.isa),
             cosine_kernels(p.isa),
             rows,
             {},
             bins,
             2.0 / static_cast<double>(bins),
             0,
             0,
             n,
             d};
  job.transform.mean.assign(static_cast<std::size_t>(d), 0.0);
  job.transform.row_scale = p.inv_norms;
  // Rounding a unit row to float32: 2^-24 of the row, plus 2^-150 for each element that becomes
  // subnormal; 2^-20 of it pays for norms that are 1 to float64 rounding only.
  const double e = 0x1p-24 * (1.0 + 0x1p-20) + std::sqrt(static_cast<double>(d)) * 0x1p-149;
  job.margin = product_error(d) * (1.0 + e) * (1.0 + e) + underflow(d) + 2.0 * e + e * e +
               static_cast<double>(d + 16) * 0x1p-51;
  // The position is at most bins (1 + margin) and rounded once or twice.
  job.edge_margin = round_up(static_cast<double>(bins) * (0.5 * job.margin + 0x1p-22));

  const std::int64_t tile_rows = job.kernels.tile_rows, tile_cols = job.kernels.tile_cols;
  const std::int64_t block_rows =
      std::clamp<std::int64_t>(kBlockBytes / (4 * tile_rows * d), 1, 112 / tile_rows) * tile_rows;
  std::vector<Gather> gathers;
  for (int worker = 0; worker < p.threads; ++worker) gathers.emplace_back(job, block_rows);

  const std::int64_t chunk_panels =
      std::min(tasks(n, tile_cols), std::max(kChunkBytes / (4 * d) / tile_cols, std::int64_t{1}));
  const std::int64_t chunk_rows = chunk_panels * tile_cols;
  AlignedFloats chunk(static_cast<std::size_t>(chunk_rows * d));
  for (std::int64_t start = 0; start < n; start += chunk_rows) {
    const std::int64_t count = std::min(chunk_rows, n - start);
    parallel_for(tasks(count, tile_cols), p.threads, p.poll, [&](std::int64_t panel, int worker) {
      const std::int64_t first = panel * tile_cols;
      pack_panel(job.common, p.rows, job.transform, rows.ids.data() + start + first,
                 static_cast<int>(std::min(tile_cols, count - first)), job.kernels.tile_cols,
                 gathers[static_cast<std::size_t>(worker)].row, chunk.data() + first * d);
    });
    parallel_for(tasks(start + count, block_rows), p.threads, p.poll,
                 [&](std::int64_t block, int worker) {
                   count_block(job, chunk.data(), start, count, block * block_rows,
                               std::min(start + count, (block + 1) * block_rows),
                               gathers[static_cast<std::size_t>(worker)]);
                 });
  }

  CosineRange range = {std::numeric_limits<double>::infinity(),
                       -std::numeric_limits<double>::infinity(), n * (n - 1) / 2, 0};
  for (const Gather& mine : gathers) {
    for (std::int64_t b = 0; b < kCopies * bins; ++b)
      histogram[b % bins] += mine.histogram[static_cast<std::size_t>(b)];
    range.min = std::min(range.min, mine.min);
    range.max = std::max(range.max, mine.max);
    range.pairs_refined += mine.refined;
  }
  if (rows.repeated) {
    for (const std::int64_t weight : rows.weights) histogram[bins - 1] += weight * (weight - 1) / 2;
    range.min = std::min(range.min, 1.0);
    range.max = 1.0;
  }
  if (range.max < range.min) range.min = range.max = std::numeric_limits<double>::quiet_NaN();
  if (range.max >= kUnit) range.max = 1.0;
  if (range.min <= -kUnit) range.min = -1.0;
  return range;
}

void cosine_pairs(const CosineParams& p, const std::int64_t* i, const std::int64_t* j,
                  std::int64_t count, double* out) {
  check(p);
  for (std::int64_t pair = 0; pair < count; ++pair)
    if (std::min(i[pair], j[pair]) < 0 || std::max(i[pair], j[pair]) >= p.rows.n)
      throw std::invalid_argument("cosine: pair " + std::to_string(pair) +
                                  " names a row that does not exist");
  const auto dot = cosine_kernels(p.isa).dot[static_cast<int>(p.rows.dtype)];
  parallel_for(tasks(count, kPairsPerTask), p.threads, p.poll, [&](std::int64_t task, int) {
    const std::int64_t stop = std::min(count, (task + 1) * kPairsPerTask);
    for (std::int64_t pair = task * kPairsPerTask; pair < stop; ++pair) {
      const double x = p.inv_norms[i[pair]], y = p.inv_norms[j[pair]];
      out[pair] = x == 0.0 || y == 0.0 ? std::numeric_limits<double>::quiet_NaN()
                                       : clip(dot(p.rows.row(i[pair]), p.rows.row(j[pair]),
                                                  static_cast<std::size_t>(p.rows.d), x, y));
    }
  });
}

}  // namespace fastdim
