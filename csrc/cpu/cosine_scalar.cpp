// Cosines, the portable level.
#include <cmath>

#include "cosine_kernels.h"
#include "load_scalar.h"

namespace fastdim {
namespace {

void bin_scalar(const float* tile, float half_bins, const float* margin, const float* low,
                const float* high, std::int32_t* bins, std::uint32_t* unsure) {
  const float last = 2.0f * half_bins - 1.0f;
  for (int r = 0; r < kRows; ++r) {
    std::uint32_t mask = 0;
    for (int c = 0; c < kCols; ++c) {
      const float cosine = tile[r * kCols + c];
      const float position = cosine * half_bins + half_bins;
      const float edge = std::floor(position + 0.5f);
      const bool near_edge =
          std::fabs(position - edge) <= margin[r] && edge > 0.5f && edge < last + 0.5f;
      mask |= static_cast<std::uint32_t>(near_edge || cosine <= low[r] || cosine >= high[r]) << c;
      const float clipped = position < 0.0f ? 0.0f : (position > last ? last : position);
      bins[r * kCols + c] = static_cast<std::int32_t>(clipped);
    }
    unsure[r] = mask;
  }
}

template <class Type>
double dot_scalar(const void* x, const void* y, std::size_t d, double x_scale, double y_scale) {
  // Only products of float64 elements can leave the range of float64.
  constexpr bool kScaleFirst = sizeof(typename Type::Element) == 8;
  const auto* a = static_cast<const typename Type::Element*>(x);
  const auto* b = static_cast<const typename Type::Element*>(y);
  double sum[4] = {};
  for (std::size_t i = 0; i < d; ++i)
    sum[i % 4] += kScaleFirst ? (x_scale * Type::value(a[i])) * (y_scale * Type::value(b[i]))
                              : Type::value(a[i]) * Type::value(b[i]);
  const double all = (sum[0] + sum[1]) + (sum[2] + sum[3]);
  return kScaleFirst ? all : all * (x_scale * y_scale);
}

constexpr CosineKernels kKernels = {
    nullptr,
    nullptr,
    nullptr,
    nullptr,
    nullptr,
    bin_scalar,
    {dot_scalar<F16>, dot_scalar<BF16>, dot_scalar<F32>, dot_scalar<F64>},
};

}  // namespace

const CosineKernels* scalar_cosine_kernels() { return &kKernels; }

}  // namespace fastdim
