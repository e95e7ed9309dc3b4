#include "choose.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <limits>
#include <numeric>
#include <stdexcept>

#include "row_search.h"
#include "threads.h"

namespace fastdim {
namespace {

constexpr std::int64_t kQueries = 64;   // rows of the sample
constexpr std::int64_t kOthers = 1024;  // rows that each is held against
constexpr std::int64_t kWindow = 1024;  // rows in order around a query, for its k-th distance
constexpr std::int64_t kMeasured = 32;  // of them at least, those that the axes say are nearest

// Nanoseconds of one thread. Only their ratios matter; see docs/engine.md for how they were
// measured.
struct Costs {
  double near_axis;    // one axis of one pair in the first level
  double rough = 0.0;  // a pair in the level between; 0: there is none
  double second = 18;  // a pair in the second level on further axes
  double pair = 94;    // a pair measured on the original rows
};

// Of a pair of rows of d columns in the second level on all of them.
double whole_cost(Precision precision, std::int64_t d) {
  const double columns = static_cast<double>(d);
  return precision == Precision::int8 ? 2.5 + 0.0075 * columns : 6.0 + 0.02 * columns;
}

Costs costs_of(Level level, Precision precision) {
  if (precision != Precision::float32) {
    if (precision == Precision::bfloat16) return {0.0049};
    Costs costs = {level.amx ? 0.001 : 0.0027};
    costs.rough = 4.5;
    return costs;
  }
  if (level.isa == Isa::avx512) return {0.011};
  if (level.isa == Isa::avx2) return {0.022};
  return {0.4, 0, 200, 900};
}

// A row along known axes in int16: itself, and an element times an axis.
constexpr double kProjected = 300, kProjectedAxis = 0.0041;

// What the sample tells about one number of first axes: shares of all pairs that are left over by
// the first level, by the first arithmetic on all axes, and by all axes in float32.
struct Survivors {
  double first = 0, rough = 0, both = 0;
};

// Candidates for the number of first axes. With the tail an even number of elements: bfloat16 goes
// in pairs.
constexpr std::array<std::int64_t, 9> kNear = {15, 31, 47, 63, 79, 95, 127, 159, 191};

// One row of the sample: its place, the squared length of what lies beyond all axes, and the
// lengths of the tails beyond each candidate.
struct Member {
  std::int64_t slot;
  double beyond2;
  std::array<float, kNear.size()> tail;
};

class Sample {
 public:
  explicit Sample(const ChoiceParams& p)
      : p_(p), n_(static_cast<std::int64_t>(p.order.size())), axes_(p.projection.axes) {
    const std::int64_t queries = std::min(kQueries, n_), others = std::min(kOthers, n_);
    for (std::int64_t i = 0; i < others; ++i) others_.push_back(member(i * n_ / others));
    for (std::int64_t i = 0; i < queries; ++i) queries_.push_back(member(i * (n_ / queries)));
    reach_.resize(queries_.size());
    bounds_.resize(queries_.size() * others_.size());
    expected_.resize(bounds_.size());
    parallel_for(queries, p.threads, p.poll, [&](std::int64_t task, int worker) {
      const std::size_t q = static_cast<std::size_t>(task);
      for (std::size_t o = 0; o < others_.size(); ++o)
        visit(queries_[q], others_[o], q * others_.size() + o);
      reach_[q] = std::min(reach(queries_[q], worker), reach_of_others(q));
    });
  }

  std::int64_t rows() const { return n_; }

  // With the first level on kNear[choice] axes (at most all) and `error` times a row's length as
  // its rounding error.
  Survivors survivors(std::size_t choice, double error) const {
    Survivors out;
    std::size_t at = 0;
    for (std::size_t q = 0; q < queries_.size(); ++q)
      for (const Member& y : others_) {
        const auto& bound = bounds_[at++];
        if (y.slot == queries_[q].slot) continue;
        const double slack = error * (norm(queries_[q].slot) + norm(y.slot));
        if (static_cast<double>(bound[choice]) > reach_[q] + slack) continue;
        ++out.first;
        out.rough += static_cast<double>(bound.back()) <= reach_[q] + slack;
        // The second level sees all axes in float32.
        out.both += static_cast<double>(bound.back()) <= reach_[q];
      }
    // Either row of a pair may ask for it.
    const double pairs = std::max<double>(1.0, static_cast<double>(at));
    return {2 * out.first / pairs, 2 * out.rough / pairs, 2 * out.both / pairs};
  }

