#include "prepare.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <numeric>

#include "levels.h"
#include "order.h"
#include "refine.h"
#include "threads.h"

namespace fastdim {
namespace {

constexpr double kMassive = 4.0;     // times the median norm: a row that gets a block of its like
constexpr double kSplit = 0x1p-10;   // t of prepare.h
constexpr float kLargeError = 3.0f;  // times the median error: folded
constexpr double kUpward = 1.0 + 0x1p-40;  // pays for float64 roundings of a bound
constexpr std::int64_t kGroupsPerTask = 16;
constexpr std::int64_t kTails = 257;     // rows whose tails are sampled for their median
constexpr std::int64_t kOrderAxes = 48;  // the first axes tell near from far

std::uint16_t to_bf16(float value) {
  std::uint32_t bits;
  std::memcpy(&bits, &value, sizeof bits);
  return static_cast<std::uint16_t>((bits + 0x7fffu + (bits >> 16 & 1u)) >> 16);
}

// Not below the value, and with 16 significant bits: 127 times it, and every smaller multiple, is a
// float32.
float round_up16(double value) {
  const float above = round_up(value);
  std::uint32_t bits;
  std::memcpy(&bits, &above, sizeof bits);
  bits = (bits + 0xffu) & ~0xffu;
  float result;
  std::memcpy(&result, &bits, sizeof result);
  return result;
}

float from_bf16(std::uint16_t half) {
  const std::uint32_t bits = static_cast<std::uint32_t>(half) << 16;
  float value;
  std::memcpy(&value, &bits, sizeof value);
  return value;
}

std::vector<std::int64_t> in_order(std::int64_t n) {
  std::vector<std::int64_t> order(static_cast<std::size_t>(n));
  std::iota(order.begin(), order.end(), 0);
  return order;
}

// The arithmetic asked for, or the fastest that runs here.
Precision fastest(Isa isa, Precision wanted) {
  if (wanted != Precision::any) return wanted;
  for (const Precision precision : {Precision::int8, Precision::bfloat16})
    if (has_precision(isa, precision)) return precision;
  return Precision::float32;
}

// Near rows near each other, rows of huge norm last, by norm: they loosen the bounds of their own
// blocks alone.
std::vector<std::int64_t> arrange(const Projection& projection, std::int64_t n, int threads,
                                  const std::function<void()>& poll) {
  std::vector<std::int64_t> order = in_order(n);
  const std::vector<float>& norm = projection.norm;
  std::vector<float> sorted = norm;
  std::nth_element(sorted.begin(), sorted.begin() + n / 2, sorted.end());
  const float most = static_cast<float>(kMassive) * sorted[static_cast<std::size_t>(n / 2)];
  const auto of = [&](std::int64_t i) { return norm[static_cast<std::size_t>(i)]; };
  const auto massive = std::stable_partition(order.begin(), order.end(),
                                             [&](std::int64_t i) { return of(i) <= most; });
  std::stable_sort(massive, order.end(),
                   [&](std::int64_t i, std::int64_t j) { return of(i) < of(j); });
  bisect(projection.values.data(), projection.axes, std::min(projection.axes, kOrderAxes), kGroup,
         threads, poll, order, massive - order.begin());
  return order;
}

// Room for `rows` rows: whole pairs of groups, filled with zeros that can never pass a filter.
Side make_side(const Prepared& prepared, std::int64_t rows) {
  Side side;
  side.rows = rows;
  side.padded = tasks(rows, kScanCols) * kScanCols;
  const std::size_t count = static_cast<std::size_t>(side.padded);
  side.near = Aligned<std::uint32_t>(count * static_cast<std::size_t>(prepared.units));
  if (prepared.precision == Precision::int8) {
    side.scale = Aligned<float>(count);
    side.offset.assign(count, 0);
  }
  side.far = Aligned<float>(count * prepared.far_width());
  side.half = Aligned<float>(count);
  side.tail.assign(count, 0.0f);
  side.rest.assign(count, 0.0f);
  side.error.assign(count, 0.0f);
  side.base.assign(count, 0.0f);
  side.position.assign(count, -1);
  side.folded.assign(count, false);
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
    const double half = static_cast<double>(side.half.data()[i]) -
                        0.5 * (1.0 + 1.0 / kSplit) * error * error * kUpward;
    if (!(half > 0)) continue;
    side.half.data()[i] = round_down(half);
    side.folded[i] = true;
  }
}

void fill_blocks(Side& side) {
  const std::size_t blocks = static_cast<std::size_t>(tasks(side.padded, kBlockRows));
  side.block_error.assign(blocks, 0.0f);
  side.block_base.assign(blocks, 0.0f);
  side.block_stretch.assign(blocks, 1.0);
  for (std::size_t i = 0; i < static_cast<std::size_t>(side.rows); ++i) {
    const std::size_t block = i / static_cast<std::size_t>(kBlockRows);
    if (side.folded[i])
      side.block_stretch[block] = 1.0 + kSplit;
    else
      side.block_error[block] = std::max(side.block_error[block], side.error[i]);
    side.block_base[block] = std::max(side.block_base[block], side.base[i]);
  }
}

// The relative error of a score whose terms pass through so many roundings: point 4 of prepare.h.
double score_error(double roundings) { return roundings * 0x1p-24 / (1.0 - roundings * 0x1p-24); }

double scan_roundings(const Prepared& p) {
  if (p.precision == Precision::int8) return 8.0;
  return static_cast<double>(p.precision == Precision::bfloat16 ? 3 * p.units + 4 : p.units + 4);
}

// One centered row on all columns in bfloat16; `base`: bound of |exact - centered|.
void write_whole(const Prepared& p, Side& side, std::int64_t slot, const float* centered,
                 double base) {
  const std::size_t at = static_cast<std::size_t>(slot);
  const std::size_t width = static_cast<std::size_t>(p.whole_width);
  const std::size_t d = static_cast<std::size_t>(p.rows.d);
  std::uint16_t* out = side.whole.data() + at * width;
  double norm2, error2;
  p.bf16->round(centered, d, out, &norm2, &error2);
  std::fill(out + d, out + width, std::uint16_t{0});
  const double roundings = 3.0 * static_cast<double>(width) / kScanCols + 16.0;
  side.whole_half[at] = round_down(0.5 * norm2 * (1.0 - 2.0 * score_error(roundings) * kUpward));
  side.whole_error[at] = round_up((std::sqrt(error2) + base) * (1.0 + 0x1p-20));
}

std::size_t elements_a_unit(Precision precision) {
  return precision == Precision::int8 ? 4 : precision == Precision::bfloat16 ? 2 : 1;
}

// Length of what lies beyond the first axes of a row, and beyond them all.
double tail_length(const Prepared& p, const float* values, double rest) {
  double tail2 = rest * rest;
  for (std::int64_t k = p.near_axes; k < p.axes; ++k)
    tail2 += static_cast<double>(values[k]) * static_cast<double>(values[k]);
  return std::sqrt(tail2);
}

// Writes one row, given as `near` values, the tail beyond them and the further ones.
class RowWriter {
 public:
  explicit RowWriter(const Prepared& p)
      : p_(p),
        keep_(1.0 - 2.0 * score_error(scan_roundings(p)) * kUpward),
        exact_(elements()),
        scanned_(elements()),
        bytes_(p.precision == Precision::int8 ? elements() : 0) {}

