// Sums over rows, the portable level.
#include "load_scalar.h"
#include "moments_kernels.h"

namespace fastdim {
namespace {

constexpr std::size_t kWidth = 8;
constexpr int kTileRows = 4;

template <class Type, class Value>
void pack_scalar(const void* x, std::size_t d, double scale, const double* shift, std::size_t panel,
                 Value* out) {
  const auto* row = static_cast<const typename Type::Element*>(x);
  for (std::size_t start = 0; start < d; start += kWidth, out += panel)
    for (std::size_t i = 0; i < kWidth; ++i)
      out[i] = static_cast<Value>(
          start + i < d ? scale * Type::value(row[start + i]) - shift[start + i] : 0.0);
}

// Sums of `Block` products in Value, added in float64.
template <class Value, std::size_t Block>
void gram_scalar(const Value* a, const Value* b, std::size_t count, double* tile) {
  for (std::size_t i = 0; i < kTileRows * kWidth; ++i) tile[i] = 0.0;
  for (std::size_t start = 0; start < count; start += Block) {
    const std::size_t stop = count - start < Block ? count : start + Block;
    Value sum[kTileRows][kWidth] = {};
    for (std::size_t k = start; k < stop; ++k)
      for (int r = 0; r < kTileRows; ++r)
        for (std::size_t c = 0; c < kWidth; ++c) sum[r][c] += a[k * kWidth + r] * b[k * kWidth + c];
    for (int r = 0; r < kTileRows; ++r)
      for (std::size_t c = 0; c < kWidth; ++c)
        tile[r * kWidth + c] += static_cast<double>(sum[r][c]);
  }
}

constexpr std::size_t kLanes = 8;  // partial sums, so that the compiler may use vectors

double sum_lanes(const double* sum) {
  return ((sum[0] + sum[1]) + (sum[2] + sum[3])) + ((sum[4] + sum[5]) + (sum[6] + sum[7]));
}

template <class Value>
double dot_scalar(const double* a, const Value* b, std::size_t d) {
  double sum[kLanes] = {};
  std::size_t c = 0;
  for (; c + kLanes <= d; c += kLanes)
    for (std::size_t lane = 0; lane < kLanes; ++lane)
      sum[lane] += a[c + lane] * static_cast<double>(b[c + lane]);
  for (; c < d; ++c) sum[c % kLanes] += a[c] * static_cast<double>(b[c]);
  return sum_lanes(sum);
}

double bilinear_scalar(const float* a, const float* b, const float* tile) {
  double total = 0.0;
  for (std::size_t r = 0; r < kWidth; ++r) {
    float sum = 0.0f;
    for (std::size_t c = 0; c < kWidth; ++c) sum += tile[r * kWidth + c] * b[c];
    total += static_cast<double>(sum * a[r]);
  }
  return total;
}

double remove_scalar(double* row, const double* axis, double z, std::size_t d) {
  for (std::size_t c = 0; c < d; ++c) row[c] -= z * axis[c];
  return dot_scalar(row, row, d);
}

template <class Element>
void forms_scalar(const Element* tile, const float* weights, float* out) {
  for (int r = 0; r < kRows; ++r)
    for (int s = 0; s < 2; ++s) {
      float sum = 0.0f;
      for (int c = 0; c < kCols; ++c) {
        const float value = static_cast<float>(tile[r * kCols + c]);
        sum += value * value * weights[s * kCols + c];
      }
      out[2 * r + s] = sum;
    }
}

constexpr MomentsKernels kKernels = {
    {kWidth,
     kTileRows,
     {pack_scalar<F16>, pack_scalar<BF16>, pack_scalar<F32>, pack_scalar<F64>},
     gram_scalar<double, kBlock>},
    {kWidth,
     kTileRows,
     {pack_scalar<F16>, pack_scalar<BF16>, pack_scalar<F32>, pack_scalar<F64>},
     gram_scalar<float, kShortBlock>},
    {kWidth,
     kTileRows,
     {pack_scalar<F16>, pack_scalar<BF16>, pack_scalar<F32>, pack_scalar<F64>},
     gram_scalar<float, kLongBlock>},
    dot_scalar<double>,
    dot_scalar<float>,
    bilinear_scalar,
    nullptr,
    nullptr,
    remove_scalar,
    forms_scalar<float>,
    forms_scalar<std::int32_t>,
};

}  // namespace

const MomentsKernels* scalar_moments_kernels() { return &kKernels; }

}  // namespace fastdim
