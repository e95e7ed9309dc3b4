#include "filter.h"

#include <algorithm>
#include <cmath>
#include <numeric>
#include <utility>

namespace fastdim {
namespace {

// Up to so many columns a pair is measured in float64 at once: the screen would take as long.
constexpr std::int64_t kUnscreened = 64;

const std::uint32_t* units(const Prepared& p, const Side& side, std::int64_t slot) {
  const std::size_t at = static_cast<std::size_t>(slot);
  return side.near.data() + at / kGroup * static_cast<std::size_t>(p.units) * kGroup + at % kGroup;
}

}  // namespace

Chosen choose_side(const Prepared& p, const std::int64_t* queries, std::int64_t m) {
  Chosen chosen;
  chosen.output.resize(static_cast<std::size_t>(m));
  std::iota(chosen.output.begin(), chosen.output.end(), 0);
  const auto slot = [&](std::int64_t i) { return p.slot[static_cast<std::size_t>(queries[i])]; };
  std::sort(chosen.output.begin(), chosen.output.end(), [&](std::int64_t i, std::int64_t j) {
    return std::make_pair(slot(i), i) < std::make_pair(slot(j), j);
  });
  std::vector<std::int64_t> slots;
  for (const std::int64_t i : chosen.output) slots.push_back(slot(i));
  chosen.side = pick(p, slots);
  return chosen;
}

void scan_rows(const Prepared& p, const Side& x, std::int64_t row, const Side& y,
               std::int64_t column, std::int64_t columns, const float* bound_x,
               const float* bound_y, ScanLists& lists, HeadFirst* first) {
  const bool int8 = p.precision == Precision::int8;
  const bool head = p.head_units > 0 && first && first->wanted();
  int whole = 0;
  p.scan({units(p, x, row),
          units(p, y, column),
          static_cast<std::size_t>(p.units),
          static_cast<int>(columns),
          x.half.data() + row,
          y.half.data() + column,
          bound_x,
          bound_y,
          int8 ? x.scale.data() + row : nullptr,
          int8 ? y.scale.data() + column : nullptr,
          int8 ? x.offset.data() + row : nullptr,
          lists.turned.data(),
          head ? static_cast<std::size_t>(p.head_units) : 0,
          head ? x.head_half.data() + row : nullptr,
          head ? y.head_half.data() + column : nullptr,
          head ? x.head_offset.data() + row : nullptr,
          &whole,
          lists.score.data(),
          lists.column.data(),
          lists.count});
  if (head) first->saw(whole * kScanCols, static_cast<int>(columns));
}

float reach_of(const Prepared& p, double limit) {
  return round_up(p.scaled(limit) * p.sigma * kUpward);
}

double flushed_of(const Prepared& p) {
  const double elements = p.precision == Precision::int8 ? 4.0 * static_cast<double>(p.units) : 0.0;
  return std::max(0x1p-100, 0x1p-110 * elements);
}

float stretch_of(const Prepared& p) {
  double stretch = 1.0;
  for (const double of_block : p.side.block_stretch) stretch = std::max(stretch, of_block);
  return widened_stretch(stretch);
}

float flushed2_of(const Prepared& p) { return static_cast<float>(2.0 * flushed_of(p) * kUpward); }

float widened_stretch(double stretch) { return round_up(stretch * (1.0 + 0x1p-19)); }

double Measure::operator()(std::int64_t i, std::int64_t j, double limit) {
  // The factor pays for a sum of float32 squares d / 16 + 16 terms deep; terms lost to underflow
  // only make it smaller. Beyond the range of float32 the screen says nothing.
  const auto screen = p_.join->screen[static_cast<int>(p_.rows.dtype)];
  const double square =
      limit * limit * (1.0 + (static_cast<double>(p_.rows.d) / 16.0 + 32.0) * 0x1p-22) + 0x1p-120;
  if (screen && p_.rows.d > kUnscreened && square < 0x1p120) {
    const float most = round_up(square);
    if (screen(p_.rows.row(p_.ids[i]), p_.rows.row(p_.ids[j]), static_cast<std::size_t>(p_.rows.d),
               most) > most)
      return std::numeric_limits<double>::infinity();
  }
  return refiner_.distance(p_.ids[i], p_.ids[j], limit);
}

void Measure::operator()(std::int64_t i, const std::vector<std::int64_t>& others, double* out) {
  rows_.clear();
  for (const std::int64_t other : others) rows_.push_back(p_.rows.row(p_.ids[other]));
  refiner_.distances(p_.ids[i], rows_.data(), rows_.size(), out);
}

void Measure::fetch(std::int64_t position) const {
#if defined(__GNUC__)
  const char* row = static_cast<const char*>(p_.rows.row(p_.ids[position]));
  const std::size_t bytes = static_cast<std::size_t>(p_.rows.d) * p_.rows.element_size();
  for (std::size_t byte = 0; byte < std::min<std::size_t>(bytes, 512); byte += 64)
    __builtin_prefetch(row + byte);
#else
  (void)position;
#endif
}

}  // namespace fastdim