  // `values`: axes floats; `rest`: the length beyond them; `base`: see prepare.h.
  void write(Side& side, std::int64_t slot, const float* values, double rest, double base) {
    const std::size_t near = static_cast<std::size_t>(p_.near_axes), at = index(slot);
    std::fill(std::copy(values, values + near, exact_.begin()), exact_.end(), 0.0);
    const bool pruned = p_.strategy == Strategy::pruned;
    if (pruned) exact_[near] = tail_length(p_, values, rest) - p_.middle;
    double norm2 = 0, error2 = 0;
    if (p_.precision == Precision::int8) {
      if (p_.far_width() == 0) rotate();
      quantize(side, at, norm2, error2);
    } else {
      for (std::size_t k = 0; k < exact_.size(); ++k) round(k, norm2, error2);
    }
    side.tail[at] = pruned ? scanned_[near] : 0.0f;
    store(side, slot);
    if (p_.far_width() > 0) {
      float* far = side.far.data() + at * p_.far_width();
      std::copy(values + near, values + p_.axes, far);
      std::fill(far + (p_.axes - p_.near_axes), far + p_.far_width(), 0.0f);
    }
    side.half.data()[at] = round_down(0.5 * norm2 * keep_);
    side.rest[at] = static_cast<float>(rest);
    side.base[at] = round_up((base + 0x1p-24 * rest) * kUpward);
    // The factor pays for the float32 sum of two of them.
    const double turning = p_.precision == Precision::int8 ? 0x1p-48 * std::sqrt(norm2) : 0.0;
    side.error[at] = round_up((std::sqrt(error2) + base + turning) * (1.0 + 0x1p-20));
  }

