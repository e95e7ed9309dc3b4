// The portable level: plain C++ for any architecture, also the plainest statement of each leaf.
#include <cmath>
#include <cstring>

#include "kernels.h"

namespace fastdim {
namespace {

constexpr int kRows = 4;
constexpr int kCols = 8;

float from_bits(std::uint32_t bits) {
  float value;
  std::memcpy(&value, &bits, sizeof value);
  return value;
}

struct F16 {
  using Element = std::uint16_t;
  static double value(Element half) {
    const std::uint32_t sign = static_cast<std::uint32_t>(half & 0x8000u) << 16;
    const std::uint32_t magnitude = half & 0x7fffu;
    // Subnormal halves are multiples of 2^-24; others move from exponent bias 15 to 127.
    if (magnitude < 0x400u) {
      const double tiny = static_cast<double>(magnitude) * 0x1p-24;
      return sign ? -tiny : tiny;
    }
    return static_cast<double>(from_bits(sign | ((magnitude << 13) + 0x38000000u)));
  }
};

struct BF16 {
  using Element = std::uint16_t;
  static double value(Element half) {
    return static_cast<double>(from_bits(static_cast<std::uint32_t>(half) << 16));
  }
};

struct F32 {
  using Element = float;
  static double value(Element x) { return static_cast<double>(x); }
};

struct F64 {
  using Element = double;
  static double value(Element x) { return x; }
};

void product_scalar(const float* a, const float* b, std::size_t d, float* tile) {
  for (std::size_t start = 0; start == 0 || start < d; start += kBlock) {
    const std::size_t stop = d - start < kBlock ? d : start + kBlock;
    float sum[kRows][kCols] = {};
    for (std::size_t i = start; i < stop; ++i)
      for (int r = 0; r < kRows; ++r)
        for (int c = 0; c < kCols; ++c) sum[r][c] += a[i * kRows + r] * b[i * kCols + c];
    for (int r = 0; r < kRows; ++r)
      for (int c = 0; c < kCols; ++c)
        tile[r * kCols + c] = (start == 0 ? 0.0f : tile[r * kCols + c]) + sum[r][c];
  }
}

bool filter_scalar(float* tile, const float* row_bound, const float* col_bound,
                   std::uint32_t* hits) {
  std::uint32_t any = 0;
  for (int r = 0; r < kRows; ++r) {
    std::uint32_t mask = 0;
    for (int c = 0; c < kCols; ++c) {
      float& value = tile[r * kCols + c];
      value -= col_bound[c];
      mask |= static_cast<std::uint32_t>(value >= row_bound[r]) << c;
    }
    hits[r] = mask;
    any |= mask;
  }
  return any != 0;
}

void bin_scalar(const float* tile, float half_bins, float margin, float low, float high,
                std::int32_t* bins, std::uint32_t* unsure) {
  const float last = 2.0f * half_bins - 1.0f;
  for (int r = 0; r < kRows; ++r) {
    std::uint32_t mask = 0;
    for (int c = 0; c < kCols; ++c) {
      const float cosine = tile[r * kCols + c];
      const float position = cosine * half_bins + half_bins;
      const float edge = std::floor(position + 0.5f);
      const bool near_edge =
          std::fabs(position - edge) <= margin && edge > 0.5f && edge < last + 0.5f;
      mask |= static_cast<std::uint32_t>(near_edge || cosine <= low || cosine >= high) << c;
      const float clipped = position < 0.0f ? 0.0f : (position > last ? last : position);
      bins[r * kCols + c] = static_cast<std::int32_t>(clipped);
    }
    unsure[r] = mask;
  }
}

void center_scalar(const double* x, double pre, const double* mean, double post, std::size_t d,
                   float* out, double* norm2, double* error2) {
  double norm = 0, error = 0;
  for (std::size_t i = 0; i < d; ++i) {
    const double exact = post * (pre * x[i] - mean[i]);
    out[i] = static_cast<float>(exact);
    const double rounded = static_cast<double>(out[i]);
    norm += rounded * rounded;
    error += (exact - rounded) * (exact - rounded);
  }
  *norm2 = norm;
  *error2 = error;
}

template <class Type>
void decode_scalar(const void* x, std::size_t d, double* out) {
  const auto* row = static_cast<const typename Type::Element*>(x);
  for (std::size_t i = 0; i < d; ++i) out[i] = Type::value(row[i]);
}

template <class Type>
double distance2_scalar(const void* x, const void* y, std::size_t d, double scale, double limit) {
  const auto* a = static_cast<const typename Type::Element*>(x);
  const auto* b = static_cast<const typename Type::Element*>(y);
  double sum[4] = {};
  std::size_t i = 0;
  while (d - i >= 64) {
    for (const std::size_t stop = i + 64; i < stop; i += 4)
      for (int lane = 0; lane < 4; ++lane) {
        const double difference =
            scale * Type::value(a[i + lane]) - scale * Type::value(b[i + lane]);
        sum[lane] += difference * difference;
      }
    const double partial = (sum[0] + sum[1]) + (sum[2] + sum[3]);
    if (partial > limit) return partial;
  }
  for (; i < d; ++i) {
    const double difference = scale * Type::value(a[i]) - scale * Type::value(b[i]);
    sum[i % 4] += difference * difference;
  }
  return (sum[0] + sum[1]) + (sum[2] + sum[3]);
}

template <class Type>
double dot_scalar(const void* x, const void* y, std::size_t d, double x_scale, double y_scale) {
  const auto* a = static_cast<const typename Type::Element*>(x);
  const auto* b = static_cast<const typename Type::Element*>(y);
  double sum[4] = {};
  for (std::size_t i = 0; i < d; ++i)
    sum[i % 4] += (x_scale * Type::value(a[i])) * (y_scale * Type::value(b[i]));
  return (sum[0] + sum[1]) + (sum[2] + sum[3]);
}

constexpr Kernels kKernels = {
    kRows,
    kCols,
    product_scalar,
    filter_scalar,
    bin_scalar,
    center_scalar,
    {decode_scalar<F16>, decode_scalar<BF16>, decode_scalar<F32>, decode_scalar<F64>},
    {distance2_scalar<F16>, distance2_scalar<BF16>, distance2_scalar<F32>, distance2_scalar<F64>},
    {dot_scalar<F16>, dot_scalar<BF16>, dot_scalar<F32>, dot_scalar<F64>},
};

}  // namespace

const Kernels* scalar_kernels() { return &kKernels; }

}  // namespace fastdim
