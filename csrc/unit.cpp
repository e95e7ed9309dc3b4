#include "unit.h"

#include <algorithm>
#include <cmath>
#include <stdexcept>
#include <vector>

#include "levels.h"
#include "threads.h"

namespace fastdim {
namespace {

constexpr std::int64_t kRowsPerTask = 64;

// A sum of squares above this has lost nothing to underflow.
constexpr double kSafeSum = 0x1p-900;

// Several sums side by side: one would wait for each addition.
double squared_length(const double* values, std::size_t d) {
  constexpr std::size_t kSums = 8;
  double sums[kSums] = {};
  std::size_t c = 0;
  for (; c + kSums <= d; c += kSums)
    for (std::size_t s = 0; s < kSums; ++s) sums[s] += values[c + s] * values[c + s];
  for (std::size_t s = 0; c < d; ++c, ++s) sums[s] += values[c] * values[c];
  double total = 0.0;
  for (const double sum : sums) total += sum;
  return total;
}

// |values|, also where the squares leave the range of float64; the values are changed then.
double length(double* values, std::size_t d) {
  const double sum = squared_length(values, d);
  if (sum >= kSafeSum && std::isfinite(sum)) return std::sqrt(sum);
  double largest = 0.0;
  for (std::size_t c = 0; c < d; ++c) largest = std::max(largest, std::fabs(values[c]));
  if (!(largest > 0.0) || std::isinf(largest)) return std::sqrt(sum);
  for (std::size_t c = 0; c < d; ++c) values[c] /= largest;
  return largest * std::sqrt(squared_length(values, d));
}

// Calls what(values, i) with each row in float64.
template <class Row, class What>
void each_row(const Rows& rows, std::int64_t count, int threads, Isa isa,
              const std::function<void()>& poll, const Row& row, const What& what) {
  const std::size_t d = static_cast<std::size_t>(rows.d);
  const auto decode = kernels(isa).decode[static_cast<int>(rows.dtype)];
  std::vector<std::vector<double>> scratch(static_cast<std::size_t>(threads),
                                           std::vector<double>(d));
  parallel_for(tasks(count, kRowsPerTask), threads, poll, [&](std::int64_t task, int worker) {
    double* values = scratch[static_cast<std::size_t>(worker)].data();
    const std::int64_t stop = std::min(count, (task + 1) * kRowsPerTask);
    for (std::int64_t i = task * kRowsPerTask; i < stop; ++i) {
      decode(rows.row(row(i)), d, values);
      what(values, i);
    }
  });
}

}  // namespace

void row_norms(const Rows& rows, int threads, Isa isa, const std::function<void()>& poll,
               double* out) {
  if (threads < 1) throw std::invalid_argument("row_norms: threads must be at least 1");
  const std::size_t d = static_cast<std::size_t>(rows.d);
  each_row(
      rows, rows.n, threads, isa, poll, [](std::int64_t i) { return i; },
      [&](const double* values, std::int64_t i) { out[i] = std::sqrt(squared_length(values, d)); });
}

void row_distances(const Rows& rows, const double* from, int threads, Isa isa,
                   const std::function<void()>& poll, double* out) {
  if (threads < 1) throw std::invalid_argument("row_distances: threads must be at least 1");
  const std::size_t d = static_cast<std::size_t>(rows.d);
  each_row(
      rows, rows.n, threads, isa, poll, [](std::int64_t i) { return i; },
      [&](double* values, std::int64_t i) {
        for (std::size_t c = 0; c < d; ++c) values[c] -= from[c];
        out[i] = length(values, d);
      });
}

void divide_rows(const Rows& rows, const std::int64_t* ids, std::int64_t count,
                 const double* divisors, int threads, Isa isa, const std::function<void()>& poll,
                 float* out) {
  if (threads < 1) throw std::invalid_argument("divide_rows: threads must be at least 1");
  for (std::int64_t i = 0; i < count; ++i)
    if (ids[i] < 0 || ids[i] >= rows.n)
      throw std::invalid_argument("divide_rows: a row number is outside the matrix");
  const std::size_t d = static_cast<std::size_t>(rows.d);
  each_row(
      rows, count, threads, isa, poll, [&](std::int64_t i) { return ids[i]; },
      [&](const double* values, std::int64_t i) {
        const double divisor = divisors[ids[i]];
        float* to = out + static_cast<std::size_t>(i) * d;
        for (std::size_t c = 0; c < d; ++c) to[c] = static_cast<float>(values[c] / divisor);
      });
}

}  // namespace fastdim
