#include "pack.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "threads.h"

namespace fastdim {
namespace {

constexpr std::int64_t kRowsPerTask = 1024;

// Calls body(decoded row, worker) for every row of the set.
template <class Body>
void each_row(const RowSet& set, std::vector<RowScratch>& scratch, const Body& body) {
  const auto decode = set.kernels->decode[static_cast<int>(set.rows.dtype)];
  parallel_for(tasks(set.n, kRowsPerTask), set.threads, *set.poll,
               [&](std::int64_t task, int worker) {
                 const std::size_t w = static_cast<std::size_t>(worker);
                 std::vector<double>& row = scratch[w].decoded;
                 const std::int64_t stop = std::min(set.n, (task + 1) * kRowsPerTask);
                 for (std::int64_t i = task * kRowsPerTask; i < stop; ++i) {
                   decode(set.rows.row(set.ids[i]), row.size(), row.data());
                   body(row, w);
                 }
               });
}

// Magnitudes of IEEE numbers are ordered as their bits without the sign, read as whole numbers of
// the same size: no row has to be converted.
template <class Bits>
std::vector<double> magnitudes(const RowSet& set) {
  constexpr Bits magnitude = std::numeric_limits<Bits>::max();
  std::vector<double> out(static_cast<std::size_t>(set.n));
  const auto decode = set.kernels->decode[static_cast<int>(set.rows.dtype)];
  parallel_for(tasks(set.n, kRowsPerTask), set.threads, *set.poll, [&](std::int64_t task, int) {
    const std::int64_t d = set.rows.d;
    const std::int64_t stop = std::min(set.n, (task + 1) * kRowsPerTask);
    for (std::int64_t i = task * kRowsPerTask; i < stop; ++i) {
      const Bits* row = static_cast<const Bits*>(set.rows.row(set.ids[i]));
      // Sixteen maxima side by side: one would wait for itself.
      Bits most[16] = {};
      std::int64_t c = 0;
      for (; c + 16 <= d; c += 16)
        for (int s = 0; s < 16; ++s)
          most[s] = std::max(most[s], static_cast<Bits>(row[c + s] & magnitude));
      for (; c < d; ++c) most[0] = std::max(most[0], static_cast<Bits>(row[c] & magnitude));
      const Bits largest = *std::max_element(most, most + 16);
      decode(&largest, 1, &out[static_cast<std::size_t>(i)]);
    }
  });
  return out;
}

}  // namespace

std::vector<double> row_magnitudes(const RowSet& set) {
  switch (set.rows.dtype) {
    case Dtype::f64:
      return magnitudes<std::int64_t>(set);
    case Dtype::f32:
      return magnitudes<std::int32_t>(set);
    default:
      return magnitudes<std::int16_t>(set);
  }
}

double largest_magnitude(const RowSet& set) {
  const std::vector<double> each = row_magnitudes(set);
  return *std::max_element(each.begin(), each.end());
}

std::vector<double> scaled_mean(const RowSet& set, double scale, std::vector<RowScratch>& scratch) {
  const std::size_t d = static_cast<std::size_t>(set.rows.d);
  std::vector<std::vector<double>> sums(scratch.size(), std::vector<double>(d, 0.0));
  each_row(set, scratch, [&](const std::vector<double>& row, std::size_t worker) {
    for (std::size_t c = 0; c < d; ++c) sums[worker][c] += row[c] * scale;
  });
  std::vector<double> mean(d, 0.0);
  for (const std::vector<double>& sum : sums)
    for (std::size_t c = 0; c < d; ++c) mean[c] += sum[c] / static_cast<double>(set.n);
  return mean;
}

double difference_scale(Dtype dtype, double largest) {
  return dtype == Dtype::f64 ? std::ldexp(1.0, std::min(-std::ilogb(largest) - 1, 1000)) : 1.0;
}

double centered_scale(double largest, std::int64_t d) {
  return std::ldexp(1.0, 55 - std::ilogb(2.0 * largest * std::sqrt(static_cast<double>(d))));
}

double float64_error_of(std::int64_t d) { return static_cast<double>(d + 16) * 0x1p-51; }

double centering_error(double norm2, double error2, std::int64_t d) {
  return std::sqrt(error2) * (1.0 + float64_error_of(d)) + 0x1p-51 * std::sqrt(norm2) + 0x1p-500;
}

void transform_row(const Kernels& kernels, const Rows& rows, const Transform& transform,
                   std::int64_t row, RowScratch& scratch, double* norm2, double* error2) {
  const std::size_t d = static_cast<std::size_t>(rows.d);
  kernels.decode[static_cast<int>(rows.dtype)](rows.row(row), d, scratch.decoded.data());
  const double pre = transform.row_scale ? transform.row_scale[row] : transform.pre;
  kernels.center(scratch.decoded.data(), pre, transform.mean.data(), transform.post, d,
                 scratch.centered.data(), norm2, error2);
}

void pack_panel(const Kernels& kernels, const Rows& rows, const Transform& transform,
                const std::int64_t* ids, int count, int width, RowScratch& scratch, float* panel) {
  const std::size_t d = static_cast<std::size_t>(rows.d);
  const std::size_t step = static_cast<std::size_t>(width);
  for (int r = 0; r < width; ++r) {
    float* out = panel + r;
    if (r >= count) {
      for (std::size_t i = 0; i < d; ++i) out[i * step] = 0.0f;
      continue;
    }
    double norm2, error2;
    transform_row(kernels, rows, transform, ids[r], scratch, &norm2, &error2);
    const float* values = scratch.centered.data();
    for (std::size_t i = 0; i < d; ++i) out[i * step] = values[i];
  }
}

double product_error(std::int64_t d) {
  // A term passes through its own product (rounded apart where there is no fma), at most `block`
  // sums inside its block and at most `blocks` sums of blocks; each factor is 1 + delta with
  // |delta| <= u, hence n u / (1 - n u) (Higham, Accuracy and Stability, section 3.1).
  const double block = static_cast<double>(std::min<std::int64_t>(d, kBlock));
  const double blocks = std::ceil(static_cast<double>(d) / static_cast<double>(kBlock));
  const double rounding = (block + blocks + 2.0) * 0x1p-24;
  return rounding / (1.0 - rounding);
}

double underflow(std::int64_t d) { return static_cast<double>(d + 2) * 0x1p-148; }

}  // namespace fastdim