  // Share of pairs that a filter on all columns leaves over.
  double survivors_of_all(double error) const {
    double kept = 0;
    std::size_t at = 0;
    for (std::size_t q = 0; q < queries_.size(); ++q)
      for (const Member& y : others_) {
        const double slack = error * (norm(queries_[q].slot) + norm(y.slot));
        const double distance = static_cast<double>(expected_[at++]);
        kept += y.slot != queries_[q].slot && distance <= reach_[q] + slack;
      }
    return 2 * kept / std::max<double>(1.0, static_cast<double>(at));
  }

 private:
  std::size_t at(std::int64_t slot) const {
    return static_cast<std::size_t>(p_.order[static_cast<std::size_t>(slot)]);
  }
  const float* row(std::int64_t slot) const {
    return p_.projection.row(static_cast<std::int64_t>(at(slot)));
  }
  double norm(std::int64_t slot) const { return static_cast<double>(p_.projection.norm[at(slot)]); }

  // Squared length of what lies beyond all axes.
  double beyond2(std::int64_t slot) const {
    const float* a = row(slot);
    double inside = 0;
    for (std::int64_t c = 0; c < axes_; ++c)
      inside += static_cast<double>(a[c]) * static_cast<double>(a[c]);
    return std::max(0.0, norm(slot) * norm(slot) - p_.projection.shrunk2 * inside);
  }

  Member member(std::int64_t slot) const {
    const float* a = row(slot);
    Member out = {slot, beyond2(slot), {}};
    float sum = p_.projection.rest[at(slot)] * p_.projection.rest[at(slot)];
    std::int64_t c = axes_;
    for (std::size_t i = kNear.size(); i-- > 0;) {
      for (; c > kNear[i]; --c) sum += a[c - 1] * a[c - 1];
      out.tail[i] = std::sqrt(sum);
    }
    return out;
  }

  static float sum_of(const float* a, const float* b, std::int64_t from, std::int64_t to) {
    // Sixteen sums side by side: one would wait for itself.
    float sum[16] = {};
    std::int64_t c = from;
    for (; c + 16 <= to; c += 16)
      for (int s = 0; s < 16; ++s) sum[s] += (a[c + s] - b[c + s]) * (a[c + s] - b[c + s]);
    for (; c < to; ++c) sum[0] += (a[c] - b[c]) * (a[c] - b[c]);
    float total = 0;
    for (const float part : sum) total += part;
    return total;
  }

  // Lower bounds of a distance from the first axes and the tails, and the distance if what lies
  // beyond the axes points anywhere.
  void visit(const Member& x, const Member& y, std::size_t place) {
    const float* a = row(x.slot);
    const float* b = row(y.slot);
    std::array<float, kNear.size() + 1> bound = {};
    float near2 = 0;
    std::int64_t from = 0;
    for (std::size_t i = 0; i < kNear.size(); ++i) {
      const std::int64_t to = std::min(kNear[i], axes_);
      near2 += sum_of(a, b, from, to);
      from = to;
      const float gap = x.tail[i] - y.tail[i];
      bound[i] = std::sqrt(near2 + gap * gap);
    }
    near2 += sum_of(a, b, from, axes_);
    const float gap = p_.projection.rest[at(x.slot)] - p_.projection.rest[at(y.slot)];
    bound.back() = std::sqrt(near2 + gap * gap);
    bounds_[place] = bound;
    expected_[place] =
        static_cast<float>(std::sqrt(static_cast<double>(near2) + x.beyond2 + y.beyond2));
  }

  // About the distance of the k-th neighbour: rows near in order, of which those that the axes say
  // are nearest are measured.
  double reach(const Member& mine, int worker) const {
    const std::int64_t width = std::min(n_, std::max(kWindow, 4 * p_.k));
    const std::int64_t first = std::clamp<std::int64_t>(mine.slot - width / 2, 0, n_ - width);
    std::vector<std::pair<float, std::int64_t>> near;
    for (std::int64_t other = first; other < first + width; ++other)
      if (other != mine.slot)
        near.emplace_back(
            sum_of(row(mine.slot), row(other), 0, axes_) + static_cast<float>(beyond2(other)),
            other);
    const std::size_t tried =
        std::min(near.size(), static_cast<std::size_t>(std::max(kMeasured, 4 * p_.k)));
    if (tried < 1) return 0;
    std::nth_element(near.begin(), near.begin() + static_cast<std::ptrdiff_t>(tried - 1),
                     near.end());
    std::vector<double> distances;
    for (std::size_t i = 0; i < tried; ++i)
      distances.push_back(p_.distance(static_cast<std::int64_t>(at(mine.slot)),
                                      static_cast<std::int64_t>(at(near[i].second)), worker));
    const std::ptrdiff_t k =
        static_cast<std::ptrdiff_t>(std::min<std::int64_t>(p_.k, static_cast<std::int64_t>(tried)));
    std::nth_element(distances.begin(), distances.begin() + (k - 1), distances.end());
    return distances[static_cast<std::size_t>(k - 1)];
  }

