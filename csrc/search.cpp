#include "search.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "neighbor_list.h"
#include "pack.h"
#include "refine.h"
#include "threads.h"

namespace fastdim {
namespace {

constexpr std::int64_t kRowsPerTask = 1024;
constexpr std::int64_t kChunkBytes = std::int64_t{64} << 20;
constexpr std::int64_t kBlockBytes = std::int64_t{256} << 10;  // query panels kept in L2
constexpr std::int64_t kFirstGroup = 256;  // reference columns between two refinements: at first
constexpr std::int64_t kLastGroup = 4096;  // and at most
constexpr double kSplit = 0x1p-10;         // t in knn.h

// Everything that does not change while the scan runs.
struct References {
  Transform transform;
  double scale = 1.0;            // of float64 differences, see Refiner
  double g = 0, w = 0;           // product_error and underflow of knn.h
  double slack = 1.0;            // a computed distance times this is above the exact one
  std::vector<float> col_bound;  // b of the references
  // |c|^2 and e of the references, or of the other rows that are looked up: by `bound_of`.
  std::vector<double> norm2;
  std::vector<double> error;
};

const Rows& query_rows(const SearchParams& p) { return p.others ? *p.others : p.rows; }

// Number, in query_rows, of a query.
std::int64_t query_row(const SearchParams& p, std::int64_t query) {
  return p.others ? p.queries[query] : p.ids[p.queries[query]];
}

// Place of a query in References::norm2.
std::size_t bound_of(const SearchParams& p, std::int64_t query) {
  return static_cast<std::size_t>(p.others ? query : p.queries[query]);
}

struct Hit {
  float score;  // p - b: larger is nearer
  std::int32_t column;
  bool operator<(const Hit& other) const { return score < other.score; }
};

// Per-thread memory of the scan.
struct Scratch {
  RowScratch row;
  Aligned<float> panels;
  Aligned<float> tile;
  Aligned<float> row_bound;
  std::vector<std::vector<Hit>> hits;
  Refiner refiner;
  std::int64_t refined = 0;

