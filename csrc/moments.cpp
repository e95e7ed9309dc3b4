#include "moments.h"

#include <algorithm>
#include <cmath>
#include <stdexcept>
#include <vector>

#include "aligned.h"
#include "cosine_levels.h"
#include "cpu/moments_kernels.h"
#include "int16.h"
#include "levels.h"
#include "threads.h"

namespace fastdim {
namespace {

constexpr std::int64_t kSumRows = static_cast<std::int64_t>(kLongBlock);
constexpr std::int64_t kPackRows = 64;  // rows packed by one task
constexpr std::int64_t kChunkBytes = std::int64_t{8} << 20;
constexpr std::int64_t kFewRows = 4;        // up to so many of a group are multiplied one by one
constexpr std::int64_t kGroupChunk = 2048;  // two of its panels stay in the second level cache

const MomentsKernels& moments_kernels(Isa isa) {
  return at_level(isa, scalar_moments_kernels, FASTDIM_IF_AVX2(avx2_moments_kernels),
                  FASTDIM_IF_AVX512(avx512_moments_kernels));
}

void check(const MomentsParams& p) {
  if (p.threads < 1) throw std::invalid_argument("moments: threads must be at least 1");
  if (p.count < 0 || (!p.ids && p.count != p.rows.n))
    throw std::invalid_argument("moments: count does not fit the rows");
  for (std::int64_t i = 0; p.ids && i < p.count; ++i)
    if (p.ids[i] < 0 || p.ids[i] >= p.rows.n)
      throw std::invalid_argument("moments: a row number is outside the matrix");
}

template <class Value>
void pack_row(const SumKernels<Value>& kernels, const MomentsParams& p, std::int64_t place,
              std::size_t panel, Value* out) {
  const std::int64_t row = p.ids ? p.ids[place] : place;
  kernels.pack[static_cast<int>(p.rows.dtype)](p.rows.row(row), static_cast<std::size_t>(p.rows.d),
                                               p.scale ? p.scale[row] : 1.0, p.shift, panel, out);
}

// out[c] += sum of column c over count rows of one panel, for the first `columns` of them.
template <class Value>
void add_columns(const Value* rows, std::int64_t count, std::int64_t width, std::int64_t columns,
                 double* total, double* out) {
  std::fill(total, total + width, 0.0);
  for (std::int64_t k = 0; k < count; ++k)
    for (std::int64_t c = 0; c < width; ++c) total[c] += static_cast<double>(rows[k * width + c]);
  for (std::int64_t c = 0; c < columns; ++c) out[c] += total[c];
}

// Products of panel `i` with itself and all later ones over the rows of one chunk.
template <class Value>
void add_panel(const SumKernels<Value>& kernels, const Value* packed, std::size_t panel,
               std::int64_t rows, std::int64_t d, std::int64_t i, double* sum, double* gram) {
  const std::int64_t width = kernels.width, step = kernels.tile_rows;
  std::vector<double> tile(static_cast<std::size_t>(step * width));
  const Value* first = packed + static_cast<std::size_t>(i) * panel;
  add_columns(first, rows, width, std::min(width, d - i * width), tile.data(), sum + i * width);
  for (std::int64_t start = 0; start < rows; start += kSumRows) {
    const std::size_t count = static_cast<std::size_t>(std::min(kSumRows, rows - start));
    for (std::int64_t j = i; j * width < d; ++j) {
      const Value* second = packed + static_cast<std::size_t>(j) * panel + start * width;
      const std::int64_t columns = std::min(width, d - j * width);
      for (std::int64_t part = 0; part < width && i * width + part < d; part += step) {
        kernels.gram(first + start * width + part, second, count, tile.data());
        for (std::int64_t r = 0; r < std::min(step, d - i * width - part); ++r) {
          double* out = gram + (i * width + part + r) * d + j * width;
          for (std::int64_t c = 0; c < columns; ++c)
            out[c] += tile[static_cast<std::size_t>(r * width + c)];
        }
      }
    }
  }
}

// Columns of axes 1, 2, ... as the panels of one of the two products.
struct Basis {
  Aligned<float> floats;
  Aligned<std::int16_t> ints;
  std::vector<float> weights;  // 2 x cols for each panel
  double unit[2];              // of the weights
};

struct Scratch {
  std::vector<double> row;
  std::vector<std::int16_t> ints;
  Aligned<float> floats;
  Aligned<std::int16_t> panel;
  Aligned<float> tile;
  Aligned<std::int32_t> int_tile;
  std::vector<double> length2;

