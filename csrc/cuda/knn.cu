#include <algorithm>
#include <cmath>
#include <stdexcept>

#include "knn.h"
#include "symmetric.cuh"

namespace fastdim::cuda {
namespace {

constexpr std::int64_t kPadding = 256;  // rows of the tallest tile
constexpr int kColumnParts = 128;
constexpr int kSearchBlocks = 2;  // blocks of the full search a multiprocessor

std::int64_t up(std::int64_t value, std::int64_t to) { return (value + to - 1) / to * to; }
std::int64_t row_blocks(std::int64_t rows) { return (rows + kWarps - 1) / kWarps; }

template <class Call>
auto with_shape(Tile tile, Call call) {
  if (tile == Tile::small) return call(SmallTile{});
  if (tile == Tile::medium) return call(MediumTile{});
  return call(LargeTile{});
}

// Where everything lies in the workspace.
struct Layout {
  std::int64_t width, rows, query_rows, slots, tile_rows, lists, bytes = 0;
  std::int64_t global, mean, parts, packed, gathered, start, bounds, scores, columns, uncertain,
      list_distances, list_indices;
  // Of the pruned search alone:
  std::int64_t row_tiles, column_tiles;
  std::int64_t defect, prefix, prefix_start, prefix_bounds, limits, alive, list, list_counts,
      list_starts;
  std::int64_t keys;  // of the symmetric search alone, which has starts of lists too

  explicit Layout(const KnnParams& p) {
    width = up(p.d, kColumns);
    rows = up(p.n, kPadding);
    query_rows = up(p.m, kPadding);
    tile_rows = with_shape(p.tile, [](auto shape) { return std::int64_t{shape.kRows}; });
    const bool pruned = p.order != nullptr;
    row_tiles = (p.m + tile_rows - 1) / tile_rows;
    column_tiles = rows / kSide;
    slots = pruned        ? p.blocks + row_tiles
            : p.symmetric ? p.blocks + 2 * row_tiles
                          : Division(row_tiles, column_tiles, p.blocks).slots();
    lists = search_lists(p.m, kSearchBlocks * p.blocks) * p.k;
    global = take(sizeof(Global));
    mean = take(p.d * 8);
    parts = take(3 * p.d * 8 * kColumnParts);
    packed = take(rows * width * 2);
    gathered = take(p.queries != nullptr ? query_rows * width * 2 : 0);
    start = take(rows * 4);
    bounds = take(rows * static_cast<std::int64_t>(sizeof(RowBound)));
    scores = take(slots * p.keep * tile_rows * 4);
    columns = take(slots * p.keep * tile_rows * 4);
    uncertain = take(p.m * 8);
    list_distances = take(lists * 8);
    list_indices = take(lists * 8);
    if (p.symmetric) {
      keys = take(rows * p.keep * 8);
      list_starts = take((row_tiles + 1) * 8);
    }
    if (!pruned) return;
    defect = take(8);
    prefix = take(rows * kPrefix * 2);
    prefix_start = take(rows * 4);
    prefix_bounds = take(rows * static_cast<std::int64_t>(sizeof(RowBound)));
    limits = take(rows * 4);
    alive = take(row_tiles * column_tiles);
    list = take(row_tiles * column_tiles * 4);
    list_counts = take(row_tiles * 8);
    list_starts = take((row_tiles + 1) * 8);
  }