  Scratch(const SearchParams& p, const References& refs, int panels_per_block)
      : row(p.rows.d),
        panels(static_cast<std::size_t>(panels_per_block * p.kernels->tile_rows * p.rows.d)),
        tile(kMaxTileRows * kMaxTileCols),
        row_bound(static_cast<std::size_t>(panels_per_block * p.kernels->tile_rows)),
        hits(static_cast<std::size_t>(panels_per_block * p.kernels->tile_rows)),
        refiner(*p.kernels, query_rows(p), p.rows, refs.scale) {}
};

References prepare(const SearchParams& p) {
  References refs;
  std::vector<RowScratch> scratch;
  for (int worker = 0; worker < p.threads; ++worker) scratch.emplace_back(p.rows.d);

  const RowSet set = {p.rows, p.ids, p.n, p.kernels, p.threads, p.poll};
  double largest = largest_magnitude(set);
  if (p.others) {
    const RowSet others = {*p.others, p.queries, p.m, p.kernels, p.threads, p.poll};
    largest = std::max(largest, largest_magnitude(others));
    // Distinct rows hold a number that is not 0; one reference and its equal may not.
    if (largest == 0) largest = 1.0;
  }
  refs.scale = difference_scale(p.rows.dtype, largest);
  refs.transform.pre = refs.scale;
  refs.transform.mean = scaled_mean(set, refs.scale, scratch);
  refs.transform.post = centered_scale(refs.scale * largest, p.rows.d);

  refs.col_bound.resize(static_cast<std::size_t>(p.n));
  const double float64_error = float64_error_of(p.rows.d);
  // 1 + 2^-20 and float64_error pay for the float64 roundings in the bounds themselves.
  refs.g = product_error(p.rows.d) * (1.0 + 0x1p-20) + float64_error;
  refs.w = underflow(p.rows.d);
  refs.slack = 1.0 + float64_error;
  // Measures each row of a matrix in the form that products read.
  const auto measure = [&](const Rows& rows, const std::int64_t* ids, std::int64_t count) {
    refs.norm2.resize(static_cast<std::size_t>(count));
    refs.error.resize(static_cast<std::size_t>(count));
    parallel_for(
        tasks(count, kRowsPerTask), p.threads, *p.poll, [&](std::int64_t task, int worker) {
          RowScratch& mine = scratch[static_cast<std::size_t>(worker)];
          const std::int64_t stop = std::min(count, (task + 1) * kRowsPerTask);
          for (std::int64_t i = task * kRowsPerTask; i < stop; ++i) {
            double norm2, error2;
            transform_row(*p.kernels, rows, refs.transform, ids[i], mine, &norm2, &error2);
            refs.norm2[static_cast<std::size_t>(i)] = norm2;
            refs.error[static_cast<std::size_t>(i)] = centering_error(norm2, error2, rows.d);
          }
        });
  };
  measure(p.rows, p.ids, p.n);
  for (std::size_t at = 0; at < refs.col_bound.size(); ++at)
    refs.col_bound[at] = round_down(0.5 * ((1.0 - refs.g) * refs.norm2[at] -
                                           (1.0 + 1.0 / kSplit) * refs.error[at] * refs.error[at]));
  if (p.others) measure(*p.others, p.queries, p.m);
  return refs;
}

// a of knn.h for a query measured at `at`, whose k-th distance so far is `threshold`.
float row_bound(const References& refs, std::size_t at, double threshold) {
  constexpr float lowest = std::numeric_limits<float>::lowest();
  if (std::isinf(threshold)) return lowest;
  const double limit = widened(threshold) * refs.scale;
  const double reach = limit * refs.transform.post * refs.slack + refs.error[at];
  const double bound =
      0.5 * ((1.0 - refs.g) * refs.norm2[at] - (1.0 + kSplit) * reach * reach * refs.slack) -
      refs.w;
  return std::max(round_down(bound), lowest);
}

// One packed chunk of references: columns [start, start + count).
struct Chunk {
  std::int64_t start;
  std::int64_t count;
  const float* panels;
  const float* col_bound;  // padded with +inf to whole panels: a padding column never hits
};

// Recomputes the hits of one query, nearest first, until the rest is out of reach.
void refine_hits(const SearchParams& p, const References& refs, std::int64_t query,
                 const Chunk& chunk, std::vector<Hit>& hits, float* bound, Scratch& scratch) {
  NeighborList list(p.distances + query * p.k, p.indices + query * p.k, p.k);
  const std::int64_t row = query_row(p, query);
  const std::int64_t self = p.others ? -1 : p.queries[query];
  std::make_heap(hits.begin(), hits.end());
  while (!hits.empty() && hits.front().score >= *bound) {
    const std::int64_t j = chunk.start + hits.front().column;
    std::pop_heap(hits.begin(), hits.end());
    hits.pop_back();
    if (j == self) continue;
    const double before = list.threshold();
    const double distance = scratch.refiner.distance(row, p.ids[j], widened(before));
    ++scratch.refined;
    list.offer(distance, j);
    if (list.threshold() < before) *bound = row_bound(refs, bound_of(p, query), list.threshold());
  }
  hits.clear();
}

// All columns of a chunk for the queries [begin, end).
void scan_block(const SearchParams& p, const References& refs, const Chunk& chunk,
                std::int64_t begin, std::int64_t end, Scratch& scratch) {
  const Kernels& kernels = *p.kernels;
  const std::int64_t rows = kernels.tile_rows, cols = kernels.tile_cols, d = p.rows.d;
  const std::int64_t query_panels = tasks(end - begin, rows);
  const std::int64_t chunk_panels = tasks(chunk.count, cols);

  for (std::int64_t panel = 0; panel < query_panels; ++panel) {
    std::int64_t ids[kMaxTileRows];
    const std::int64_t first = begin + panel * rows;
    const int count = static_cast<int>(std::min(rows, end - first));
    for (int r = 0; r < count; ++r) ids[r] = query_row(p, first + r);
    pack_panel(kernels, query_rows(p), refs.transform, ids, count, kernels.tile_rows, scratch.row,
               scratch.panels.data() + panel * rows * d);
  }
  float* bounds = scratch.row_bound.data();
  for (std::int64_t r = 0; r < query_panels * rows; ++r)
    bounds[r] = begin + r < end
                    ? row_bound(refs, bound_of(p, begin + r), p.distances[(begin + r) * p.k])
                    : std::numeric_limits<float>::infinity();

  for (std::int64_t from = 0; from < chunk_panels;) {
    // Refining after a group tightens the thresholds for the next; while few references were seen
    // thresholds fall fast, so groups begin small.
    const std::int64_t seen = chunk.start + from * cols;
    const std::int64_t group = std::clamp(seen, kFirstGroup, kLastGroup) / cols;
    const std::int64_t to = std::min(chunk_panels, from + group);
    for (std::int64_t column = from; column < to; ++column) {
      const float* panel = chunk.panels + column * cols * d;
      for (std::int64_t block = 0; block < query_panels; ++block) {
        std::uint32_t masks[kMaxTileRows];
        float* tile = scratch.tile.data();
        kernels.product(scratch.panels.data() + block * rows * d, panel,
                        static_cast<std::size_t>(d), tile);
        if (!kernels.filter(tile, bounds + block * rows, chunk.col_bound + column * cols, masks))
          continue;
        for (std::int64_t r = 0; r < rows; ++r)
          for (std::uint32_t mask = masks[r]; mask; mask &= mask - 1) {
            const std::int64_t c = __builtin_ctz(mask);
            scratch.hits[static_cast<std::size_t>(block * rows + r)].push_back(
                {tile[r * cols + c], static_cast<std::int32_t>(column * cols + c)});
          }
      }
    }
    for (std::int64_t r = 0; r < end - begin; ++r) {
      std::vector<Hit>& hits = scratch.hits[static_cast<std::size_t>(r)];
      if (!hits.empty()) refine_hits(p, refs, begin + r, chunk, hits, bounds + r, scratch);
    }
    from = to;
  }
}

}  // namespace

std::int64_t search(const SearchParams& p) {
  const References refs = prepare(p);
  const Kernels& kernels = *p.kernels;
  const std::int64_t rows = kernels.tile_rows, cols = kernels.tile_cols, d = p.rows.d;

  const std::int64_t panels_per_block =
      std::clamp<std::int64_t>(kBlockBytes / (4 * rows * d), 1, 112 / rows);
  const std::int64_t block_rows = panels_per_block * rows;
  std::vector<Scratch> scratch;
  for (int worker = 0; worker < p.threads; ++worker)
    scratch.emplace_back(p, refs, static_cast<int>(panels_per_block));
  for (std::int64_t i = 0; i < p.m; ++i)
    NeighborList(p.distances + i * p.k, p.indices + i * p.k, p.k).clear();

  const std::int64_t default_rows = std::max(kChunkBytes / (4 * d) / cols, std::int64_t{1}) * cols;
  const std::int64_t chunk_rows =
      std::min({p.n, p.chunk_rows > 0 ? p.chunk_rows : default_rows,
                std::int64_t{std::numeric_limits<std::int32_t>::max() / 2}});
  Aligned<float> panels(static_cast<std::size_t>(tasks(chunk_rows, cols) * cols * d));
  Aligned<float> col_bound(static_cast<std::size_t>(tasks(chunk_rows, cols) * cols));

  for (std::int64_t start = 0; start < p.n; start += chunk_rows) {
    const std::int64_t count = std::min(chunk_rows, p.n - start);
    const std::int64_t chunk_panels = tasks(count, cols);
    parallel_for(chunk_panels, p.threads, *p.poll, [&](std::int64_t panel, int worker) {
      const std::int64_t first = panel * cols;
      pack_panel(kernels, p.rows, refs.transform, p.ids + start + first,
                 static_cast<int>(std::min(cols, count - first)), kernels.tile_cols,
                 scratch[static_cast<std::size_t>(worker)].row, panels.data() + first * d);
    });
    for (std::int64_t c = 0; c < chunk_panels * cols; ++c)
      col_bound.data()[c] = c < count ? refs.col_bound[static_cast<std::size_t>(start + c)]
                                      : std::numeric_limits<float>::infinity();
    const Chunk chunk = {start, count, panels.data(), col_bound.data()};
    parallel_for(tasks(p.m, block_rows), p.threads, *p.poll, [&](std::int64_t block, int worker) {
      scan_block(p, refs, chunk, block * block_rows, std::min(p.m, (block + 1) * block_rows),
                 scratch[static_cast<std::size_t>(worker)]);
    });
  }

  parallel_for(tasks(p.m, kRowsPerTask), p.threads, *p.poll, [&](std::int64_t task, int) {
    for (std::int64_t i = task * kRowsPerTask; i < std::min(p.m, (task + 1) * kRowsPerTask); ++i)
      NeighborList(p.distances + i * p.k, p.indices + i * p.k, p.k).sort();
  });
  std::int64_t refined = 0;
  for (const Scratch& mine : scratch) refined += mine.refined;
  return refined;
}

}  // namespace fastdim
