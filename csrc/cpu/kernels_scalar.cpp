// The portable level: plain C++ for any architecture, also the plainest statement of each leaf.
#include "kernels.h"
#include "load_scalar.h"

namespace fastdim {
namespace {

template <std::size_t Block, bool Add>
void product_scalar(const float* a, const float* b, std::size_t d, float* tile) {
  for (std::size_t start = 0; start == 0 || start < d; start += Block) {
    const std::size_t stop = d - start < Block ? d : start + Block;
    float sum[kRows][kCols] = {};
    for (std::size_t i = start; i < stop; ++i)
      for (int r = 0; r < kRows; ++r)
        for (int c = 0; c < kCols; ++c) sum[r][c] += a[i * kRows + r] * b[i * kCols + c];
    for (int r = 0; r < kRows; ++r)
      for (int c = 0; c < kCols; ++c)
        tile[r * kCols + c] = (Add || start > 0 ? tile[r * kCols + c] : 0.0f) + sum[r][c];
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
void distances2_scalar(const void* x, const void* const* rows, std::size_t count, std::size_t d,
                       double scale, double* out) {
  for (std::size_t c = 0; c < count; ++c) {
    out[c] = distance2_scalar<Type>(x, rows[c], d, scale, __builtin_inf());
  }
}

constexpr Kernels kKernels = {
    kRows,
    kCols,
    product_scalar<kBlock, false>,
    product_scalar<kShortBlock, true>,
    filter_scalar,
    center_scalar,
    {decode_scalar<F16>, decode_scalar<BF16>, decode_scalar<F32>, decode_scalar<F64>},
    {distance2_scalar<F16>, distance2_scalar<BF16>, distance2_scalar<F32>, distance2_scalar<F64>},
    {distances2_scalar<F16>, distances2_scalar<BF16>, distances2_scalar<F32>,
     distances2_scalar<F64>},
};

}  // namespace

const Kernels* scalar_kernels() { return &kKernels; }

}  // namespace fastdim