 private:
  std::int64_t take(std::int64_t size) {
    const std::int64_t at = bytes;
    bytes += up(size, 256);
    return at;
  }
};

template <class T>
T* at(const KnnParams& p, std::int64_t offset) {
  return reinterpret_cast<T*>(static_cast<unsigned char*>(p.workspace) + offset);
}

template <class Shape, bool chosen, bool symmetric = false>
void run_filter(const KnnParams& p, const Layout& layout, Division division, Listed listed) {
  FilterParams filter = {
      at<std::uint16_t>(p, p.queries != nullptr ? layout.gathered : layout.packed),
      at<std::uint16_t>(p, layout.packed),
      at<float>(p, layout.start),
      p.queries,
      at<Global>(p, layout.global),
      p.m,
      p.n,
      layout.width,
      static_cast<int>(p.keep),
      p.keep <= 8,
      division,
      listed,
      at<float>(p, layout.scores),
      at<int>(p, layout.columns),
      symmetric ? at<unsigned long long>(p, layout.keys) : nullptr};
  const int bytes = filter_bytes<Shape>(filter.heap_shared ? filter.keep : 0, symmetric);
  simt::launch(knn_filter<Shape, false, chosen, symmetric>, p.blocks, Shape::kThreads, bytes,
               p.stream, filter);
  simt::launch(knn_filter<Shape, true, chosen, symmetric>, p.blocks, Shape::kThreads, bytes,
               p.stream, filter);
}

// The filter over the tiles on and above the diagonal, and the distances of what it keeps.
template <class T>
void run_symmetric(const KnnParams& p, const Layout& layout, const Source<T>& source) {
  unsigned long long* keys = at<unsigned long long>(p, layout.keys);
  std::int64_t* starts = at<std::int64_t>(p, layout.list_starts);
  Listed listed = {starts, nullptr, layout.row_tiles, layout.row_tiles, p.blocks};
  listed.upper = true;
  simt::fill(keys, 0, layout.rows * p.keep * 8, p.stream);
  simt::launch(upper_starts, layout.row_tiles / 128 + 1, 128, 0, p.stream, layout.row_tiles,
               starts);
  run_filter<SmallTile, true, true>(p, layout, Division(0, 1, 1), listed);
  simt::launch(unpack_keys, layout.row_tiles, kSide, 0, p.stream, keys, layout.row_tiles,
               static_cast<int>(p.keep), p.blocks + layout.row_tiles, at<float>(p, layout.scores),
               at<int>(p, layout.columns));
  simt::launch(refine<T, kSide, Listed>, row_blocks(p.m), 32 * kWarps, 0, p.stream, source, listed,
               static_cast<int>(p.keep), at<float>(p, layout.scores), at<int>(p, layout.columns),
               at<RowBound>(p, layout.bounds));
}

// The filter over the tiles that can hold a neighbour, and the distances of what it keeps.
template <class T>
void run_pruned(const KnnParams& p, const Layout& layout, const Source<T>& source) {
  const double* mean = at<double>(p, layout.mean);
  double* defect = at<double>(p, layout.defect);
  std::uint16_t* prefix = at<std::uint16_t>(p, layout.prefix);
  float* start = at<float>(p, layout.prefix_start);
  RowBound* bounds = at<RowBound>(p, layout.prefix_bounds);
  float* limits = at<float>(p, layout.limits);
  unsigned char* alive = at<unsigned char>(p, layout.alive);
  int* list = at<int>(p, layout.list);
  std::int64_t* counts = at<std::int64_t>(p, layout.list_counts);
  std::int64_t* starts = at<std::int64_t>(p, layout.list_starts);
  const Listed listed = {starts, list, layout.row_tiles, layout.column_tiles, p.blocks};
  const Division none(0, 1, 1);
  const auto search = [&] {
    simt::launch(sum_counts, 1, 32, 0, p.stream, counts, layout.row_tiles, starts);
    simt::clear(&source.global->uncertain, sizeof(source.global->uncertain), p.stream);
    run_filter<SmallTile, true>(p, layout, none, listed);
    simt::launch(refine<T, kSide, Listed>, row_blocks(p.m), 32 * kWarps, 0, p.stream, source,
                 listed, static_cast<int>(p.keep), at<float>(p, layout.scores),
                 at<int>(p, layout.columns), at<RowBound>(p, layout.bounds));
  };
  simt::fill(p.distances, 0xff, p.m * p.k * 8, p.stream);  // NaN: not found yet
  simt::launch(axes_defect, 1, 32 * kWarps, kWarps * 8, p.stream, p.axes, p.axes_count, p.d,
               defect);
  simt::launch(project_rows<T>, layout.rows / kGiven, 32 * kWarps, project_bytes(), p.stream,
               source, mean, p.axes, p.axes_count, defect, layout.rows, prefix, start, bounds);
  simt::launch(near_tiles, (layout.row_tiles + 127) / 128, 128, 0, p.stream, layout.row_tiles,
               layout.column_tiles, list, counts);
  search();
  simt::launch(survey_limits<T>, layout.rows / 128, 128, 0, p.stream, source, defect, bounds,
               layout.rows, limits);
  const std::int64_t parts =
      std::min(layout.column_tiles, (8 * p.blocks + layout.row_tiles - 1) / layout.row_tiles);
  simt::launch(survey_tiles, layout.row_tiles * parts, kSurveyThreads, kSurveyBytes, p.stream,
               prefix, start, limits, layout.column_tiles, parts, alive);
  simt::launch(list_alive, row_blocks(layout.row_tiles), 32 * kWarps, 0, p.stream, alive,
               layout.row_tiles, layout.column_tiles, list, counts);
  search();
}

template <class T>
void run(const KnnParams& p) {
  const Layout layout(p);
  const Division division((p.m + layout.tile_rows - 1) / layout.tile_rows, layout.rows / 128,
                          p.blocks);
  const T* data = static_cast<const T*>(p.data);
  Global* global = at<Global>(p, layout.global);
  double* mean = at<double>(p, layout.mean);
  double* parts = at<double>(p, layout.parts);
  std::uint16_t* packed = at<std::uint16_t>(p, layout.packed);
  float* start = at<float>(p, layout.start);
  RowBound* bounds = at<RowBound>(p, layout.bounds);

  simt::clear(global, sizeof(Global), p.stream);
  const std::int64_t column_blocks = (p.d + 127) / 128;
  simt::launch(column_parts<T>, column_blocks * kColumnParts, 128, 0, p.stream, data, p.n, p.d,
               p.row_stride, kColumnParts, parts);
  simt::launch(column_means, column_blocks, 128, 0, p.stream, parts, kColumnParts, p.n, p.d, mean,
               global);
  simt::launch(pack_rows<T, false>, row_blocks(layout.rows), 32 * kWarps, 0, p.stream, data, p.n,
               p.d, p.row_stride, p.order, mean, global, layout.rows, layout.width, packed, start,
               bounds);
  simt::launch(pack_rows<T, true>, row_blocks(layout.rows), 32 * kWarps, 0, p.stream, data, p.n,
               p.d, p.row_stride, p.order, mean, global, layout.rows, layout.width, packed, start,
               bounds);
  if (p.queries != nullptr) {
    simt::launch(gather_rows, row_blocks(layout.query_rows), 32 * kWarps, 0, p.stream, packed,
                 p.queries, p.m, layout.query_rows, layout.width,
                 at<std::uint16_t>(p, layout.gathered));
  }
  const Source<T> source = {data,
                            p.n,
                            p.d,
                            p.row_stride,
                            p.queries,
                            p.m,
                            p.k,
                            p.distances,
                            p.indices,
                            global,
                            at<std::int64_t>(p, layout.uncertain),
                            p.order};
  if (p.order != nullptr) {
    run_pruned(p, layout, source);
  } else if (p.symmetric) {
    run_symmetric(p, layout, source);
  } else {
    with_shape(p.tile,
               [&](auto shape) { run_filter<decltype(shape), false>(p, layout, division, {}); });
    simt::launch(layout.tile_rows == 128 ? refine<T, 128, Division> : refine<T, 256, Division>,
                 row_blocks(p.m), 32 * kWarps, 0, p.stream, source, division,
                 static_cast<int>(p.keep), at<float>(p, layout.scores), at<int>(p, layout.columns),
                 bounds);
  }
  double* list_distances = at<double>(p, layout.list_distances);
  std::int64_t* list_indices = at<std::int64_t>(p, layout.list_indices);
  const int search_blocks = kSearchBlocks * p.blocks;
  simt::launch(search_all<T>, search_blocks, kSearchThreads, search_bytes(), p.stream, source,
               list_distances, list_indices);
  simt::launch(merge_lists<T>, p.blocks, 32 * kWarps, 0, p.stream, source, search_blocks,
               list_distances, list_indices);
  simt::launch(write_counts, 1, 32, 0, p.stream, global,
               p.order != nullptr || p.symmetric
                   ? at<std::int64_t>(p, layout.list_starts) + layout.row_tiles
                   : nullptr,
               p.counts);
}

}  // namespace

int tile_shared_bytes(Tile tile) {
  return with_shape(tile, [](auto shape) { return filter_bytes<decltype(shape)>(8); });
}

std::int64_t knn_workspace(const KnnParams& params) { return Layout(params).bytes; }

void knn(const KnnParams& p) {
  if (p.n < 2 || p.n > 0x7fffff00 || p.d < 1 || p.row_stride < p.d || p.m < 1 || p.blocks < 1) {
    throw std::invalid_argument("knn: needs 2 <= n < 2^31, d >= 1, row_stride >= d, m >= 1");
  }
  if (p.k < 1 || p.k >= p.n || p.keep < p.k) {
    throw std::invalid_argument("knn: needs 1 <= k < n and keep >= k");
  }
  if (p.order != nullptr && (p.queries != nullptr || p.m != p.n || p.tile != Tile::small ||
                             p.axes_count < 1 || p.axes_count >= kPrefix || p.d > (1 << 22))) {
    throw std::invalid_argument("knn: an order needs all rows, small tiles and 1 to 63 axes");
  }
  if (p.symmetric &&
      (p.order != nullptr || p.queries != nullptr || p.m != p.n || p.tile != Tile::small)) {
    throw std::invalid_argument("knn: symmetric needs all rows in their order and small tiles");
  }
  switch (p.dtype) {
    case Dtype::float16:
      return run<Float16>(p);
    case Dtype::bfloat16:
      return run<BFloat16>(p);
    case Dtype::float32:
      return run<float>(p);
    case Dtype::float64:
      return run<double>(p);
  }
  throw std::invalid_argument("knn: unknown number type");
}

}  // namespace fastdim::cuda
