#include "cosine.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <memory>
#include <stdexcept>
#include <string>
#include <vector>

#include "cosine_rows.h"
#include "join_levels.h"

namespace fastdim {
namespace {

constexpr std::int64_t kChunkBytes = std::int64_t{64} << 20;
// Row panels kept in the second level cache: many, since each block reads the rows of every pair
// near an edge again.
constexpr std::int64_t kBlockBytes = std::int64_t{576} << 10;
constexpr std::int64_t kPairsPerTask = 4096;
constexpr std::int64_t kRowsPerTask = 64;
constexpr double kAxisError = 1e-12;
constexpr double kUnit = 1.0 - 1e-12;
constexpr std::int64_t kFloatAxes =
    16;                                // of those given, beside int16: each costs a float32 product
constexpr std::int64_t kJudged = 192;  // rows whose pairs tell how many int8 moves
constexpr double kMovedShare = 0.008;  // of them that may: "fast" promises one in a hundred
// Neighbouring pairs often fall into one bin: several histograms keep one increment from waiting
// for the one before.
constexpr std::int64_t kCopies = 8;  // divides every tile_cols

void check(const CosineParams& p) {
  if (p.threads < 1) throw std::invalid_argument("cosine: threads must be at least 1");
  for (std::int64_t i = 0; i < p.rows.n; ++i)
    if (!(p.inv_norms[i] >= 0.0) || std::isinf(p.inv_norms[i]))
      throw std::invalid_argument("cosine: inverse norm of row " + std::to_string(i) +
                                  " is negative or not finite");
}

// What one thread gathers.
struct Gather {
  RowScratch row;
  Panels panels;
  Aligned<float> tile;
  Aligned<std::int32_t> ints;
  std::vector<std::int64_t> histogram;  // bins x kCopies
  double min = std::numeric_limits<double>::infinity();
  double max = -std::numeric_limits<double>::infinity();
  std::int64_t refined = 0;

