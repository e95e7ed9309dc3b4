#include "int_axes.h"

#include <algorithm>
#include <cmath>
#include <stdexcept>
#include <string>

#include "int16.h"
#include "pack.h"
#include "threads.h"

namespace fastdim {
namespace {

constexpr double kUnit = 0x1p15;         // of an axis in int16
constexpr double kLongest2 = 1.9;        // 2^15 sqrt(1.9) = 45168, and rounding adds sqrt(d) / 2
constexpr std::int64_t kMostPanels = 8;  // of rows of a task
constexpr std::int64_t kTaskBytes = std::int64_t{2} << 20;  // of them in int16
constexpr double kUpward = 1.0 + 0x1p-30;                   // pays for float64 roundings of a bound

// The sum is at most 46340^2 < 2^31, and so is every partial sum.
std::int32_t square(const std::int16_t* q, std::int64_t d) {
  std::int32_t sum = 0;
  for (std::int64_t c = 0; c < d; ++c)
    sum += static_cast<std::int32_t>(q[c]) * static_cast<std::int32_t>(q[c]);
  return sum;
}

double length2_of(const float* axis, std::int64_t d) {
  double length2 = 0;
  for (std::int64_t c = 0; c < d; ++c)
    length2 += static_cast<double>(axis[c]) * static_cast<double>(axis[c]);
  return length2;
}

}  // namespace

bool IntAxes::short_enough(const Basis& basis, std::int64_t d) {
  for (std::int64_t k = 0; k < basis.count; ++k)
    if (!(length2_of(basis.axes + k * d, d) <= kLongest2)) return false;
  return true;
}

IntAxes::IntAxes(const Basis& basis, std::int64_t d, Isa isa, int threads,
                 const std::function<void()>& poll)
    : d_(d),
      count_(basis.count),
      panels_(tasks(basis.count, kernels(isa).tile_cols)),
      kernels_(cosine_kernels(isa)),
      height_(kernels(isa).tile_rows),
      width_(kernels(isa).tile_cols),
      axes_(static_cast<std::size_t>(panels_ * width_ * int16_columns(d))) {
  std::vector<float> rounded(static_cast<std::size_t>(count_ * d));
  std::vector<std::int16_t> ints(static_cast<std::size_t>(int16_columns(d)), 0);
  for (std::int64_t k = 0; k < panels_ * width_; ++k) {
    std::int16_t* panel = axes_.data() + k / width_ * width_ * int16_columns(d);
    const int place = static_cast<int>(k % width_);
    if (k >= count_) {
      interleave(nullptr, d, static_cast<int>(width_), place, panel);
      continue;
    }
    const float* axis = basis.axes + k * d;
    const double length2 = length2_of(axis, d);
    if (!(length2 <= kLongest2))
      throw std::invalid_argument("knn: an axis has the squared length " + std::to_string(length2) +
                                  ", which exceeds 1.9");
    for (std::int64_t c = 0; c < d; ++c) {
      const double whole = std::nearbyint(kUnit * static_cast<double>(axis[c]));
      ints[static_cast<std::size_t>(c)] =
          static_cast<std::int16_t>(std::clamp(whole, -32767.0, 32767.0));
      rounded[static_cast<std::size_t>(k * d + c)] =
          static_cast<float>(ints[static_cast<std::size_t>(c)] / kUnit);
    }
    interleave(ints.data(), d, static_cast<int>(width_), place, panel);
  }
  const double delta = skew_of({basis.center, rounded.data(), count_}, d, threads, poll).delta;
  shrunk2_ = 1.0 + delta;
  unit_ = 1.0 / kUnit / (std::sqrt(shrunk2_) * kUpward);
}

AlongAxes::AlongAxes(const IntAxes& axes, std::int64_t most)
    : axes_(axes),
      row_(static_cast<std::size_t>(axes.d_)),
      ints_(static_cast<std::size_t>(int16_columns(axes.d_))),
      panels_(static_cast<std::size_t>(tasks(most, axes.height_) * axes.height_ *
                                       int16_columns(axes.d_))),
      tile_(static_cast<std::size_t>(axes.height_ * axes.width_)),
      values_(static_cast<std::size_t>(most * axes.count_)) {
  for (std::vector<double>* each : {&step_, &inside2_, &rest_, &base_, &length_})
    each->resize(static_cast<std::size_t>(most));
}

void AlongAxes::put(std::int64_t r, const float* centered, double error) {
  const std::int64_t d = axes_.d_;
  const std::size_t at = static_cast<std::size_t>(r);
  std::copy(centered, centered + d, row_.begin());
  const Quantized found = quantize(axes_.kernels_, row_.data(), d, ints_.data());
  interleave(ints_.data(), d, static_cast<int>(axes_.height_), static_cast<int>(r % axes_.height_),
             panels_.data() + r / axes_.height_ * axes_.height_ * int16_columns(d));
  step_[at] = 1.0 / found.scale;
  length_[at] = step_[at] * std::sqrt(static_cast<double>(square(ints_.data(), d)));
  // Of whole numbers up to 2^15, in float64; and the step is not the quotient.
  const double unseen = 0x1p-37 * std::sqrt(static_cast<double>(d)) * step_[at];
  base_[at] = (error + found.error * kUpward + unseen + 0x1p-50 * found.length) * kUpward;
}

void AlongAxes::project(std::int64_t rows) {
  const std::int64_t d = axes_.d_, height = axes_.height_, width = axes_.width_;
  const std::int64_t columns = int16_columns(d);
  const std::int32_t none[kMaxTileRows] = {};
  // Places that no row was put into.
  for (std::int64_t r = rows; r < tasks(rows, height) * height; ++r)
    interleave(nullptr, d, static_cast<int>(height), static_cast<int>(r % height),
               panels_.data() + r / height * height * columns);
  std::fill_n(inside2_.begin(), rows, 0.0);
  for (std::int64_t panel = 0; panel < axes_.panels_; ++panel)
    for (std::int64_t first = 0; first < rows; first += height) {
      axes_.kernels_.product_ints(
          {panels_.data() + first * columns, axes_.axes_.data() + panel * width * columns,
           static_cast<std::size_t>(columns / 2), 0, nullptr, nullptr, 0, none},
          tile_.data());
      const std::int64_t from = panel * width, many = std::min(width, axes_.count_ - from);
      for (std::int64_t r = first; r < std::min(rows, first + height); ++r) {
        const std::size_t at = static_cast<std::size_t>(r);
        const double factor = step_[at] * axes_.unit_;
        const std::int32_t* sums = tile_.data() + (r - first) * width;
        float* out = values_.data() + r * axes_.count_ + from;
        double squares[8] = {};  // side by side: one would wait for itself
        for (std::int64_t k = 0; k < many; ++k) {
          const double value = static_cast<double>(sums[k]) * factor;
          out[k] = static_cast<float>(value);
          squares[k % 8] += value * value;
        }
        for (const double part : squares) inside2_[at] += part;
      }
    }
  for (std::int64_t r = 0; r < rows; ++r) {
    const std::size_t at = static_cast<std::size_t>(r);
    const double whole = length_[at] * length_[at];
    const double wrong = float64_error_of(d + axes_.count_) * whole;
    const double rest = std::sqrt(std::max(0.0, whole - inside2_[at]));
    // sqrt is the better bound near 0, the quotient elsewhere.
    const double of_rest = rest > 0 ? std::min(wrong / rest, std::sqrt(wrong)) : std::sqrt(wrong);
    const double eta = 0x1p-23 * length_[at] + underflow(axes_.count_);
    rest_[at] = rest;
    base_[at] = (base_[at] + std::sqrt(eta * eta + of_rest * of_rest)) * kUpward;
  }
}

Projection project_ints(const RowSet& set, const Transform& transform, const IntAxes& axes,
                        std::vector<RowScratch>& scratch) {
  const std::int64_t n = set.n, p = axes.count();
  Projection out;
  out.axes = p;
  out.shrunk2 = axes.shrunk2();
  out.values = Aligned<float>(static_cast<std::size_t>(n * p));
  for (std::vector<float>* each : {&out.rest, &out.base, &out.norm})
    each->resize(static_cast<std::size_t>(n));
  const std::int64_t height = set.kernels->tile_rows;
  const std::int64_t together =
      height * std::clamp<std::int64_t>(kTaskBytes / (2 * height * set.rows.d), 1, kMostPanels);
  std::vector<AlongAxes> along;  // of one thread each
  for (int worker = 0; worker < set.threads; ++worker) along.emplace_back(axes, together);
  parallel_for(tasks(n, together), set.threads, *set.poll, [&](std::int64_t task, int worker) {
    RowScratch& mine = scratch[static_cast<std::size_t>(worker)];
    AlongAxes& rows = along[static_cast<std::size_t>(worker)];
    const std::int64_t begin = task * together, count = std::min(together, n - begin);
    for (std::int64_t r = 0; r < count; ++r) {
      double norm2, error2;
      transform_row(*set.kernels, set.rows, transform, set.ids[begin + r], mine, &norm2, &error2);
      rows.put(r, mine.centered.data(), centering_error(norm2, error2, set.rows.d));
      out.norm[static_cast<std::size_t>(begin + r)] = static_cast<float>(std::sqrt(norm2));
    }
    rows.project(count);
    std::copy_n(rows.values(0), count * p, out.values.data() + begin * p);
    for (std::int64_t r = 0; r < count; ++r) {
      const std::size_t row = static_cast<std::size_t>(begin + r);
      out.rest[row] = static_cast<float>(rows.rest(r));
      // Rounded to float32 above; base pays for it.
      out.base[row] = round_up((rows.base(r) + 0x1p-24 * rows.rest(r)) * kUpward);
    }
  });
  return out;
}

}  // namespace fastdim
