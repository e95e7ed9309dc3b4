#include "prepare.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <memory>
#include <numeric>
#include <stdexcept>
#include <string>

#include "cosine_levels.h"
#include "int_axes.h"
#include "join_levels.h"
#include "order.h"
#include "refine.h"
#include "row_writer.h"
#include "threads.h"

namespace fastdim {
namespace {

constexpr double kMassive = 4.0;     // times the median norm: a row that gets a block of its like
constexpr double kSplit = 0x1p-10;   // t of prepare.h
constexpr float kLargeError = 3.0f;  // times the median error: folded
constexpr std::int64_t kGroupsPerTask = 16;
constexpr std::int64_t kRoughStep = 64;  // bytes of the widest vector
constexpr std::int64_t kTails = 257;     // rows whose tails are sampled for their median
constexpr std::int64_t kOrderAxes = 48;  // the first axes tell near from far

// Whether known axes pay is seen from so many rows held against so many others. The nearest of the
// few lies farther than the neighbours will: a pair within kTrialReach of it counts as left over.
constexpr std::int64_t kTrialQueries = 16, kTrialRows = 256;
constexpr double kTrialReach = 0.8;

// Rows are rounded to int16 before they go along axes if they have at most so many columns.
constexpr std::int64_t kMostIntColumns = 16'384;

// Elements of the first level in int8 that are looked at first, where they are at most half of it.
constexpr std::int64_t kHeadElements = 64;

// Rows in order, those of huge length last, by length: they loosen the bounds of their own blocks
// alone. `ordinary`: how many are not.
template <class Length>
std::vector<std::int64_t> massive_last(const std::vector<Length>& length, std::int64_t* ordinary) {
  std::vector<std::int64_t> order(length.size());
  std::iota(order.begin(), order.end(), 0);
  std::vector<Length> sorted = length;
  const auto middle = sorted.begin() + static_cast<std::ptrdiff_t>(sorted.size() / 2);
  std::nth_element(sorted.begin(), middle, sorted.end());
  const Length most = static_cast<Length>(kMassive) * *middle;
  const auto of = [&](std::int64_t i) { return length[static_cast<std::size_t>(i)]; };
  const auto massive = std::stable_partition(order.begin(), order.end(),
                                             [&](std::int64_t i) { return of(i) <= most; });
  std::stable_sort(massive, order.end(),
                   [&](std::int64_t i, std::int64_t j) { return of(i) < of(j); });
  *ordinary = massive - order.begin();
  return order;
}

// The arithmetic of a full search on rows as they come, from the distances of a few pairs.
Precision direct_precision(
    const PrepareParams& p, const Kernels& kernels, const JoinKernels& join,
    const Transform& transform, std::vector<RowScratch>& scratch,
    const std::function<double(std::int64_t, std::int64_t, int worker)>& distance) {
  constexpr std::int64_t queries = 16, others = 256;
  if (p.precision != Precision::any) return p.precision;
  const std::int64_t count = std::min(others, p.n),
                     step = std::max<std::int64_t>(1, count / queries);
  const auto row = [&](std::int64_t i) { return i * p.n / count; };
  std::vector<SampledPair> error(static_cast<std::size_t>(count));
  parallel_for(tasks(count, step), p.threads, *p.poll, [&](std::int64_t task, int worker) {
    RowScratch& mine = scratch[static_cast<std::size_t>(worker)];
    for (std::int64_t i = task * step; i < std::min(count, (task + 1) * step); ++i) {
      double norm2, error2;
      transform_row(kernels, p.rows, transform, p.ids[row(i)], mine, &norm2, &error2);
      const bool int8 = has_precision(p.level.isa, Precision::int8);
      error[static_cast<std::size_t>(i)] = {
          0, int8 ? int8_error(join, mine.centered.data(), p.rows.d) : 0,
          error_of(Precision::bfloat16) * std::sqrt(norm2)};
    }
  });
  std::vector<std::vector<SampledPair>> pairs(static_cast<std::size_t>(tasks(count, step)));
  parallel_for(tasks(count, step), p.threads, *p.poll, [&](std::int64_t task, int worker) {
    const std::int64_t query = task * step;
    const SampledPair& mine = error[static_cast<std::size_t>(query)];
    for (std::int64_t i = 0; i < count; ++i) {
      const SampledPair& its = error[static_cast<std::size_t>(i)];
      if (i != query)
        pairs[static_cast<std::size_t>(task)].push_back({distance(row(query), row(i), worker),
                                                         mine.int8_error + its.int8_error,
                                                         mine.bfloat16_error + its.bfloat16_error});
    }
  });
  return choose_direct(p.level, p.rows.d, pairs);
}

// What a few rows tell about known axes.
struct Trial {
  double share;   // of the pairs, those that the axes leave
  double middle;  // of the lengths beyond them
};

Trial try_axes(const PrepareParams& p, const IntAxes& axes, const Kernels& kernels,
               const Transform& transform, RowScratch& scratch,
               const std::function<double(std::int64_t, std::int64_t)>& distance) {
  const std::int64_t count = std::min(kTrialRows, p.n);
  const auto position = [&](std::int64_t i) { return i * p.n / count; };
  AlongAxes along(axes, count);
  for (std::int64_t i = 0; i < count; ++i) {
    double norm2, error2;
    transform_row(kernels, p.rows, transform, p.ids[position(i)], scratch, &norm2, &error2);
    along.put(i, scratch.centered.data(), 0.0);
  }
  along.project(count);
  std::vector<double> rests;
  for (std::int64_t i = 0; i < count; ++i) rests.push_back(along.rest(i));
  const auto middle = rests.begin() + count / 2;
  std::nth_element(rests.begin(), middle, rests.end());

  std::vector<double> shares;
  for (std::int64_t q = 0; q < count; q += std::max<std::int64_t>(1, count / kTrialQueries)) {
    double reach = std::numeric_limits<double>::infinity(), kept = 0;
    for (std::int64_t i = 0; i < count; ++i)
      if (i != q) reach = std::min(reach, distance(position(q), position(i)));
    for (std::int64_t i = 0; i < count; ++i) {
      double bound2 = (along.rest(i) - along.rest(q)) * (along.rest(i) - along.rest(q));
      for (std::int64_t k = 0; k < axes.count(); ++k) {
        const double gap = static_cast<double>(along.values(i)[k] - along.values(q)[k]);
        bound2 += gap * gap;
      }
      const double error = error_of(Precision::int8) * (along.length(i) + along.length(q));
      kept += i != q && std::sqrt(bound2) <= kTrialReach * reach + error;
    }
    shares.push_back(kept / static_cast<double>(count));
  }
  // A quarter of the queries has no say, as for the arithmetic.
  std::sort(shares.begin(), shares.end());
  shares.resize(shares.size() - shares.size() / 4);
  return {std::accumulate(shares.begin(), shares.end(), 0.0) / static_cast<double>(shares.size()),
          *middle};
}

// By int16 where the first level may be in int8, whose rounding is 8 times as large for the most
// columns that count, and 20 times for 2,600.
bool project_in_ints(const PrepareParams& p) {
  return (p.precision == Precision::any || p.precision == Precision::int8) &&
         has_int16(p.level.isa) && p.rows.d <= kMostIntColumns &&
         IntAxes::short_enough(p.basis, p.rows.d);
}

IntAxes int_axes(const PrepareParams& p) {
  return IntAxes(p.basis, p.rows.d, p.level.isa, p.threads, *p.poll);
}

// Near rows near each other.
std::vector<std::int64_t> arrange(const Projection& projection, int threads,
                                  const std::function<void()>& poll) {
  std::int64_t ordinary;
  std::vector<std::int64_t> order = massive_last(projection.norm, &ordinary);
  bisect(projection.values.data(), projection.axes, std::min(projection.axes, kOrderAxes), kGroup,
         threads, poll, order, ordinary);
  return order;
}

// Room for `rows` rows: whole pairs of groups, filled with zeros that can never pass a filter.
Side make_side(const Prepared& prepared, std::int64_t rows) {
  Side side;
  side.rows = rows;
  side.padded = tasks(rows, kScanCols) * kScanCols;
  const std::size_t count = static_cast<std::size_t>(side.padded);
  side.near = Aligned<std::uint32_t>(count * static_cast<std::size_t>(prepared.units) +
                                     kStepUnits * kGroup);
  if (prepared.precision == Precision::int8) {
    side.scale = Aligned<float>(count);
    side.offset.assign(count, 0);
  }
  side.far = Aligned<float>(count * prepared.far_width());
  side.half = Aligned<float>(count);
  if (prepared.head_units > 0) {
    side.head_half = Aligned<float>(count);
    side.head_offset.assign(count, 0);
  }
  side.tail.assign(count, 0.0f);
  side.rest.assign(count, 0.0f);
  side.error.assign(count, 0.0f);
  side.base.assign(count, 0.0f);
  side.position.assign(count, -1);
  side.folded.assign(count, false);
  if (prepared.rough_width > 0) side.rough = Int8Rows(count, prepared.rough_width);
  if (prepared.whole_int8_width > 0) side.whole_int8 = Int8Rows(count, prepared.whole_int8_width);
  side.whole = Aligned<std::uint16_t>(count * static_cast<std::size_t>(prepared.whole_width));
  if (prepared.whole_width > 0) {
    side.whole_half.assign(count, 0.0f);
    side.whole_error.assign(count, 0.0f);
  }
  return side;
}

// Folds errors that are large among the rows' into h: point 4 of prepare.h.
void fold_errors(Side& side) {
  const std::size_t rows = static_cast<std::size_t>(side.rows);
  std::vector<float> sorted(side.error.begin(), side.error.begin() + side.rows);
  std::nth_element(sorted.begin(), sorted.begin() + side.rows / 2, sorted.end());
  const float most = kLargeError * sorted[rows / 2];
  for (std::size_t i = 0; i < rows; ++i) {
    if (!(side.error[i] > most)) continue;
    const double error = static_cast<double>(side.error[i]);
    const double folded = 0.5 * (1.0 + 1.0 / kSplit) * error * error * kUpward;
    const double half = static_cast<double>(side.half.data()[i]) - folded;
    if (!(half > 0)) continue;
    side.half.data()[i] = round_down(half);
    side.folded[i] = true;
    if (side.head_offset.empty()) continue;
    float& head = side.head_half.data()[i];
    const double left = static_cast<double>(head) - folded;
    // Where it would not stay positive the head says nothing.
    head = left > 0 ? round_down(left) : -std::numeric_limits<float>::infinity();
  }
}

void fill_blocks(const Prepared& prepared, Side& side) {
  const std::size_t rows = static_cast<std::size_t>(prepared.block_rows);
  const std::size_t blocks = static_cast<std::size_t>(tasks(side.padded, prepared.block_rows));
  side.block_error.assign(blocks, 0.0f);
  side.block_base.assign(blocks, 0.0f);
  side.block_stretch.assign(blocks, 1.0);
  for (std::size_t i = 0; i < static_cast<std::size_t>(side.rows); ++i) {
    const std::size_t block = i / rows;
    if (side.folded[i])
      side.block_stretch[block] = 1.0 + kSplit;
    else
      side.block_error[block] = std::max(side.block_error[block], side.error[i]);
    side.block_base[block] = std::max(side.block_base[block], side.base[i]);
  }
}

void copy_int8(const Int8Rows& from, std::size_t slot, Int8Rows& to, std::size_t at,
               std::size_t width) {
  std::copy_n(from.elements.data() + slot * width, width, to.elements.data() + at * width);
  to.scale.data()[at] = from.scale.data()[slot];
  to.half.data()[at] = from.half.data()[slot];
  to.error.data()[at] = from.error.data()[slot];
  to.offset[at] = from.offset[slot];
}

// Larger blocks meet less often, and what is done once for a row and a block weighs less; smaller
// ones bring thresholds down sooner, let all columns of a block stay in the cache, and leave enough
// pairs of blocks for all threads.
std::int64_t rows_of_block(const PrepareParams& p) {
  constexpr std::int64_t cached = std::int64_t{4} << 20,
                         meetings = 16;  // bytes; of blocks, a thread
  std::int64_t rows = kMostColumns;
  while (rows > kLeastBlock && (2 * rows * p.rows.d > cached ||
                                tasks(p.n, rows) * tasks(p.n, rows) < 2 * meetings * p.threads))
    rows /= 2;
  return rows;
}

// Of the length beyond the first axes, over a sample of the rows.
double median_tail(const Prepared& p, const Projection& projection, std::int64_t axes) {
  std::vector<double> tails;
  const std::int64_t count = std::min(p.n, kTails);
  for (std::int64_t i = 0; i < count; ++i) {
    const std::int64_t position = i * p.n / count;
    tails.push_back(
        tail_length(p, axes, projection.row(position),
                    static_cast<double>(projection.rest[static_cast<std::size_t>(position)])));
  }
  const auto middle = tails.begin() + static_cast<std::ptrdiff_t>(tails.size() / 2);
  std::nth_element(tails.begin(), middle, tails.end());
  return *middle;
}

}  // namespace

bool has_precision(Isa isa, Precision precision) { return scan_of({isa, false}, precision).scan; }

Side pick(const Prepared& prepared, const std::vector<std::int64_t>& slots) {
  const Side& from = prepared.side;
  Side side = make_side(prepared, static_cast<std::int64_t>(slots.size()));
  const std::size_t units = static_cast<std::size_t>(prepared.units);
  const std::size_t width = prepared.far_width();
  const std::size_t whole = static_cast<std::size_t>(prepared.whole_width);
  const std::size_t rough = static_cast<std::size_t>(prepared.rough_width);
  const std::size_t whole_int8 = static_cast<std::size_t>(prepared.whole_int8_width);
  for (std::size_t at = 0; at < slots.size(); ++at) {
    const std::size_t slot = static_cast<std::size_t>(slots[at]);
    std::uint32_t* to = side.near.data() + at / kGroup * units * kGroup + at % kGroup;
    const std::uint32_t* near = from.near.data() + slot / kGroup * units * kGroup + slot % kGroup;
    for (std::size_t u = 0; u < units; ++u) to[u * kGroup] = near[u * kGroup];
    std::copy_n(from.far.data() + slot * width, width, side.far.data() + at * width);
    if (whole > 0) {
      std::copy_n(from.whole.data() + slot * whole, whole, side.whole.data() + at * whole);
      side.whole_half[at] = from.whole_half[slot];
      side.whole_error[at] = from.whole_error[slot];
    }
    if (rough > 0) copy_int8(from.rough, slot, side.rough, at, rough);
    if (whole_int8 > 0) copy_int8(from.whole_int8, slot, side.whole_int8, at, whole_int8);
    if (prepared.precision == Precision::int8) {
      side.scale.data()[at] = from.scale.data()[slot];
      side.offset[at] = from.offset[slot];
    }
    side.half.data()[at] = from.half.data()[slot];
    if (prepared.head_units > 0) {
      side.head_half.data()[at] = from.head_half.data()[slot];
      side.head_offset[at] = from.head_offset[slot];
    }
    side.tail[at] = from.tail[slot];
    side.rest[at] = from.rest[slot];
    side.error[at] = from.error[slot];
    side.base[at] = from.base[slot];
    side.position[at] = from.position[slot];
    side.folded[at] = from.folded[slot];
  }
  RowWriter writer(prepared);
  for (std::int64_t at = side.rows; at < side.padded; ++at) writer.write_padding(side, at);
  fill_blocks(prepared, side);
  return side;
}

Prepared prepare(const PrepareParams& p) {
  for (const Precision wanted : {p.precision, p.second})
    if (!fits(wanted, p.rows.d))
      throw std::invalid_argument("knn: int8 sums hold at most " +
                                  std::to_string(kMostInt8Columns) + " columns, these rows have " +
                                  std::to_string(p.rows.d));
  Prepared out;
  out.rows = p.rows;
  out.ids = p.ids;
  out.n = p.n;
  out.kernels = &kernels(p.level.isa);
  out.join = &join_kernels(p.level.isa);

  std::vector<RowScratch> scratch;
  for (int worker = 0; worker < p.threads; ++worker) scratch.emplace_back(p.rows.d);
  const RowSet set = {p.rows, p.ids, p.n, out.kernels, p.threads, p.poll};
  const std::vector<double> magnitude = row_magnitudes(set);
  const double largest = *std::max_element(magnitude.begin(), magnitude.end());
  Transform transform;
  transform.pre = difference_scale(p.rows.dtype, largest);
  transform.post = centered_scale(transform.pre * largest, p.rows.d);
  transform.mean.assign(p.basis.center, p.basis.center + p.rows.d);
  for (double& value : transform.mean) value *= transform.pre;
  out.pre = transform.pre;
  out.post = transform.post;

  const bool ordered = p.basis.count > 0 && p.known_for == 0;
  Projection projection;
  if (ordered)
    projection = project_in_ints(p) ? project_ints(set, transform, int_axes(p), scratch)
                                    : project(set, transform, p.basis, scratch);
  out.sigma = projection.sigma;
  std::int64_t ordinary;
  const std::vector<std::int64_t> order =
      ordered ? arrange(projection, p.threads, *p.poll) : massive_last(magnitude, &ordinary);
  std::vector<Refiner> refiners;
  for (int worker = 0; worker < p.threads; ++worker)
    refiners.emplace_back(*out.kernels, p.rows, out.pre);
  const auto distance = [&](std::int64_t i, std::int64_t j, int worker) {
    return out.scaled(refiners[static_cast<std::size_t>(worker)].distance(
        p.ids[i], p.ids[j], std::numeric_limits<double>::infinity()));
  };
  Choice choice = {Strategy::full, Precision::float32, p.rows.d, Precision::float32};
  const auto measured = [&](std::int64_t i, std::int64_t j) { return distance(i, j, 0); };
  const std::int64_t whole_width = tasks(p.rows.d, kRoughStep) * kRoughStep;
  const auto room = [&](std::int64_t bytes, std::int64_t units) {
    const std::int64_t given = static_cast<std::int64_t>(p.rows.element_size()) * p.rows.d;
    return p.n * (bytes + 4 * units + 100) <= p.n * given + p.spare_bytes;
  };
  std::unique_ptr<IntAxes> known;  // null: there are none, or they do not pay
  if (p.known_for > 0 && fits(Precision::int8, p.rows.d) &&
      room(whole_width, tasks(p.basis.count + 1, 4))) {
    known = std::make_unique<IntAxes>(int_axes(p));
    const Trial trial = try_axes(p, *known, *out.kernels, transform, scratch[0], measured);
    out.middle = out.rough_middle = trial.middle;
    if (p.first_axes == 0 &&
        !known_axes_pay(p.level, p.rows.d, known->count(), trial.share, p.known_for))
      known.reset();
  }
  if (known)
    choice = {Strategy::pruned, Precision::int8, known->count(), Precision::int8,
              std::numeric_limits<double>::infinity()};
  else if (!ordered)
    choice.precision = direct_precision(p, *out.kernels, *out.join, transform, scratch, distance);
  else
    choice = choose({projection, order, p.rows.d, p.k, p.strategy, p.asked, p.level, p.precision,
                     p.threads, *p.poll, distance});
  out.strategy = choice.strategy;
  out.ordered = ordered;
  out.asked = p.asked;
  out.precision = choice.precision;
  out.axis_cost = axis_cost(p.level, out.precision);
  out.listed = choice.listed;
  out.isa = p.level.isa;
  out.bf16 = bf16_join_kernels(p.level.isa);
  const ScanOf scan = scan_of(p.level, choice.precision);
  out.scan = scan.scan;
  out.scan_rows = scan.rows;
  const bool pruned = choice.strategy == Strategy::pruned;
  out.axes = !pruned ? p.rows.d : known ? known->count() : projection.axes;
  out.near_axes = pruned ? choice.near_axes : p.rows.d;
  if (pruned && p.first_axes > 0) out.near_axes = std::min(p.first_axes, out.axes);
  const std::int64_t elements = out.near_axes + (pruned ? 1 : 0);
  out.units = tasks(elements, static_cast<std::int64_t>(elements_a_unit(out.precision)));
  if (pruned) {
    const Precision second = p.second == Precision::any || known ? choice.second : p.second;
    if (second == Precision::int8 && out.precision == Precision::int8 &&
        room(whole_width, out.units))
      out.whole_int8_width = whole_width;
    else if (second == Precision::bfloat16 && out.bf16 && room(2 * whole_width, out.units))
      out.whole_width = whole_width;
  }
  if (!pruned) {
    out.sigma = 1.0;
    projection.values = Aligned<float>(0);
  }

  if (pruned && !known) out.middle = median_tail(out, projection, out.near_axes);
  // A whole number of vectors: of so many axes the last may go to the rest.
  const std::int64_t rough = out.axes - (out.axes % kRoughStep == 0 ? 1 : 0);
  if (pruned && out.precision == Precision::int8 && out.near_axes < rough) {
    out.rough_axes = rough;
    out.rough_width = tasks(rough + 1, kRoughStep) * kRoughStep;
    if (!known) out.rough_middle = median_tail(out, projection, rough);
  }

  if (pruned && out.precision == Precision::int8 && !out.axes_apart() &&
      elements >= 2 * kHeadElements)
    out.head_units = kHeadElements / static_cast<std::int64_t>(elements_a_unit(out.precision));

  out.block_rows = rows_of_block(p);
  out.side = make_side(out, p.n);
  out.slot.resize(static_cast<std::size_t>(p.n));
  constexpr std::int64_t together = kGroup * kGroupsPerTask;
  std::vector<AlongAxes> along;  // of one thread each
  for (int worker = 0; known && worker < p.threads; ++worker) along.emplace_back(*known, together);
  parallel_for(
      tasks(out.side.padded, together), p.threads, *p.poll, [&](std::int64_t task, int worker) {
        RowWriter writer(out);
        RowScratch& mine = scratch[static_cast<std::size_t>(worker)];
        const std::int64_t begin = task * together;
        const std::int64_t stop = std::min(out.side.padded, begin + together);
        for (std::int64_t slot = begin; slot < stop; ++slot) {
          if (slot >= p.n) {
            writer.write_padding(out.side, slot);
            continue;
          }
          const std::int64_t position = order[static_cast<std::size_t>(slot)];
          const std::size_t at = static_cast<std::size_t>(position);
          out.side.position[static_cast<std::size_t>(slot)] = position;
          out.slot[at] = slot;
          if (pruned && !known) {
            writer.write(out.side, slot, projection.row(position),
                         static_cast<double>(projection.rest[at]),
                         static_cast<double>(projection.base[at]));
          }
          if (out.axes_apart()) continue;
          double norm2, error2;
          transform_row(*out.kernels, p.rows, transform, p.ids[position], mine, &norm2, &error2);
          const double base = centering_error(norm2, error2, p.rows.d);
          if (known)
            along[static_cast<std::size_t>(worker)].put(slot - begin, mine.centered.data(), base);
          if (pruned)
            writer.write_columns(out.side, slot, mine.centered.data(), base);
          else
            writer.write(out.side, slot, mine.centered.data(), 0.0, base);
        }
        if (!known || begin >= p.n) return;
        AlongAxes& rows = along[static_cast<std::size_t>(worker)];
        const std::int64_t count = std::min(p.n, stop) - begin;
        rows.project(count);
        for (std::int64_t r = 0; r < count; ++r)
          writer.write(out.side, begin + r, rows.values(r), rows.rest(r), rows.base(r));
      });
  fold_errors(out.side);
  fill_blocks(out, out.side);
  return out;
}

}  // namespace fastdim
