// Which strategy, how many axes and which arithmetic: measured on a sample, never trusted for
// correctness.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "isa.h"
#include "projection.h"

namespace fastdim {

// pruned: filter on the leading principal axes first. full: filter on all columns at once, in
// bfloat16 where the processor has it. rows: likewise, or on axes, query by query (row_search.h).
// tiled: the float32 scan of search.h. automatic: the cheapest.
enum class Strategy { automatic, pruned, full, rows, tiled };

// Of the first level. any: what is likely faster.
enum class Precision { any, float32, bfloat16, int8 };

const char* name(Strategy strategy);
const char* name(Precision precision);  // but any

// Throws std::invalid_argument, naming the strategies, if there is none of that name; "" and "auto"
// are automatic.
Strategy parse_strategy(const std::string& text);

// Whether scans of that arithmetic are built and run here.
bool has_precision(Isa isa, Precision precision);

// Sums of int8 products of this many columns stay in int32: 255 x 127 each.
constexpr std::int64_t kMostInt8Columns = 65'536;

// Whether rows of d columns can be scanned in that arithmetic.
static inline bool fits(Precision precision, std::int64_t d) {
  return precision != Precision::int8 || d <= kMostInt8Columns;
}

// "", "float32", "bfloat16" or "int8"; throws std::invalid_argument if it is none of them, or one
// that cannot run here.
Precision parse_precision(const std::string& text, Isa isa);

struct ChoiceParams {
  const Projection& projection;
  const std::vector<std::int64_t>& order;
  std::int64_t d;
  std::int64_t k;
  Strategy strategy;
  Strategy asked;  // of searches: rows, or what may not be left for it
  Level level;
  Precision precision;
  int threads;
  const std::function<void()>& poll;
  // Of two positions, as projected, by a thread.
  std::function<double(std::int64_t, std::int64_t, int worker)> distance;
};

struct Choice {
  Strategy strategy;       // pruned or full
  Precision precision;     // not any
  std::int64_t near_axes;  // pruned: axes of the first level
  Precision second;        // pruned: of all columns on the second level; float32: further axes
  double listed = 1;       // pruned: pairs that the first level leaves for each that matters
};

Choice choose(const ChoiceParams& params);

// Whether a search by so many queries among rows that are only rounded likely takes less time with
// a first level on `axes` known axes and their tail in int8, all columns behind it, than with all
// columns at once. share: of the pairs, those that the first level leaves.
bool known_axes_pay(Level level, std::int64_t d, std::int64_t axes, double share,
                    std::int64_t queries);

// About how much rounding moves a row, relative to its length, where one scale serves it well.
double error_of(Precision precision);

// Nanoseconds of one thread for one element of a pair of rows in the first level.
double axis_cost(Level level, Precision precision);

// Two rows of a sample: their distance, and the sum of what rounding moves them by.
struct SampledPair {
  double distance, int8_error, bfloat16_error;
};

// The likely fastest arithmetic for a full search of rows of d columns, from the pairs of some
// queries.
Precision choose_direct(Level level, std::int64_t d,
                        const std::vector<std::vector<SampledPair>>& pairs);

}  // namespace fastdim