  void write_padding(Side& side, std::int64_t slot) {
    std::fill(scanned_.begin(), scanned_.end(), 0.0f);
    std::fill(bytes_.begin(), bytes_.end(), std::uint8_t{128});
    store(side, slot);
    std::fill_n(side.far.data() + index(slot) * p_.far_width(), p_.far_width(), 0.0f);
    side.half.data()[index(slot)] = std::numeric_limits<float>::infinity();
  }

 private:
  static std::size_t index(std::int64_t slot) { return static_cast<std::size_t>(slot); }
  std::size_t elements() const {
    return static_cast<std::size_t>(p_.units) * elements_a_unit(p_.precision);
  }

  void round(std::size_t k, double& norm2, double& error2) {
    scanned_[k] = static_cast<float>(exact_[k]);
    if (p_.precision == Precision::bfloat16) scanned_[k] = from_bf16(to_bf16(scanned_[k]));
    const double seen = static_cast<double>(scanned_[k]), gap = exact_[k] - seen;
    norm2 += seen * seen;
    error2 += gap * gap;
  }

  // A Walsh-Hadamard transform over as many elements as the largest of 4, 16 and 64 that divides
  // their number, each with its like `step` further: the first axes are long, and one scale serves
  // a row better if they are spread over all elements. Distances stay as they are: the matrix is
  // orthogonal, its entries are a power of two, and `turning` in write() pays for its sums.
  void rotate() {
    const std::size_t count = exact_.size();
    const std::size_t size = count % 64 == 0 ? 64 : count % 16 == 0 ? 16 : 4;
    const double factor = size == 64 ? 0.125 : size == 16 ? 0.25 : 0.5;
    const std::size_t step = count / size;
    for (std::size_t half = step; half < count; half *= 2)
      for (std::size_t from = 0; from < count; from += 2 * half)
        for (std::size_t i = from; i < from + half; ++i) {
          const double sum = exact_[i] + exact_[i + half];
          exact_[i + half] = exact_[i] - exact_[i + half];
          exact_[i] = sum;
        }
    for (double& value : exact_) value *= factor;
  }

  void quantize(Side& side, std::size_t at, double& norm2, double& error2) {
    double most = 0;
    for (const double value : exact_) most = std::max(most, std::fabs(value));
    const float scale = round_up16(most / 127.0);
    const double factor = scale > 0 ? 1.0 / static_cast<double>(scale) : 0.0;
    constexpr double nearest = 0x1.8p52;  // adding it rounds to whole numbers
    std::int32_t sum = 0;
    for (std::size_t k = 0; k < exact_.size(); ++k) {
      const double whole =
          std::min(127.0, std::max(-127.0, (exact_[k] * factor + nearest) - nearest));
      const double seen = whole * static_cast<double>(scale), gap = exact_[k] - seen;
      norm2 += seen * seen;
      error2 += gap * gap;
      scanned_[k] = static_cast<float>(seen);
      const std::int32_t element = static_cast<std::int32_t>(whole);
      bytes_[k] = static_cast<std::uint8_t>(element + 128);
      sum += element;
    }
    side.scale.data()[at] = scale;
    side.offset[at] = -128 * sum;
  }

