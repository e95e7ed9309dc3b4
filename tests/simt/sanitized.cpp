// The kernels on the emulated GPU in a program of its own, for AddressSanitizer and UBSan: small
// sizes that leave tails everywhere. Exits 1 where a distance or a count is wrong.
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <numeric>
#include <random>
#include <vector>

extern "C" {
const char* simt_error();
int simt_knn(const void* data, long long n, long long d, long long row_stride, int dtype,
             const long long* queries, long long m, long long k, long long keep, int tile,
             int blocks, const long long* order, const double* axes, long long axes_count,
             int symmetric, double* distances, long long* indices, long long* counts);
int simt_row_norms(const void* data, long long n, long long d, long long row_stride, int dtype,
                   double* norms);
int simt_unit_rows(const void* data, long long n, long long d, long long row_stride, int dtype,
                   const std::int64_t* chosen, long long m, const double* inverse, long long padded,
                   long long width, double* parts, double* mean, double* w, double* slopes,
                   double* center);
int simt_cosine_pairs(const double* w, long long m, long long width, long long w_stride,
                      const double* slopes, const double* center, const double* edges,
                      long long bins, long long runs, double* moments,
                      unsigned long long* histogram);
int simt_pair_cosines(const void* data, long long n, long long d, long long row_stride, int dtype,
                      const std::int64_t* left, const std::int64_t* right, const double* inverse,
                      long long count, double* out);
}

namespace {

constexpr long long kRows = 150, kColumns = 37;
constexpr int kFloat = 2;

bool ok(int failed, const char* what) {
  if (failed != 0) std::printf("%s: %s\n", what, simt_error());
  return failed == 0;
}

double nearest(const std::vector<float>& x, long long query) {
  double best = HUGE_VAL;
  for (long long j = 0; j < kRows; ++j) {
    double sum = 0;
    for (long long c = 0; c < kColumns; ++c) {
      const double difference = double(x[query * kColumns + c]) - x[j * kColumns + c];
      sum += difference * difference;
    }
    if (j != query) best = std::fmin(best, std::sqrt(sum));
  }
  return best;
}

bool search(const std::vector<float>& x, std::vector<long long> queries, int tile, bool pruned,
            bool symmetric = false) {
  const long long m = queries.empty() ? kRows : static_cast<long long>(queries.size());
  std::vector<double> distances(m, NAN);
  std::vector<long long> indices(m, -1), counts(3), order(kRows);
  std::iota(order.rbegin(), order.rend(), 0);
  std::vector<double> axes(5 * kColumns, 0.0);
  for (int a = 0; a < 5; ++a) axes[a * kColumns + a] = 1;
  const int failed = simt_knn(x.data(), kRows, kColumns, kColumns, kFloat,
                              queries.empty() ? nullptr : queries.data(), m, 1, 7, tile, 3,
                              pruned ? order.data() : nullptr, axes.data(), 5, symmetric,
                              distances.data(), indices.data(), counts.data());
  if (!ok(failed, "knn")) return false;
  for (long long i = 0; i < m; ++i) {
    const double want = nearest(x, queries.empty() ? i : queries[i]);
    if (!(std::fabs(distances[i] - want) <= 1e-12 * want)) {
      std::printf("row %lld: %g, not %g\n", i, distances[i], want);
      return false;
    }
  }
  return true;
}

bool cosines(const std::vector<float>& x, long long bins, long long runs) {
  const long long padded = 192, width = 48;
  std::vector<double> norms(kRows), inverse(kRows), parts(128 * kColumns), mean(kColumns);
  std::vector<double> w(padded * width), slopes(padded), center(1), edges(bins + 1);
  std::vector<double> moments(4 * runs), some(1);
  std::vector<unsigned long long> histogram(bins);
  std::vector<std::int64_t> chosen(kRows), left = {kRows - 1}, right = {0};
  std::iota(chosen.begin(), chosen.end(), 0);
  if (!ok(simt_row_norms(x.data(), kRows, kColumns, kColumns, kFloat, norms.data()), "row_norms"))
    return false;
  for (long long i = 0; i < kRows; ++i) inverse[i] = 1 / norms[i];
  for (long long b = 0; b <= bins; ++b) edges[b] = -1 + 2.0 * b / bins;
  if (!ok(simt_unit_rows(x.data(), kRows, kColumns, kColumns, kFloat, chosen.data(), kRows,
                         inverse.data(), padded, width, parts.data(), mean.data(), w.data(),
                         slopes.data(), center.data()),
          "unit_rows") ||
      !ok(simt_cosine_pairs(w.data(), kRows, width, width, slopes.data(), center.data(),
                            edges.data(), bins, runs, moments.data(), histogram.data()),
          "cosine_pairs") ||
      !ok(simt_pair_cosines(x.data(), kRows, kColumns, kColumns, kFloat, left.data(), right.data(),
                            inverse.data(), 1, some.data()),
          "pair_cosines"))
    return false;
  unsigned long long pairs = 0;
  for (const auto count : histogram) pairs += count;
  double low = HUGE_VAL, high = -HUGE_VAL;
  for (long long run = 0; run < runs; ++run) {
    low = std::fmin(low, moments[4 * run + 2]);
    high = std::fmax(high, moments[4 * run + 3]);
  }
  const bool inside = low <= some[0] && some[0] <= high && low >= -1 && high <= 1;
  if (pairs != kRows * (kRows - 1) / 2 || !inside) std::printf("cosines: %llu pairs\n", pairs);
  return pairs == kRows * (kRows - 1) / 2 && inside;
}

}  // namespace

int main() {
  std::mt19937_64 random(1);
  std::normal_distribution<float> normal;
  std::vector<float> x(kRows * kColumns);
  for (float& value : x) value = normal(random);
  const bool right = search(x, {}, 0, false) && search(x, {149, 3, 3}, 2, false) &&
                     search(x, {}, 0, true) && search(x, {}, 0, false, true) && cosines(x, 7, 6) &&
                     cosines(x, 8192, 1);
  return right ? 0 : 1;
}
