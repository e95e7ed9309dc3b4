#include "projection.h"

#include <algorithm>
#include <cmath>
#include <stdexcept>
#include <string>

#include "threads.h"

namespace fastdim {
namespace {

constexpr std::int64_t kPiece = 512;  // columns of all axes that stay in the cache
constexpr std::int64_t kMostPanels = 16;
constexpr std::int64_t kTaskBytes = std::int64_t{2} << 20;  // of the rows of a task
// Rests are left out where they are wrong by more than this share of a row's norm, in the median.
constexpr double kUsableRest = 0x1p-9;

// |a|^2 <= (1 + delta) |c32|^2, and |c32| <= 2^56 (pack.h).
constexpr double kLargestSkew = 0x1p12;

}  // namespace

Skew skew_of(const Basis& basis, std::int64_t d, int threads, const std::function<void()>& poll) {
  const std::int64_t p = basis.count;
  std::vector<double> squares(static_cast<std::size_t>(p)), lengths(static_cast<std::size_t>(p));
  parallel_for(p, threads, poll, [&](std::int64_t i, int) {
    const float* x = basis.axes + i * d;
    double sum = 0;
    for (std::int64_t j = 0; j <= i; ++j) {
      const float* y = basis.axes + j * d;
      double product[8] = {};  // side by side: one would wait for itself
      std::int64_t c = 0;
      for (; c + 8 <= d; c += 8)
        for (int lane = 0; lane < 8; ++lane)
          product[lane] += static_cast<double>(x[c + lane]) * static_cast<double>(y[c + lane]);
      for (; c < d; ++c) product[0] += static_cast<double>(x[c]) * static_cast<double>(y[c]);
      double total = 0;
      for (const double part : product) total += part;
      const double gap = total - (i == j ? 1.0 : 0.0);
      sum += (i == j ? 1.0 : 2.0) * gap * gap;
      if (i == j) lengths[static_cast<std::size_t>(i)] = std::sqrt(total);
    }
    squares[static_cast<std::size_t>(i)] = sum;
  });
  Skew skew;
  for (const double square : squares) skew.delta += square;
  // What float64 may have lost: each of the p^2 products to (d + 4) 2^-52 of lengths near 1.
  skew.delta = std::sqrt(skew.delta) * (1.0 + 0x1p-20) +
               static_cast<double>(p) * static_cast<double>(d + 4) * 0x1p-50;
  for (const double length : lengths) skew.longest = std::max(skew.longest, length);
  skew.longest *= 1.0 + 0x1p-30;
  return skew;
}

namespace {

// The axes as panels for Kernels::product; missing ones are zero.
Aligned<float> axis_panels(const Basis& basis, std::int64_t d, std::int64_t width) {
  const std::int64_t panels = tasks(basis.count, width);
  Aligned<float> out(static_cast<std::size_t>(panels * width * d));
  for (std::int64_t j = 0; j < panels * width; ++j)
    for (std::int64_t c = 0; c < d; ++c)
      out.data()[(j / width * d + c) * width + j % width] =
          j < basis.count ? basis.axes[j * d + c] : 0.0f;
  return out;
}

}  // namespace

Projection project(const RowSet& set, const Transform& transform, const Basis& basis,
                   std::vector<RowScratch>& scratch) {
  const std::int64_t n = set.n, d = set.rows.d, p = basis.count;
  const std::int64_t height = set.kernels->tile_rows, width = set.kernels->tile_cols;
  Projection out;
  out.axes = p;
  out.values = Aligned<float>(static_cast<std::size_t>(n * p));
  for (std::vector<float>* each : {&out.rest, &out.base, &out.norm})
    each->resize(static_cast<std::size_t>(n));
  const Skew skew = skew_of(basis, d, set.threads, *set.poll);
  if (!(skew.delta <= kLargestSkew))
    throw std::invalid_argument("knn: the axes are far from orthonormal: |Q^T Q - I| = " +
                                std::to_string(skew.delta) + " exceeds 4096");
  out.sigma = std::sqrt(1.0 + skew.delta * (1.0 + skew.delta)) * (1.0 + 0x1p-40);
  // A term passes through its product, the sums of its block and those of the blocks.
  constexpr std::int64_t block = static_cast<std::int64_t>(kShortBlock);
  const double roundings = static_cast<double>(std::min(d, block) + 3 + tasks(d, block) + 2);
  const double g = roundings * 0x1p-24 / (1.0 - roundings * 0x1p-24) *
                   std::sqrt(static_cast<double>(p)) * skew.longest;
  const Aligned<float> axes = axis_panels(basis, d, width);
  std::vector<float> rest_error(static_cast<std::size_t>(n)), center_error(rest_error);

  const std::int64_t panels = tasks(n, height), wide = tasks(p, width);
  const std::int64_t together =
      std::clamp<std::int64_t>(kTaskBytes / (4 * height * d), 1, kMostPanels);
  const std::int64_t tile = height * width;
  struct Work {  // of one thread: fresh pages for every task would have to be cleared
    Aligned<float> rows, tiles;
  };
  std::vector<Work> work;
  for (int worker = 0; worker < set.threads; ++worker)
    work.push_back({Aligned<float>(static_cast<std::size_t>(together * height * d)),
                    Aligned<float>(static_cast<std::size_t>(together * wide * tile))});
  parallel_for(tasks(panels, together), set.threads, *set.poll, [&](std::int64_t task, int worker) {
    RowScratch& mine = scratch[static_cast<std::size_t>(worker)];
    const std::int64_t begin = task * together, stop = std::min(panels, begin + together);
    const std::size_t slots = static_cast<std::size_t>((stop - begin) * height);
    Aligned<float>& rows = work[static_cast<std::size_t>(worker)].rows;
    Aligned<float>& tiles = work[static_cast<std::size_t>(worker)].tiles;
    std::fill_n(tiles.data(), (stop - begin) * wide * tile, 0.0f);
    std::vector<double> norm2(slots, 0.0), error2(norm2);
    for (std::int64_t slot = 0; slot < (stop - begin) * height; ++slot) {
      float* panel = rows.data() + slot / height * height * d + slot % height;
      const std::int64_t row = begin * height + slot;
      if (row < n)
        transform_row(*set.kernels, set.rows, transform, set.ids[row], mine,
                      &norm2[static_cast<std::size_t>(slot)],
                      &error2[static_cast<std::size_t>(slot)]);
      for (std::int64_t c = 0; c < d; ++c)
        panel[c * height] = row < n ? mine.centered.data()[c] : 0.0f;
    }
    for (std::int64_t c = 0; c < d; c += kPiece)
      for (std::int64_t j = 0; j < wide; ++j)
        for (std::int64_t at = 0; at < stop - begin; ++at)
          set.kernels->add_product(rows.data() + (at * d + c) * height,
                                   axes.data() + (j * d + c) * width,
                                   static_cast<std::size_t>(std::min(kPiece, d - c)),
                                   tiles.data() + (at * wide + j) * tile);
    for (std::int64_t at = begin; at < stop; ++at) {
      const std::int64_t first = at * height, count = std::min(height, n - first);
      for (std::int64_t j = 0; j < wide; ++j)
        for (std::int64_t r = 0; r < count; ++r)
          std::copy_n(tiles.data() + ((at - begin) * wide + j) * tile + r * width,
                      std::min(width, p - j * width),
                      out.values.data() + (first + r) * p + j * width);
      for (std::int64_t r = 0; r < count; ++r) {
        const std::size_t row = static_cast<std::size_t>(first + r);
        const std::size_t slot = static_cast<std::size_t>((at - begin) * height + r);
        const double whole = norm2[slot];
        double inside = 0;
        for (std::int64_t j = 0; j < p; ++j) {
          const double value = static_cast<double>(out.row(first + r)[j]);
          inside += value * value;
        }
        const double eta = g * std::sqrt(whole) * (1.0 + 0x1p-30) + underflow(d);
        const double length = std::sqrt(inside);
        const double wrong = 2.0 * length * eta + eta * eta +
                             skew.delta * (length + eta) * (length + eta) +
                             float64_error_of(d + p) * whole;
        const double rest = std::sqrt(std::max(0.0, whole - inside));
        // sqrt is the better bound near 0, the quotient elsewhere.
        const double rest_wrong =
            rest > 0 ? std::min(wrong / rest, std::sqrt(wrong)) : std::sqrt(wrong);
        out.norm[row] = static_cast<float>(std::sqrt(whole));
        out.rest[row] = static_cast<float>(rest);
        // Rounded to float32 here; base pays for it.
        rest_error[row] = round_up(rest_wrong * (1.0 + 0x1p-30) + 0x1p-24 * rest);
        center_error[row] = round_up(out.sigma * centering_error(whole, error2[slot], d));
      }
    }
  });

  std::vector<float> share(static_cast<std::size_t>(n));
  for (std::size_t i = 0; i < share.size(); ++i)
    share[i] = out.norm[i] > 0 ? rest_error[i] / out.norm[i] : 0.0f;
  std::nth_element(share.begin(), share.begin() + n / 2, share.end());
  const bool usable = static_cast<double>(share[static_cast<std::size_t>(n / 2)]) <= kUsableRest;
  for (std::size_t i = 0; i < static_cast<std::size_t>(n); ++i) {
    if (!usable) out.rest[i] = rest_error[i] = 0.0f;
    const double eta = g * static_cast<double>(out.norm[i]) * (1.0 + 0x1p-20) + underflow(d);
    const double rest = static_cast<double>(rest_error[i]);
    out.base[i] =
        round_up((std::sqrt(eta * eta + rest * rest) + static_cast<double>(center_error[i])) *
                 (1.0 + 0x1p-30));
  }
  return out;
}

}  // namespace fastdim