  Gather(const Job& job, std::int64_t block_rows)
      : row(job.d),
        panels(job, block_rows, job.common.tile_rows, true),
        tile(kMaxTileRows * kMaxTileCols),
        ints(kMaxTileRows * kMaxTileCols),
        histogram(static_cast<std::size_t>(kCopies * job.bins), 0) {}
};

struct Tile {
  std::int64_t row, rows;  // first row and how many are real
  std::int64_t col, cols;
};

// Cosines of one panel of rows with one of columns, and a bound on the error in each row.
void multiply(const Job& job, const Panels& columns, std::int64_t column, std::int64_t panel,
              Gather& mine, double* margin) {
  const std::int64_t rows = job.common.tile_rows, cols = job.common.tile_cols;
  const Panels& own = mine.panels;
  job.common.product(own.unit.data() + panel * rows * job.floats,
                     columns.unit.data() + column * cols * job.floats,
                     static_cast<std::size_t>(job.floats), mine.tile.data());
  std::fill(margin, margin + rows, job.margin);
  if (!job.ints()) return;
  job.kernels.product_ints(
      {own.ints.data() + panel * rows * 2 * own.pairs,
       columns.ints.data() + column * cols * 2 * own.pairs, static_cast<std::size_t>(own.pairs),
       job.shift(), own.bytes.data() + panel * rows * 4 * own.units,
       columns.bytes.data() + column * cols * 4 * own.units, static_cast<std::size_t>(own.units),
       own.offset.data() + panel * rows},
      mine.ints.data());
  job.kernels.combine(mine.ints.data(), own.scale.data() + panel * rows,
                      columns.scale.data() + column * cols, mine.tile.data());
  const auto slot = static_cast<std::ptrdiff_t>(column * cols);
  const double length =
      *std::max_element(columns.length.begin() + slot, columns.length.begin() + slot + cols);
  const double error =
      *std::max_element(columns.error.begin() + slot, columns.error.begin() + slot + cols);
  for (std::int64_t r = 0; r < rows; ++r) {
    const std::size_t i = static_cast<std::size_t>(panel * rows + r);
    // |q.p / (s t) - x.y| <= |x| e_y + e_x |y| + e_x e_y
    margin[r] += (own.length[i] * error + own.error[i] * (length + error)) * (1.0 + 0x1p-20);
  }
}

// One count for each of the bins row[0], ..., row[width - 1]. Copies of a bin lie side by side, so
// that one address serves all of them.
void add_full_row(const std::int32_t* row, std::int64_t width, std::int64_t* histogram) {
  for (std::int64_t c = 0; c < width; c += kCopies) {
    ++histogram[kCopies * std::int64_t{row[c]}];
    ++histogram[kCopies * std::int64_t{row[c + 1]} + 1];
    ++histogram[kCopies * std::int64_t{row[c + 2]} + 2];
    ++histogram[kCopies * std::int64_t{row[c + 3]} + 3];
    ++histogram[kCopies * std::int64_t{row[c + 4]} + 4];
    ++histogram[kCopies * std::int64_t{row[c + 5]} + 5];
    ++histogram[kCopies * std::int64_t{row[c + 6]} + 6];
    ++histogram[kCopies * std::int64_t{row[c + 7]} + 7];
  }
}

void count_tile(const Job& job, const Tile& at, const double* margin, Gather& mine) {
  alignas(64) std::int32_t bins[kMaxTileRows * kMaxTileCols];
  std::uint32_t unsure[kMaxTileRows];
  float near_edge[kMaxTileRows], low[kMaxTileRows], high[kMaxTileRows];
  constexpr float infinity = std::numeric_limits<float>::infinity();
  const double widest = *std::max_element(margin, margin + job.common.tile_rows);
  std::fill(low, low + kMaxTileRows, mine.min <= -kUnit ? -infinity : round_up(mine.min + widest));
  std::fill(high, high + kMaxTileRows,
            mine.max >= kUnit ? infinity : round_down(mine.max - widest));
  for (int r = 0; r < job.common.tile_rows; ++r) {
    // The position is at most bins (1 + margin) and rounded once or twice; 2^-22 of the sum pays
    // for its own rounding to float32.
    const double sum = static_cast<double>(job.bins) * (0.5 * margin[r] + 0x1p-22);
    near_edge[r] = job.exact_counts ? static_cast<float>(sum * (1.0 + 0x1p-22)) : -1.0f;
  }
  job.kernels.bin(mine.tile.data(), static_cast<float>(job.bins) * 0.5f, near_edge, low, high, bins,
                  unsure);

  const std::int64_t width = job.common.tile_cols;
  std::int64_t* histogram = mine.histogram.data();
  for (std::int64_t r = 0; r < at.rows; ++r) {
    const std::int64_t i = at.row + r;
    const std::int32_t* row = bins + r * width;
    const std::int64_t from = std::max<std::int64_t>(0, i + 1 - at.col);
    if (job.rows.repeated) {
      const std::int64_t* weights = job.rows.weights.data();
      for (std::int64_t c = from; c < at.cols; ++c)
        histogram[kCopies * row[c] + c % kCopies] += weights[i] * weights[at.col + c];
    } else if (from == 0 && at.cols == width) {
      add_full_row(row, width, histogram);
    } else {
      for (std::int64_t c = from; c < at.cols; ++c) ++histogram[kCopies * row[c] + c % kCopies];
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
      histogram[kCopies * row[c] + c % kCopies] -= weight;
      histogram[kCopies * job.bin(cosine)] += weight;
    }
  }
}

// Pairs of the rows [begin, end) with the later rows of a chunk.
void count_block(const Job& job, const Coded* coded, const Panels& chunk, std::int64_t chunk_start,
                 std::int64_t chunk_count, std::int64_t begin, std::int64_t end, Gather& mine) {
  const std::int64_t rows = job.common.tile_rows, cols = job.common.tile_cols;
  const std::int64_t panels = tasks(end - begin, rows);
  for (std::int64_t panel = 0; panel < panels; ++panel) {
    const std::int64_t first = begin + panel * rows;
    mine.panels.fill(job, coded, panel, first, std::min(rows, end - first), mine.row);
  }
  double margin[kMaxTileRows];
  const std::int64_t skip = std::max<std::int64_t>(0, begin + 1 - chunk_start) / cols;
  for (std::int64_t column = skip; column < tasks(chunk_count, cols); ++column) {
    const std::int64_t col = chunk_start + column * cols;
    const std::int64_t count = std::min(cols, chunk_count - column * cols);
    for (std::int64_t panel = 0; panel < panels; ++panel) {
      const std::int64_t row = begin + panel * rows;
      if (col + count - 1 <= row) break;  // this and all further rows come after the columns
      multiply(job, chunk, column, panel, mine, margin);
      count_tile(job, {row, std::min(rows, end - row), col, count}, margin, mine);
    }
  }
}

void check_axes(const CosineParams& p) {
  if (p.axis_count < 0 || p.axis_count > kMaxCosineAxes)
    throw std::invalid_argument("cosine: at most " + std::to_string(kMaxCosineAxes) + " axes");
  for (std::int64_t i = 0; i < p.axis_count; ++i)
    for (std::int64_t j = 0; j <= i; ++j) {
      double product = i == j ? -1.0 : 0.0;
      for (std::int64_t c = 0; c < p.rows.d; ++c)
        product += p.axes[i * p.rows.d + c] * p.axes[j * p.rows.d + c];
      if (!(std::fabs(product) <= kAxisError))
        throw std::invalid_argument("cosine: the axes are not orthonormal");
    }
}

// Error of everything but the rounding of rows to int16.
double arithmetic_margin(const Job& job) {
  const double e =
      0x1p-24 * (1.0 + 0x1p-20) + std::sqrt(static_cast<double>(job.floats)) * 0x1p-149;
  const double float64 = static_cast<double>(job.d + 16) * 0x1p-51;
  double margin = product_error(job.floats) * (1.0 + e) * (1.0 + e) + underflow(job.floats) +
                  2.0 * e + e * e + float64;
  // An int32 and two scales become float32, two products and a sum of at most 1.01 are rounded;
  // what axes that are not quite orthogonal leave of each other.
  if (job.ints()) margin += 8.0 * 0x1p-24 + 4.0 * static_cast<double>(job.axes) * kAxisError;
  return margin;
}

// The job in that arithmetic.
Job in_arithmetic(Job job, Arithmetic arithmetic) {
  job.arithmetic = arithmetic;
  job.axes = arithmetic == Arithmetic::int8    ? job.p.axis_count
             : arithmetic == Arithmetic::int16 ? std::min(job.p.axis_count, kFloatAxes)
                                               : 0;
  job.floats = arithmetic == Arithmetic::int8    ? 0
               : arithmetic == Arithmetic::int16 ? job.axes
                                                 : job.d;
  job.margin = arithmetic_margin(job);
  return job;
}

// Up to `count` rows, evenly spread, and which they are.
Coded sampled(const Job& job, std::int64_t count, std::vector<std::int64_t>& rows) {
  const std::int64_t step = tasks(job.n, count);
  for (std::int64_t i = 0; i < job.n; i += step) rows.push_back(i);
  Coded sample(job, static_cast<std::int64_t>(rows.size()));
  RowScratch scratch(job.d);
  for (std::size_t i = 0; i < rows.size(); ++i)
    sample.encode(job, rows[i], static_cast<std::int64_t>(i), scratch);
  return sample;
}

// Whether int16 with its wider margin costs less than float32, judged from up to 256 rows: times of
// a pair in nanoseconds, products at 490 and 175 billion operations a second and thread, and
// float64 products of the pairs near an edge. As measured on Zen 5; only the ratio matters.
bool prefer_int16(const Job& job) {
  std::vector<std::int64_t> rows;
  const Coded sample = sampled(job, 256, rows);
  double length = 0.0, error = 0.0;
  for (const Quantized& row : sample.rows) {
    length += row.length / static_cast<double>(rows.size());
    error += row.error / static_cast<double>(rows.size());
  }
  const double d = static_cast<double>(job.d), refine = 20.0 + 0.1 * d;
  const auto cost = [&](double margin, double rate) {
    const double share = job.exact_counts ? std::min(1.0, 2.0 * margin / job.step) : 0.0;
    return 2.0 * d / rate + share * refine;
  };
  return cost(2.0 * length * error + 2e-6, 490.0) < cost(product_error(job.d), 175.0);
}

// Whether rounding to int8 moves few enough pairs of a sample to another bin.
bool keeps_bins_in_int8(const Job& job) {
  std::vector<std::int64_t> rows;
  const Coded sample = sampled(job, kJudged, rows);
  std::int64_t moved = 0, pairs = 0;
  for (std::size_t i = 0; i < rows.size(); ++i)
    for (std::size_t j = 0; j < i; ++j, ++pairs)
      moved += job.bin(job.exact(rows[i], rows[j])) !=
               job.bin(clipped_cosine(sample.product(job, static_cast<std::int64_t>(i),
                                                     static_cast<std::int64_t>(j))));
  return static_cast<double>(moved) <= kMovedShare * static_cast<double>(pairs);
}

Job choose(const Job& job) {
  if (job.p.arithmetic != Arithmetic::any) return in_arithmetic(job, job.p.arithmetic);
  const Job floats = in_arithmetic(job, Arithmetic::float32);
  if (job.n < 2 || !has_int16(job.p.isa)) return floats;
  if (!job.exact_counts && job.d > 2 * job.p.axis_count) {
    const Job bytes = in_arithmetic(job, Arithmetic::int8);
    if (keeps_bins_in_int8(bytes)) return bytes;
  }
  const Job ints = in_arithmetic(job, Arithmetic::int16);
  return prefer_int16(ints) ? ints : floats;
}

const char* name(Arithmetic arithmetic) {
  return arithmetic == Arithmetic::int8    ? "int8"
         : arithmetic == Arithmetic::int16 ? "int16"
                                           : "float32";
}

}  // namespace

const CosineKernels& cosine_kernels(Isa isa) {
  return at_level(isa, scalar_cosine_kernels, FASTDIM_IF_AVX2(avx2_cosine_kernels),
                  FASTDIM_IF_AVX512(avx512_cosine_kernels));
}

bool has_int16(Isa isa) { return cosine_kernels(isa).product_ints && cpu_features().avx512_vnni; }

CosineRange cosine_histogram(const CosineParams& p, std::int64_t bins, std::int64_t* histogram) {
  check(p);
  check_axes(p);
  if (bins < 1 || bins > (std::int64_t{1} << 22))
    throw std::invalid_argument("cosine: bins must be between 1 and 2^22");
  if (p.arithmetic == Arithmetic::int8 && p.exact_counts)
    throw std::invalid_argument("cosine: int8 products are for counts that need not be exact");
  if ((p.arithmetic == Arithmetic::int16 || p.arithmetic == Arithmetic::int8) && !has_int16(p.isa))
    throw std::invalid_argument(std::string("cosine: ") + name(p.arithmetic) +
                                " products need the level avx512 and a CPU with VNNI");
  std::fill(histogram, histogram + bins, 0);
  const Weighted rows = nonzero_distinct(p);
  const std::int64_t n = static_cast<std::int64_t>(rows.ids.size()), d = p.rows.d;

  Job given = {p,
               kernels(p.isa),
               cosine_kernels(p.isa),
               join_kernels(p.isa),
               rows,
               {},
               bins,
               2.0 / static_cast<double>(bins),
               p.exact_counts,
               Arithmetic::float32,
               n,
               d,
               0,
               d,
               0.0};
  given.transform.mean.assign(static_cast<std::size_t>(d), 0.0);
  given.transform.row_scale = p.inv_norms;
  const Job job = choose(given);

  const std::int64_t tile_rows = job.common.tile_rows, tile_cols = job.common.tile_cols;
  const std::int64_t row_bytes = 4 * (job.pairs() + job.units() + job.floats);
  const std::int64_t block_rows =
      std::clamp<std::int64_t>(std::min(kBlockBytes / row_bytes, n / (8 * p.threads)) / tile_rows,
                               1, 448 / tile_rows) *
      tile_rows;
  std::vector<Gather> gathers;
  for (int worker = 0; worker < p.threads; ++worker) gathers.emplace_back(job, block_rows);

  std::unique_ptr<Coded> coded;
  if (job.ints()) {
    coded = std::make_unique<Coded>(job, n);
    parallel_for(tasks(n, kRowsPerTask), p.threads, p.poll, [&](std::int64_t task, int worker) {
      RowScratch& scratch = gathers[static_cast<std::size_t>(worker)].row;
      for (std::int64_t i = task * kRowsPerTask; i < std::min(n, (task + 1) * kRowsPerTask); ++i)
        coded->encode(job, i, i, scratch);
    });
  }

  const std::int64_t chunk_panels =
      std::min(tasks(n, tile_cols), std::max(kChunkBytes / row_bytes / tile_cols, std::int64_t{1}));
  const std::int64_t chunk_rows = chunk_panels * tile_cols;
  Panels chunk(job, chunk_rows, tile_cols, false);
  for (std::int64_t start = 0; start < n; start += chunk_rows) {
    const std::int64_t count = std::min(chunk_rows, n - start);
    parallel_for(tasks(count, tile_cols), p.threads, p.poll, [&](std::int64_t panel, int worker) {
      const std::int64_t first = panel * tile_cols;
      chunk.fill(job, coded.get(), panel, start + first, std::min(tile_cols, count - first),
                 gathers[static_cast<std::size_t>(worker)].row);
    });
    parallel_for(tasks(start + count, block_rows), p.threads, p.poll,
                 [&](std::int64_t block, int worker) {
                   count_block(job, coded.get(), chunk, start, count, block * block_rows,
                               std::min(start + count, (block + 1) * block_rows),
                               gathers[static_cast<std::size_t>(worker)]);
                 });
  }

  CosineRange range = {std::numeric_limits<double>::infinity(),
                       -std::numeric_limits<double>::infinity(), n * (n - 1) / 2, 0,
                       name(job.arithmetic)};
  for (const Gather& mine : gathers) {
    for (std::int64_t b = 0; b < kCopies * bins; ++b)
      histogram[b / kCopies] += mine.histogram[static_cast<std::size_t>(b)];
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
      out[pair] = x == 0.0 || y == 0.0
                      ? std::numeric_limits<double>::quiet_NaN()
                      : clipped_cosine(dot(p.rows.row(i[pair]), p.rows.row(j[pair]),
                                           static_cast<std::size_t>(p.rows.d), x, y));
    }
  });
}

}  // namespace fastdim