  void store(Side& side, std::int64_t slot) {
    const std::size_t units = static_cast<std::size_t>(p_.units), at = index(slot);
    std::uint32_t* group = side.near.data() + at / kGroup * units * kGroup + at % kGroup;
    for (std::size_t u = 0; u < units; ++u) {
      std::uint32_t bits;
      if (p_.precision == Precision::int8)
        std::memcpy(&bits, &bytes_[4 * u], sizeof bits);
      else if (p_.precision == Precision::bfloat16)
        bits = static_cast<std::uint32_t>(to_bf16(scanned_[2 * u])) |
               static_cast<std::uint32_t>(to_bf16(scanned_[2 * u + 1])) << 16;
      else
        std::memcpy(&bits, &scanned_[u], sizeof bits);
      group[u * kGroup] = bits;
    }
  }

  const Prepared& p_;
  double keep_;
  std::vector<double> exact_;        // what the scan should see
  std::vector<float> scanned_;       // what it sees
  std::vector<std::uint8_t> bytes_;  // int8: as stored
};

// The scan on units of that arithmetic, null where it was not built or cannot run here.
void (*scan_of(Isa isa, Precision precision))(const Scan&) {
  if (precision == Precision::float32) return join_kernels(isa).scan;
  if (precision == Precision::int8)
    return cpu_features().avx512_vnni ? join_kernels(isa).scan_int8 : nullptr;
  const JoinKernels* bf16 = bf16_join_kernels(isa);
  return bf16 ? bf16->scan : nullptr;
}

}  // namespace

bool has_precision(Isa isa, Precision precision) { return scan_of(isa, precision) != nullptr; }

Side pick(const Prepared& prepared, const std::vector<std::int64_t>& slots) {
  const Side& from = prepared.side;
  Side side = make_side(prepared, static_cast<std::int64_t>(slots.size()));
  const std::size_t units = static_cast<std::size_t>(prepared.units);
  const std::size_t width = prepared.far_width();
  const std::size_t whole = static_cast<std::size_t>(prepared.whole_width);
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
    if (prepared.precision == Precision::int8) {
      side.scale.data()[at] = from.scale.data()[slot];
      side.offset[at] = from.offset[slot];
    }
    side.half.data()[at] = from.half.data()[slot];
    side.tail[at] = from.tail[slot];
    side.rest[at] = from.rest[slot];
    side.error[at] = from.error[slot];
    side.base[at] = from.base[slot];
    side.position[at] = from.position[slot];
    side.folded[at] = from.folded[slot];
  }
  RowWriter writer(prepared);
  for (std::int64_t at = side.rows; at < side.padded; ++at) writer.write_padding(side, at);
  fill_blocks(side);
  return side;
}