  Scratch(std::int64_t padded, std::int64_t d, std::int64_t rows)
      : row(static_cast<std::size_t>(padded)),
        ints(static_cast<std::size_t>(int16_columns(d))),
        floats(static_cast<std::size_t>(rows * d)),
        panel(static_cast<std::size_t>(rows * int16_columns(d))),
        tile(kMaxTileRows * kMaxTileCols),
        int_tile(kMaxTileRows * kMaxTileCols),
        length2(static_cast<std::size_t>(rows)) {}
};

// One row or axis into place r of a panel, in either arithmetic; returns the factor that was taken
// out of its product.
double place(const CosineKernels& kernels, const double* row, double length2, std::int64_t d,
             bool ints, int width, int r, Scratch& scratch, float* floats, std::int16_t* panel) {
  if (ints) {
    const double scale = quantize(kernels, row, d, scratch.ints.data()).scale;
    interleave(scratch.ints.data(), d, width, r, panel);
    return 1.0 / scale;
  }
  const double length = std::sqrt(length2), factor = length > 0.0 ? 1.0 / length : 0.0;
  for (std::int64_t c = 0; c < d; ++c) floats[c * width + r] = static_cast<float>(row[c] * factor);
  return length;
}

Basis make_basis(const CosineKernels& kernels, std::int64_t cols, const Axes& axes, std::int64_t d,
                 bool ints, Scratch& scratch) {
  const std::int64_t panels = tasks(axes.count - 1, cols);
  Basis basis = {
      Aligned<float>(static_cast<std::size_t>(ints ? 0 : panels * cols * d)),
      Aligned<std::int16_t>(static_cast<std::size_t>(ints ? panels * cols * int16_columns(d) : 0)),
      std::vector<float>(static_cast<std::size_t>(2 * panels * cols), 0.0f),
      {0.0, 0.0}};
  for (int s = 0; s < 2; ++s)
    for (std::int64_t k = 1; k < axes.count; ++k)
      basis.unit[s] = std::max(basis.unit[s], std::fabs(axes.weights[s * axes.count + k]));
  const std::vector<double> none(static_cast<std::size_t>(d), 0.0);
  for (std::int64_t slot = 0; slot < panels * cols; ++slot) {
    const std::int64_t panel = slot / cols, c = slot % cols;
    const bool real = slot + 1 < axes.count;
    const double* axis = real ? axes.vectors + (slot + 1) * d : none.data();
    const double factor =
        place(kernels, axis, real ? 1.0 : 0.0, d, ints, static_cast<int>(cols), static_cast<int>(c),
              scratch, basis.floats.data() + (ints ? 0 : panel * cols * d),
              basis.ints.data() + (ints ? panel * cols * int16_columns(d) : 0));
    for (int s = 0; s < 2; ++s)
      if (real && basis.unit[s] > 0.0)
        basis.weights[static_cast<std::size_t>((2 * panel + s) * cols + c)] = static_cast<float>(
            axes.weights[s * axes.count + slot + 1] / basis.unit[s] * factor * factor);
  }
  return basis;
}

template <class Value>
void add_outer_products(const SumKernels<Value>& kernels, const MomentsParams& p, double* sum,
                        double* gram) {
  const std::int64_t d = p.rows.d, panels = tasks(d, kernels.width);
  std::fill(sum, sum + d, 0.0);
  std::fill(gram, gram + d * d, 0.0);
  const std::int64_t chunk =
      std::min(std::max<std::int64_t>(p.count, 1),
               std::clamp<std::int64_t>(
                   kChunkBytes / (static_cast<std::int64_t>(sizeof(Value)) * d), 1024, 4096));
  const std::size_t panel = static_cast<std::size_t>(chunk * kernels.width);
  Aligned<Value> packed(panel * static_cast<std::size_t>(panels));
  for (std::int64_t start = 0; start < p.count; start += chunk) {
    const std::int64_t rows = std::min(chunk, p.count - start);
    parallel_for(tasks(rows, kPackRows), p.threads, p.poll, [&](std::int64_t task, int) {
      for (std::int64_t k = task * kPackRows; k < std::min(rows, (task + 1) * kPackRows); ++k)
        pack_row(kernels, p, start + k, panel, packed.data() + k * kernels.width);
    });
    parallel_for(panels, p.threads, p.poll, [&](std::int64_t i, int) {
      add_panel(kernels, packed.data(), panel, rows, d, i, sum, gram);
    });
  }
  for (std::int64_t i = 0; i < d; ++i)
    for (std::int64_t j = 0; j < i; ++j) gram[i * d + j] = gram[j * d + i];
}

// Of each matrix the largest element, at least above 0: divided by it, none leaves float32.
std::vector<double> units_of(const GroupMatrices& given, const MomentsParams& p) {
  const std::int64_t d = p.rows.d;
  std::vector<double> units(static_cast<std::size_t>(given.count), 1.0);
  parallel_for(given.count, p.threads, p.poll, [&](std::int64_t s, int) {
    double most = 0.0;
    for (std::int64_t r = 0; r < d; ++r)
      for (std::int64_t c = r; c < d; ++c)
        most = std::max(most, std::fabs(given.matrices[(s * d + r) * d + c]));
    if (most > 0.0) units[static_cast<std::size_t>(s)] = most;
  });
  return units;
}

// The matrices in their units, in the order of the tiles that they are multiplied with: panel i,
// panel j >= i, matrix, then (width x width). What is below the diagonal is counted by doubling
// what is above.
Aligned<float> matrix_tiles(const GroupMatrices& given, const MomentsParams& p,
                            const std::vector<double>& units, std::int64_t width) {
  const std::int64_t d = p.rows.d, panels = tasks(d, width), size = width * width;
  const std::int64_t count = panels * (panels + 1) / 2 * given.count * size;
  Aligned<float> tiles(static_cast<std::size_t>(count));
  parallel_for(panels, p.threads, p.poll, [&](std::int64_t i, int) {
    float* to = tiles.data() + (i * panels - i * (i - 1) / 2) * given.count * size;
    for (std::int64_t j = i; j < panels; ++j)
      for (std::int64_t s = 0; s < given.count; ++s, to += size) {
        std::fill(to, to + size, 0.0f);
        const double once = 1.0 / units[static_cast<std::size_t>(s)];
        for (std::int64_t r = 0; r < std::min(width, d - i * width); ++r) {
          const double* from = given.matrices + (s * d + i * width + r) * d + j * width;
          float* out = to + r * width;
          const std::int64_t begin = i == j ? r : 0, end = std::min(width, d - j * width);
          for (std::int64_t c = begin; c < end; ++c)
            out[c] = static_cast<float>(2.0 * once * from[c]);
          if (i == j) out[r] = static_cast<float>(once * from[r]);
        }
      }
  });
  return tiles;
}

// Rows of one group that are added in one go: first and one past the last, by place, and where
// their pairs begin in the panels of whole numbers.
struct Piece {
  std::int64_t begin, end, group, pairs;
  bool few() const { return end - begin <= kFewRows; }
};

// The pieces of the rows from start to stop, `group` being that of the first; moves on to the group
// of the row at stop.
std::vector<Piece> pieces_of(const GroupMatrices& given, std::int64_t start, std::int64_t stop,
                             std::int64_t& group) {
  std::vector<Piece> pieces;
  std::int64_t pairs = 0;
  while (start < stop) {
    while (given.ends[group] <= start) ++group;
    const std::int64_t end = std::min({stop, given.ends[group], start + kSumRows});
    pieces.push_back({start, end, group, pairs});
    if (!pieces.back().few()) pairs += tasks(end - start, 2);
    start = end;
  }
  return pieces;
}

}  // namespace

void second_moments(const MomentsParams& p, double* sum, double* gram) {
  check(p);
  add_outer_products(moments_kernels(p.isa).doubles, p, sum, gram);
}

void second_moments_in_floats(const MomentsParams& p, double* sum, double* gram) {
  check(p);
  add_outer_products(moments_kernels(p.isa).floats, p, sum, gram);
}

void group_forms(const MomentsParams& p, const GroupMatrices& given, double* totals,
                 double* forms) {
  check(p);
  for (std::int64_t g = 0; g < given.groups; ++g)
    if (given.ends[g] < (g ? given.ends[g - 1] : 0))
      throw std::invalid_argument("moments: ends of groups do not ascend");
  if (given.count < 1 || (given.groups ? given.ends[given.groups - 1] : 0) != p.count)
    throw std::invalid_argument("moments: the groups do not hold the rows, or there is no matrix");
  const MomentsKernels& level = moments_kernels(p.isa);
  const SumKernels<float>& kernels = level.long_floats;
  const std::int64_t d = p.rows.d, width = kernels.width, size = width * width;
  const std::int64_t panels = tasks(d, width), count = given.count;
  std::fill(totals, totals + given.groups * d, 0.0);
  std::fill(forms, forms + given.groups * count, 0.0);
  if (!p.count) return;
  const std::vector<double> units = units_of(given, p);
  const Aligned<float> tiles = matrix_tiles(given, p, units, width);
  const std::int64_t chunk = std::min(p.count, kGroupChunk);
  const std::size_t panel = static_cast<std::size_t>(chunk * width);
  Aligned<float> packed(panel * static_cast<std::size_t>(panels));
  // Of a piece at least five rows, hence at most three pairs to five.
  const bool ints = has_int16(p.isa);
  const std::size_t ints_panel =
      static_cast<std::size_t>(ints ? tasks(3 * chunk, 5) * 2 * width : 0);
  Aligned<std::int16_t> whole(ints_panel * static_cast<std::size_t>(panels));
  std::vector<double> unit;  // pieces x width of each panel
  std::vector<Aligned<double>> outer;
  for (int worker = 0; worker < p.threads; ++worker)
    outer.emplace_back(static_cast<std::size_t>(size));
  std::vector<double> parts;  // pieces x matrices of each panel
  std::int64_t group = 0;
  for (std::int64_t start = 0; start < p.count; start += chunk) {
    const std::int64_t rows = std::min(chunk, p.count - start);
    parallel_for(tasks(rows, kPackRows), p.threads, p.poll, [&](std::int64_t task, int) {
      for (std::int64_t k = task * kPackRows; k < std::min(rows, (task + 1) * kPackRows); ++k)
        pack_row(kernels, p, start + k, panel, packed.data() + k * width);
    });
    const std::vector<Piece> pieces = pieces_of(given, start, start + rows, group);
    const std::int64_t found = static_cast<std::int64_t>(pieces.size());
    parts.assign(static_cast<std::size_t>(panels * found * count), 0.0);
    unit.resize(static_cast<std::size_t>(ints ? panels * found * width : 0));
    const auto unit_of = [&](std::int64_t i, std::int64_t each) {
      return unit.data() + (i * found + each) * width;
    };
    const auto whole_of = [&](std::int64_t i, const Piece& piece) {
      return whole.data() + static_cast<std::size_t>(i) * ints_panel + piece.pairs * 2 * width;
    };
    parallel_for(panels, p.threads, p.poll, [&](std::int64_t i, int worker) {
      double* mine = outer[static_cast<std::size_t>(worker)].data();
      for (std::int64_t each = 0; each < found; ++each) {
        const Piece& piece = pieces[static_cast<std::size_t>(each)];
        const float* from =
            packed.data() + static_cast<std::size_t>(i) * panel + (piece.begin - start) * width;
        add_columns(from, piece.end - piece.begin, width, std::min(width, d - i * width), mine,
                    totals + piece.group * d + i * width);
        if (ints && !piece.few())
          level.round_columns(from, static_cast<std::size_t>(piece.end - piece.begin),
                              unit_of(i, each), whole_of(i, piece));
      }
    });
    parallel_for(panels, p.threads, p.poll, [&](std::int64_t i, int worker) {
      double* mine = outer[static_cast<std::size_t>(worker)].data();
      const float* with = tiles.data() + (i * panels - i * (i - 1) / 2) * count * size;
      for (std::int64_t j = i; j < panels; ++j, with += count * size)
        for (std::int64_t each = 0; each < found; ++each) {
          const Piece& piece = pieces[static_cast<std::size_t>(each)];
          const std::int64_t from = (piece.begin - start) * width;
          const float* first = packed.data() + static_cast<std::size_t>(i) * panel + from;
          const float* second = packed.data() + static_cast<std::size_t>(j) * panel + from;
          double* sums = parts.data() + (i * found + each) * count;
          const std::int64_t many = piece.end - piece.begin;
          if (piece.few()) {
            for (std::int64_t s = 0; s < count; ++s)
              for (std::int64_t k = 0; k < many * width; k += width)
                sums[s] += level.bilinear(first + k, second + k, with + s * size);
            continue;
          }
          for (std::int64_t part = 0; part < width; part += kernels.tile_rows)
            if (ints)
              level.gram_ints(whole_of(i, piece) + 2 * part, whole_of(j, piece),
                              static_cast<std::size_t>(tasks(many, 2)), unit_of(i, each) + part,
                              unit_of(j, each), mine + part * width);
            else
              kernels.gram(first + part, second, static_cast<std::size_t>(many),
                           mine + part * width);
          for (std::int64_t s = 0; s < count; ++s)
            sums[s] += level.dot_floats(mine, with + s * size, static_cast<std::size_t>(size));
        }
    });
    for (std::int64_t each = 0; each < found; ++each)
      for (std::int64_t s = 0; s < count; ++s)
        for (std::int64_t i = 0; i < panels; ++i)
          forms[pieces[static_cast<std::size_t>(each)].group * count + s] +=
              units[static_cast<std::size_t>(s)] *
              parts[static_cast<std::size_t>((i * found + each) * count + s)];
  }
}

const char* row_forms(const MomentsParams& p, const Axes& axes, const RowForms& out) {
  check(p);
  if (axes.count < 1) throw std::invalid_argument("moments: row_forms needs at least one axis");
  const MomentsKernels& kernels = moments_kernels(p.isa);
  const Kernels& common = fastdim::kernels(p.isa);
  const CosineKernels& coder = cosine_kernels(p.isa);
  const bool ints = has_int16(p.isa);
  const std::int64_t d = p.rows.d, padded = tasks(d, kernels.doubles.width) * kernels.doubles.width;
  const std::int64_t rows = common.tile_rows, cols = common.tile_cols;
  const std::int64_t block = 8 * rows;  // their panels stay in the second level cache
  std::vector<Scratch> scratches;
  for (int worker = 0; worker < p.threads; ++worker) scratches.emplace_back(padded, d, block);
  const Basis basis = make_basis(coder, common.tile_cols, axes, d, ints, scratches[0]);
  const std::int64_t panels = tasks(axes.count - 1, cols);

  parallel_for(tasks(p.count, block), p.threads, p.poll, [&](std::int64_t task, int worker) {
    Scratch& mine = scratches[static_cast<std::size_t>(worker)];
    const std::int64_t begin = task * block, end = std::min(p.count, begin + block);
    const std::int64_t groups = tasks(end - begin, rows);
    for (std::int64_t slot = 0; slot < groups * rows; ++slot) {
      const std::int64_t i = begin + slot, group = slot / rows;
      double length2 = 0.0;
      if (i < end) {
        pack_row(kernels.doubles, p, i, static_cast<std::size_t>(kernels.doubles.width),
                 mine.row.data());
        const std::size_t columns = static_cast<std::size_t>(d);
        for (std::int64_t j = 0; j < axes.line_count; ++j)
          out.linear[i * axes.line_count + j] =
              kernels.dot(mine.row.data(), axes.lines + j * d, columns);
        const double z = kernels.dot(mine.row.data(), axes.vectors, columns);
        length2 = kernels.remove(mine.row.data(), axes.vectors, z, columns);
        out.first[i] = z;
        out.rest[i] = length2;
        for (int s = 0; s < 2; ++s) out.forms[2 * i + s] = axes.weights[s * axes.count] * z * z;
      } else {
        std::fill(mine.row.begin(), mine.row.end(), 0.0);
      }
      if (panels == 0) continue;
      const double factor =
          place(coder, mine.row.data(), length2, d, ints, static_cast<int>(rows),
                static_cast<int>(slot % rows), mine, mine.floats.data() + group * rows * d,
                mine.panel.data() + group * rows * int16_columns(d));
      mine.length2[static_cast<std::size_t>(slot)] = factor * factor;
    }
    float sums[2 * kMaxTileRows];
    const std::int32_t none[kMaxTileRows] = {};
    for (std::int64_t panel = 0; panel < panels; ++panel)
      for (std::int64_t group = 0; group < groups; ++group) {
        const float* weights = basis.weights.data() + 2 * panel * cols;
        if (ints) {
          coder.product_ints(
              {mine.panel.data() + group * rows * int16_columns(d),
               basis.ints.data() + panel * cols * int16_columns(d),
               static_cast<std::size_t>(int16_columns(d) / 2), 0, nullptr, nullptr, 0, none},
              mine.int_tile.data());
          kernels.forms_i32(mine.int_tile.data(), weights, sums);
        } else {
          common.product(mine.floats.data() + group * rows * d,
                         basis.floats.data() + panel * cols * d, static_cast<std::size_t>(d),
                         mine.tile.data());
          kernels.forms(mine.tile.data(), weights, sums);
        }
        for (std::int64_t r = 0; r < std::min(rows, end - begin - group * rows); ++r) {
          const std::int64_t slot = group * rows + r;
          for (int s = 0; s < 2; ++s)
            out.forms[2 * (begin + slot) + s] += mine.length2[static_cast<std::size_t>(slot)] *
                                                 basis.unit[s] *
                                                 static_cast<double>(sums[2 * r + s]);
        }
      }
  });
  return ints ? "int16" : "float32";
}

}  // namespace fastdim