  // The same from the rows that each is held against, of which as many are nearer as their share of
  // k: rows near in order are too few for a long list. Infinite for a short one, whose costs were
  // fitted without.
  double reach_of_others(std::size_t q) const {
    if (p_.k < kLongList) return std::numeric_limits<double>::infinity();
    std::vector<float> expected;
    for (std::size_t o = 0; o < others_.size(); ++o)
      if (others_[o].slot != queries_[q].slot)
        expected.push_back(expected_[q * others_.size() + o]);
    const std::int64_t share = tasks(p_.k * static_cast<std::int64_t>(others_.size()), n_);
    if (share > static_cast<std::int64_t>(expected.size()))
      return std::numeric_limits<double>::infinity();
    const auto at = expected.begin() + static_cast<std::ptrdiff_t>(share - 1);
    std::nth_element(expected.begin(), at, expected.end());
    return static_cast<double>(*at);
  }

  const ChoiceParams& p_;
  std::int64_t n_, axes_;
  std::vector<Member> queries_, others_;
  std::vector<double> reach_;                                // of each query
  std::vector<std::array<float, kNear.size() + 1>> bounds_;  // query by query; last: all axes
  std::vector<float> expected_;
};

}  // namespace

const char* name(Strategy strategy) {
  switch (strategy) {
    case Strategy::pruned:
      return "pruned";
    case Strategy::full:
      return "full";
    case Strategy::rows:
      return "rows";
    case Strategy::tiled:
      return "tiled";
    default:
      return "auto";
  }
}

Strategy parse_strategy(const std::string& text) {
  if (text.empty() || text == "auto") return Strategy::automatic;
  for (const Strategy strategy :
       {Strategy::pruned, Strategy::full, Strategy::rows, Strategy::tiled})
    if (text == name(strategy)) return strategy;
  throw std::invalid_argument("strategy '" + text + "' is not auto, pruned, full, rows or tiled");
}

const char* name(Precision precision) {
  switch (precision) {
    case Precision::bfloat16:
      return "bfloat16";
    case Precision::int8:
      return "int8";
    default:
      return "float32";
  }
}

Precision parse_precision(const std::string& text, Isa isa) {
  if (text.empty()) return Precision::any;
  for (const Precision precision : {Precision::float32, Precision::bfloat16, Precision::int8}) {
    if (text != name(precision)) continue;
    if (!has_precision(isa, precision))
      throw std::invalid_argument("arithmetic '" + text + "' needs a processor with " +
                                  (precision == Precision::int8 ? "AVX512-VNNI" : "AVX512-BF16") +
                                  " and the avx512 level: use 'float32'");
    return precision;
  }
  throw std::invalid_argument("arithmetic '" + text + "' is not float32, bfloat16 or int8");
}

Choice choose(const ChoiceParams& p) {
  const std::int64_t axes = p.projection.axes;
  const Sample sample(p);
  const double needed = sample.survivors_of_all(0),
               unknown = std::numeric_limits<double>::infinity();
  Choice best = {Strategy::full, Precision::float32, p.d, Precision::float32};
  double least = std::numeric_limits<double>::infinity();
  const auto consider = [&](double cost, Choice choice) {
    if (cost >= least) return;
    least = cost;
    best = choice;
  };
  const auto lists = [&](std::int64_t near_axes, double each, double listed) {
    const ListCosts costs = list_costs(p.k, sample.rows(), p.d, near_axes, each, listed);
    if (p.asked == Strategy::automatic) return std::min(costs.pairs, costs.rows);
    return p.asked == Strategy::rows && std::isfinite(costs.rows) ? costs.rows : costs.pairs;
  };
  for (const Precision precision : {Precision::float32, Precision::bfloat16, Precision::int8}) {
    if (!has_precision(p.level.isa, precision)) continue;
    if (p.precision != Precision::any && p.precision != precision) continue;
    if (!fits(precision, p.d)) continue;
    const Costs cost = costs_of(p.level, precision);
    const double error = error_of(precision);
    const double after_all = sample.survivors_of_all(error);
    if (p.strategy != Strategy::pruned) {
      consider(static_cast<double>(p.d) * cost.near_axis + after_all * cost.pair +
                   lists(p.d, cost.near_axis, Choice{}.listed),
               {Strategy::full, precision, p.d, Precision::float32});
    }
    if (p.strategy == Strategy::full) continue;
    for (std::size_t i = 0; i < kNear.size(); ++i) {
      const std::int64_t first = std::min(kNear[i], axes);
      const Survivors kept = sample.survivors(i, error);
      const bool between = cost.rough > 0 && first + 1 < axes;
      const double scans = static_cast<double>(first + 1) * cost.near_axis +
                           (between ? kept.first * cost.rough : 0.0);
      const double asked = between ? kept.rough : kept.first;
      const double listed = needed > 0 ? kept.first / needed : unknown;
      const auto with = [&](Precision second, double each, double left) {
        consider(scans + asked * each + left * cost.pair + lists(first, cost.near_axis, listed),
                 {Strategy::pruned, precision, first, second, listed});
      };
      if (precision == Precision::int8)
        with(Precision::int8, whole_cost(Precision::int8, p.d), after_all);
      if (precision != Precision::float32 && has_precision(p.level.isa, Precision::bfloat16))
        with(Precision::bfloat16, whole_cost(Precision::bfloat16, p.d),
             sample.survivors_of_all(error_of(Precision::bfloat16)));
      else
        with(Precision::float32, cost.second, kept.both);
      if (kNear[i] >= axes) break;
    }
  }
  return best;
}

bool known_axes_pay(Level level, std::int64_t d, std::int64_t axes, double share,
                    std::int64_t queries) {
  const Costs cost = costs_of(level, Precision::int8);
  const double columns = static_cast<double>(d), first = static_cast<double>(axes);
  // What a row takes to be projected, shared by the queries.
  const double row = (kProjected + kProjectedAxis * columns * first) / static_cast<double>(queries);
  return row + (first + 1) * cost.near_axis + share * whole_cost(Precision::int8, d) <
         columns * cost.near_axis;
}

double axis_cost(Level level, Precision precision) { return costs_of(level, precision).near_axis; }

double error_of(Precision precision) {
  if (precision == Precision::bfloat16) return 0x1p-9 * 0.6;
  return precision == Precision::int8 ? 0.0065 : 0.0;
}

Precision choose_direct(Level level, std::int64_t d,
                        const std::vector<std::vector<SampledPair>>& pairs) {
  Precision best = Precision::float32;
  double least = std::numeric_limits<double>::infinity();
  for (const Precision precision : {Precision::float32, Precision::bfloat16, Precision::int8}) {
    if (!has_precision(level.isa, precision) || !fits(precision, d)) continue;
    // Pairs that are measured because of rounding alone. The nearest of a thin sample lies farther
    // than the neighbours will, which makes them too many rather than too few. A quarter of the
    // queries has no say: one massive row among them would stand for many.
    std::vector<double> shares;
    for (const std::vector<SampledPair>& of_query : pairs) {
      double reach = std::numeric_limits<double>::infinity(), kept = 0;
      for (const SampledPair& pair : of_query) reach = std::min(reach, pair.distance);
      for (const SampledPair& pair : of_query) {
        const double error = precision == Precision::int8       ? pair.int8_error
                             : precision == Precision::bfloat16 ? pair.bfloat16_error
                                                                : 0.0;
        kept += pair.distance > reach && pair.distance <= reach + error;
      }
      shares.push_back(kept / std::max<double>(1.0, static_cast<double>(of_query.size())));
    }
    std::sort(shares.begin(), shares.end());
    const std::size_t heard = shares.size() - shares.size() / 4;
    const double share =
        std::accumulate(shares.begin(), shares.begin() + static_cast<std::ptrdiff_t>(heard), 0.0) /
        std::max<double>(1.0, static_cast<double>(heard));
    const Costs cost = costs_of(level, precision);
    const double columns = static_cast<double>(d);
    const double total = columns * cost.near_axis + share * (cost.pair + 0.06 * columns);
    if (total >= least) continue;
    least = total;
    best = precision;
  }
  return best;
}

}  // namespace fastdim