Prepared prepare(const PrepareParams& p) {
  Prepared out;
  out.rows = p.rows;
  out.ids = p.ids;
  out.n = p.n;
  out.kernels = &kernels(p.isa);
  out.join = &join_kernels(p.isa);

  std::vector<RowScratch> scratch;
  for (int worker = 0; worker < p.threads; ++worker) scratch.emplace_back(p.rows.d);
  const RowSet set = {p.rows, p.ids, p.n, out.kernels, p.threads, p.poll};
  const double largest = largest_magnitude(set, scratch);
  Transform transform;
  transform.pre = difference_scale(p.rows.dtype, largest);
  transform.post = centered_scale(transform.pre * largest, p.rows.d);
  transform.mean.assign(p.basis.center, p.basis.center + p.rows.d);
  for (double& value : transform.mean) value *= transform.pre;
  out.pre = transform.pre;
  out.post = transform.post;

  const bool direct = p.basis.count == 0;
  Projection projection = direct ? Projection{} : project(set, transform, p.basis, scratch);
  out.sigma = projection.sigma;
  const std::vector<std::int64_t> order =
      direct ? in_order(p.n) : arrange(projection, p.n, p.threads, *p.poll);
  std::vector<Refiner> refiners;
  for (int worker = 0; worker < p.threads; ++worker)
    refiners.emplace_back(*out.kernels, p.rows, out.pre);
  const auto distance = [&](std::int64_t i, std::int64_t j, int worker) {
    return out.scaled(refiners[static_cast<std::size_t>(worker)].distance(
        p.ids[i], p.ids[j], std::numeric_limits<double>::infinity()));
  };
  const Choice choice = direct ? Choice{Strategy::full, fastest(p.isa, p.precision), p.rows.d}
                               : choose({projection, order, p.rows.d, p.k, p.strategy, p.isa,
                                         p.precision, p.threads, *p.poll, distance});
  out.strategy = choice.strategy;
  out.precision = choice.precision;
  out.bf16 = bf16_join_kernels(p.isa);
  out.scan = scan_of(p.isa, choice.precision);
  const bool pruned = choice.strategy == Strategy::pruned;
  out.axes = pruned ? projection.axes : p.rows.d;
  out.near_axes = pruned ? choice.near_axes : p.rows.d;
  const std::int64_t elements = out.near_axes + (pruned ? 1 : 0);
  out.units = tasks(elements, static_cast<std::int64_t>(elements_a_unit(out.precision)));
  if (pruned && out.bf16 && out.precision != Precision::float32) {
    const std::int64_t width = tasks(p.rows.d, kScanCols) * kScanCols;
    const std::int64_t bytes = 2 * width + 4 * out.units + 100;
    const std::int64_t given = static_cast<std::int64_t>(p.rows.element_size()) * p.rows.d;
    if (p.n * bytes <= p.n * given + p.spare_bytes) out.whole_width = width;
  }
  if (!pruned) {
    out.sigma = 1.0;
    projection.values = Aligned<float>(0);
  }

  if (pruned) {
    std::vector<double> tails;
    for (std::int64_t i = 0; i < std::min(p.n, kTails); ++i) {
      const std::int64_t position = i * p.n / std::min(p.n, kTails);
      const std::size_t at = static_cast<std::size_t>(position);
      tails.push_back(
          tail_length(out, projection.row(position), static_cast<double>(projection.rest[at])));
    }
    std::nth_element(tails.begin(), tails.begin() + static_cast<std::ptrdiff_t>(tails.size() / 2),
                     tails.end());
    out.middle = tails[tails.size() / 2];
  }

  out.side = make_side(out, p.n);
  out.slot.resize(static_cast<std::size_t>(p.n));
  parallel_for(
      tasks(out.side.padded, kGroup * kGroupsPerTask), p.threads, *p.poll,
      [&](std::int64_t task, int worker) {
        RowWriter writer(out);
        RowScratch& mine = scratch[static_cast<std::size_t>(worker)];
        const std::int64_t stop = std::min(out.side.padded, (task + 1) * kGroup * kGroupsPerTask);
        for (std::int64_t slot = task * kGroup * kGroupsPerTask; slot < stop; ++slot) {
          if (slot >= p.n) {
            writer.write_padding(out.side, slot);
            continue;
          }
          const std::int64_t position = order[static_cast<std::size_t>(slot)];
          const std::size_t at = static_cast<std::size_t>(position);
          out.side.position[static_cast<std::size_t>(slot)] = position;
          out.slot[at] = slot;
          if (pruned) {
            writer.write(out.side, slot, projection.row(position),
                         static_cast<double>(projection.rest[at]),
                         static_cast<double>(projection.base[at]));
          }
          if (pruned && out.whole_width == 0) continue;
          double norm2, error2;
          transform_row(*out.kernels, p.rows, transform, p.ids[position], mine, &norm2, &error2);
          const double base = centering_error(norm2, error2, p.rows.d);
          if (pruned)
            write_whole(out, out.side, slot, mine.centered.data(), base);
          else
            writer.write(out.side, slot, mine.centered.data(), 0.0, base);
        }
      });
  fold_errors(out.side);
  fill_blocks(out.side);
  return out;
}

const JoinKernels& join_kernels(Isa isa) {
  return at_level(isa, scalar_join_kernels, FASTDIM_IF_AVX2(avx2_join_kernels),
                  FASTDIM_IF_AVX512(avx512_join_kernels));
}

const JoinKernels* bf16_join_kernels(Isa isa) {
  return table_if<JoinKernels>(isa == Isa::avx512 && cpu_features().avx512_bf16,
                               FASTDIM_IF_AVX512_BF16(avx512_bf16_join_kernels));
}

}  // namespace fastdim
