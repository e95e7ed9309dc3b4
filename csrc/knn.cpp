#include "knn.h"

#include <algorithm>
#include <numeric>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "distinct.h"
#include "search.h"
#include "threads.h"

namespace fastdim {
namespace {

using Indices = std::vector<std::int64_t>;

void check(const KnnParams& p) {
  if (p.rows.d < 1) throw std::invalid_argument("knn: rows have no columns");
  if (p.k < 1 || p.k >= p.rows.n)
    throw std::invalid_argument("knn: k = " + std::to_string(p.k) +
                                " needs 1 <= k < n = " + std::to_string(p.rows.n));
  if (p.threads < 1) throw std::invalid_argument("knn: threads must be at least 1");
  if (p.chunk_rows < 0) throw std::invalid_argument("knn: chunk_rows must not be negative");
  for (std::int64_t i = 0; p.queries && i < p.m; ++i)
    if (p.queries[i] < 0 || p.queries[i] >= p.rows.n)
      throw std::invalid_argument("knn: query " + std::to_string(p.queries[i]) +
                                  " is not a row number below " + std::to_string(p.rows.n));
}

// The rows of each group, ascending: members[start[g]] ... members[start[g + 1] - 1].
struct Groups {
  Indices first, start, members;
};

Groups make_groups(Indices first, const Indices& inverse) {
  Groups groups;
  groups.start.assign(first.size() + 1, 0);
  for (const std::int64_t g : inverse) ++groups.start[static_cast<std::size_t>(g) + 1];
  std::partial_sum(groups.start.begin(), groups.start.end(), groups.start.begin());
  groups.members.resize(inverse.size());
  Indices next(groups.start.begin(), groups.start.end() - 1);
  for (std::size_t i = 0; i < inverse.size(); ++i)
    groups.members[static_cast<std::size_t>(next[static_cast<std::size_t>(inverse[i])]++)] =
        static_cast<std::int64_t>(i);
  groups.first = std::move(first);
  return groups;
}

// Neighbours of one row: its equal rows at distance 0, then the rows of the nearest other groups.
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
  const auto own = members(group);
  for (auto it = own.first; it != own.second && filled < k; ++it) {
    if (*it == row) continue;
    out[filled] = 0.0;
    out_rows[filled++] = *it;
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

}  // namespace

KnnCounts knn(const KnnParams& p) {
  check(p);
  const std::int64_t n = p.rows.n;
  Indices queries;
  if (!p.queries) {
    queries.resize(static_cast<std::size_t>(p.m));
    std::iota(queries.begin(), queries.end(), 0);
  }
  const std::int64_t* query_rows = p.queries ? p.queries : queries.data();

  Indices first(static_cast<std::size_t>(n)), inverse(static_cast<std::size_t>(n));
  const std::int64_t groups_count =
      distinct(p.rows, p.threads, p.poll, first.data(), inverse.data());
  first.resize(static_cast<std::size_t>(groups_count));

  SearchParams search_params = {};
  search_params.rows = p.rows;
  search_params.n = groups_count;
  search_params.threads = p.threads;
  search_params.chunk_rows = p.chunk_rows;
  search_params.kernels = &kernels(p.isa);
  search_params.poll = &p.poll;

  KnnCounts counts = {groups_count, p.m, 0, 0};
  if (groups_count == n) {
    search_params.ids = first.data();
    search_params.queries = query_rows;
    search_params.m = p.m;
    search_params.k = p.k;
    search_params.distances = p.distances;
    search_params.indices = p.indices;
    counts.pairs_filtered = p.m * n;
    counts.pairs_refined = search(search_params);
    return counts;
  }

  // Search once for each group that some query belongs to, unless the group alone fills k.
  const Groups groups = make_groups(std::move(first), inverse);
  const std::int64_t found = std::min(p.k, groups_count - 1);
  constexpr std::int64_t unused = -1;
  Indices slot(static_cast<std::size_t>(groups_count), unused), searched;
  for (std::int64_t i = 0; i < p.m; ++i) {
    const std::size_t g =
        static_cast<std::size_t>(inverse[static_cast<std::size_t>(query_rows[i])]);
    const std::int64_t equal = groups.start[g + 1] - groups.start[g] - 1;
    if (equal >= p.k || slot[g] != unused) continue;
    slot[g] = static_cast<std::int64_t>(searched.size());
    searched.push_back(static_cast<std::int64_t>(g));
  }
  const std::size_t results = searched.size() * static_cast<std::size_t>(found);
  std::vector<double> distances(results);
  Indices nearest(results);
  if (results > 0) {
    search_params.ids = groups.first.data();
    search_params.queries = searched.data();
    search_params.m = static_cast<std::int64_t>(searched.size());
    search_params.k = found;
    search_params.distances = distances.data();
    search_params.indices = nearest.data();
    counts.pairs_refined = search(search_params);
  }
  counts.searched = static_cast<std::int64_t>(searched.size());
  counts.pairs_filtered = counts.searched * groups_count;

  for (std::int64_t i = 0; i < p.m; ++i) {
    const std::int64_t g = inverse[static_cast<std::size_t>(query_rows[i])];
    const std::int64_t at = slot[static_cast<std::size_t>(g)];
    const std::size_t offset = at == unused ? 0 : static_cast<std::size_t>(at * found);
    expand(groups, query_rows[i], g, p.k, distances.data() + offset, nearest.data() + offset,
           at == unused ? 0 : found, p.distances + i * p.k, p.indices + i * p.k);
  }
  return counts;
}

}  // namespace fastdim
