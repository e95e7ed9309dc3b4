#include "knn.h"

#include <algorithm>
#include <numeric>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "cosine_levels.h"
#include "distinct.h"
#include "join.h"
#include "search.h"
#include "threads.h"

namespace fastdim {
namespace {

using Indices = std::vector<std::int64_t>;

void check_sizes(const Rows& rows, int threads) {
  if (rows.d < 1) throw std::invalid_argument("knn: rows have no columns");
  if (threads < 1) throw std::invalid_argument("knn: threads must be at least 1");
}

void check(const KnnParams& p) {
  const std::int64_t n =
      p.by_group ? static_cast<std::int64_t>(p.index->first.size()) : p.index->rows.n;
  check_sizes(p.index->rows, p.threads);
  if (p.k < 1 || p.k > n || (p.k == n && !p.others))
    throw std::invalid_argument("knn: k = " + std::to_string(p.k) + " needs 1 <= k " +
                                (p.others ? "<= " : "< ") + "n = " + std::to_string(n));
  if (p.others && (p.queries || p.others->n != p.m || p.others->d != p.index->rows.d ||
                   p.others->dtype != p.index->rows.dtype))
    throw std::invalid_argument("knn: other rows need the same columns and type, and no queries");
  if (p.chunk_rows < 0) throw std::invalid_argument("knn: chunk_rows must not be negative");
  for (std::int64_t i = 0; p.queries && i < p.m; ++i)
    if (p.queries[i] < 0 || p.queries[i] >= n)
      throw std::invalid_argument("knn: query " + std::to_string(p.queries[i]) +
                                  " is not a row number below " + std::to_string(n));
}

void check(const Grouping& known, std::int64_t n) {
  const auto within = [](const std::int64_t* values, std::int64_t count, std::int64_t end) {
    return std::all_of(values, values + count,
                       [end](std::int64_t value) { return value >= 0 && value < end; });
  };
  if (known.count < 1 || known.count > n || !within(known.first, known.count, n) ||
      !within(known.inverse, n, known.count))
    throw std::invalid_argument("knn: these groups are not of " + std::to_string(n) + " rows");
}

// The rows of each group, ascending: members[start[g]] ... members[start[g + 1] - 1].
struct Groups {
  const Indices& first;
  Indices start, members;
};

Groups make_groups(const Indices& first, const Indices& inverse) {
  Groups groups = {first, {}, {}};
  groups.start.assign(first.size() + 1, 0);
  for (const std::int64_t g : inverse) ++groups.start[static_cast<std::size_t>(g) + 1];
  std::partial_sum(groups.start.begin(), groups.start.end(), groups.start.begin());
  groups.members.resize(inverse.size());
  Indices next(groups.start.begin(), groups.start.end() - 1);
  for (std::size_t i = 0; i < inverse.size(); ++i)
    groups.members[static_cast<std::size_t>(next[static_cast<std::size_t>(inverse[i])]++)] =
        static_cast<std::int64_t>(i);
  return groups;
}

// Neighbours of one row: its equal rows at distance 0, then the rows of the nearest other groups. A
// row of another matrix has no group (-1).
// The k nearest groups suffice: each holds at least the row that stood for it in the search, and a
// group beyond them comes after all of those, by distance or by its first row.
void expand(const Groups& groups, std::int64_t row, std::int64_t group, std::int64_t k,
            const double* distances, const std::int64_t* nearest, std::int64_t found, double* out,
            std::int64_t* out_rows) {
  std::int64_t filled = 0;
  const auto members = [&](std::int64_t g) {
    const auto begin = groups.members.begin();
    return std::make_pair(begin + groups.start[static_cast<std::size_t>(g)],
                          begin + groups.start[static_cast<std::size_t>(g) + 1]);
  };
  if (group >= 0) {
    const auto own = members(group);
    for (auto it = own.first; it != own.second && filled < k; ++it) {
      if (*it == row) continue;
      out[filled] = 0.0;
      out_rows[filled++] = *it;
    }
  }
  for (std::int64_t at = 0; at < found && filled < k;) {
    // Groups at the same distance are merged by row number.
    Indices tied;
    std::int64_t stop = at;
    for (; stop < found && distances[stop] == distances[at]; ++stop) {
      const auto range = members(nearest[stop]);
      const auto most = std::min<std::int64_t>(k - filled, range.second - range.first);
      tied.insert(tied.end(), range.first, range.first + most);
    }
    std::sort(tied.begin(), tied.end());
    for (std::size_t i = 0; i < tied.size() && filled < k; ++i) {
      out[filled] = distances[at];
      out_rows[filled++] = tied[i];
    }
    at = stop;
  }
}

// Queries and results by number of group.
struct GroupSearch {
  const KnnParams& knn;
  const std::int64_t* queries;  // m groups; null: all in order, or all other rows
  std::int64_t m;
  std::int64_t k;
  double* distances;      // m x k
  std::int64_t* indices;  // m x k
};

void tiled_search(const GroupSearch& p, KnnCounts& counts) {
  const Index& index = *p.knn.index;
  const std::int64_t n = static_cast<std::int64_t>(index.first.size());
  Indices every;
  if (!p.queries) {
    every.resize(static_cast<std::size_t>(p.m));
    std::iota(every.begin(), every.end(), 0);
  }
  counts.pairs_filtered += p.m * n;
  counts.pairs_refined +=
      search({index.rows, index.first.data(), n, p.knn.others, p.queries ? p.queries : every.data(),
              p.m, p.k, p.knn.threads, p.knn.chunk_rows, &kernels(index.isa), &p.knn.poll,
              p.distances, p.indices});
}

void joined_search(const GroupSearch& p, KnnCounts& counts) {
  const JoinCounts found = join({p.knn.index->prepared.get(), p.queries, p.m, p.k, p.knn.threads,
                                 &p.knn.poll, p.distances, p.indices});
  counts.pairs_filtered += found.filtered;
  counts.pairs_rough += found.rough;
  counts.pairs_second += found.second;
  counts.pairs_refined += found.refined;
  counts.strategy = found.by_row ? Strategy::rows : p.knn.index->prepared->strategy;
}

// Whether so many groups are more than half of all: searching all of them, each pair once, is less
// work.
bool pairs_once_pay(const Index& index, std::int64_t searched) {
  return index.prepared && index.prepared->asked != Strategy::rows &&
         2 * searched > static_cast<std::int64_t>(index.first.size());
}

// For chosen queries, which want their results in their own order.
void search_all_and_copy(const GroupSearch& p, KnnCounts& counts) {
  const std::int64_t n = static_cast<std::int64_t>(p.knn.index->first.size());
  const std::size_t results = static_cast<std::size_t>(n * p.k);
  std::vector<double> distances(results);
  Indices indices(results);
  joined_search({p.knn, nullptr, n, p.k, distances.data(), indices.data()}, counts);
  for (std::int64_t i = 0; i < p.m; ++i) {
    const std::int64_t from = p.queries[i] * p.k;
    std::copy_n(distances.begin() + from, p.k, p.distances + i * p.k);
    std::copy_n(indices.begin() + from, p.k, p.indices + i * p.k);
  }
}

void search_groups(const GroupSearch& p, KnnCounts& counts) {
  constexpr std::int64_t most_copied = 64;  // neighbours a row: beyond, the copy costs memory
  const std::int64_t n = static_cast<std::int64_t>(p.knn.index->first.size());
  if (p.m == 0) return;
  if (!p.knn.index->prepared || p.knn.others)
    tiled_search(p, counts);
  else if (p.queries && p.k <= most_copied && pairs_once_pay(*p.knn.index, p.m))
    search_all_and_copy(p, counts);
  else
    joined_search(p, counts);
  // Bounds are of the rows as they were prepared: where they changed, neighbours are passed over.
  if (std::any_of(p.indices, p.indices + p.m * p.k,
                  [n](std::int64_t found) { return found < 0 || found >= n; }))
    throw std::out_of_range("knn: rows have fewer neighbours than there are other rows");
}

}  // namespace

std::unique_ptr<Index> make_index(const Rows& rows, const Grouping* known, int threads, Isa isa,
                                  const std::function<void()>& poll) {
  check_sizes(rows, threads);
  auto index = std::make_unique<Index>();
  index->rows = rows;
  index->isa = isa;
  if (known) {
    check(*known, rows.n);
    index->first.assign(known->first, known->first + known->count);
    index->inverse.assign(known->inverse, known->inverse + rows.n);
    return index;
  }
  index->first.resize(static_cast<std::size_t>(rows.n));
  index->inverse.resize(static_cast<std::size_t>(rows.n));
  const std::int64_t groups =
      distinct(rows, threads, poll, index->first.data(), index->inverse.data());
  index->first.resize(static_cast<std::size_t>(groups));
  return index;
}

void prepare_index(Index& index, const IndexParams& p) {
  check_sizes(index.rows, p.threads);
  const std::int64_t groups = static_cast<std::int64_t>(index.first.size());
  if (groups < 2) throw std::invalid_argument("knn: one group of equal rows cannot be prepared");
  if (p.basis.count < 1 && p.strategy != Strategy::full)
    throw std::invalid_argument("knn: only a full search goes without axes");
  if (p.known_for > 0 &&
      (p.basis.count < 1 || !has_precision(index.isa, Precision::int8) || !has_int16(index.isa)))
    throw std::invalid_argument("knn: known axes need at least one, and AVX512-VNNI");
  if (p.strategy == Strategy::tiled)
    throw std::invalid_argument("knn: the tiled scan needs nothing prepared");
  if (p.strategy == Strategy::rows)
    throw std::invalid_argument("knn: a search by rows is prepared as a full or a pruned one");
  index.prepared = std::make_unique<Prepared>(prepare({index.rows,
                                                       index.first.data(),
                                                       groups,
                                                       p.basis,
                                                       p.strategy,
                                                       p.asked,
                                                       p.precision,
                                                       p.k,
                                                       p.first_axes,
                                                       p.second,
                                                       p.spare_bytes,
                                                       p.known_for,
                                                       p.threads,
                                                       {index.isa, p.amx},
                                                       &p.poll}));
}

KnnCounts knn(const KnnParams& p) {
  check(p);
  const Index& index = *p.index;
  const std::int64_t n = index.rows.n;
  const std::int64_t groups_count = static_cast<std::int64_t>(index.first.size());
  const bool tiled = !index.prepared || p.others;
  KnnCounts counts = {
      groups_count, p.m, 0, 0, 0, 0, tiled ? Strategy::tiled : index.prepared->strategy};
  if (p.by_group || groups_count == n) {
    search_groups({p, p.queries, p.m, p.k, p.distances, p.indices}, counts);
    return counts;
  }

  const Indices& inverse = index.inverse;
  const Groups groups = make_groups(index.first, inverse);
  if (p.others) {
    const std::int64_t found = std::min(p.k, groups_count);
    const std::size_t results = static_cast<std::size_t>(p.m * found);
    std::vector<double> distances(results);
    Indices nearest(results);
    search_groups({p, nullptr, p.m, found, distances.data(), nearest.data()}, counts);
    for (std::int64_t i = 0; i < p.m; ++i)
      expand(groups, i, -1, p.k, distances.data() + i * found, nearest.data() + i * found, found,
             p.distances + i * p.k, p.indices + i * p.k);
    return counts;
  }

  // Search once for each group that some query belongs to, unless the group alone fills k.
  const std::int64_t found = std::min(p.k, groups_count - 1);
  const auto query = [&](std::int64_t i) { return p.queries ? p.queries[i] : i; };
  constexpr std::int64_t unused = -1;
  Indices slot(static_cast<std::size_t>(groups_count), unused), searched;
  for (std::int64_t i = 0; i < p.m; ++i) {
    const std::size_t g = static_cast<std::size_t>(inverse[static_cast<std::size_t>(query(i))]);
    const std::int64_t equal = groups.start[g + 1] - groups.start[g] - 1;
    if (equal >= p.k || slot[g] != unused) continue;
    slot[g] = static_cast<std::int64_t>(searched.size());
    searched.push_back(static_cast<std::int64_t>(g));
  }
  counts.searched = static_cast<std::int64_t>(searched.size());
  // Of all rows, groups that fill k alone are searched with the others: there are fewer of them.
  const std::int64_t* chosen = searched.data();
  std::int64_t count = counts.searched;
  if (!p.queries && pairs_once_pay(index, count)) {
    for (const std::int64_t g : searched) slot[static_cast<std::size_t>(g)] = g;
    chosen = nullptr;
    count = groups_count;
  }
  const std::size_t results = static_cast<std::size_t>(count * found);
  std::vector<double> distances(results);
  Indices nearest(results);
  if (results > 0)
    search_groups({p, chosen, count, found, distances.data(), nearest.data()}, counts);

  for (std::int64_t i = 0; i < p.m; ++i) {
    const std::int64_t g = inverse[static_cast<std::size_t>(query(i))];
    const std::int64_t at = slot[static_cast<std::size_t>(g)];
    const std::size_t offset = at == unused ? 0 : static_cast<std::size_t>(at * found);
    expand(groups, query(i), g, p.k, distances.data() + offset, nearest.data() + offset,
           at == unused ? 0 : found, p.distances + i * p.k, p.indices + i * p.k);
  }
  return counts;
}

}  // namespace fastdim
