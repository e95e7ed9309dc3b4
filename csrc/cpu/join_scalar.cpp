// The portable level: plain C++ for any architecture, also the plainest statement of each leaf.
#include <cmath>

#include "join_kernels.h"
#include "load_scalar.h"

namespace fastdim {
namespace {

bool scan_scalar(const Scan& s) {
  const float* x = static_cast<const float*>(s.x);
  const float* y = static_cast<const float*>(s.y);
  std::uint32_t any = 0;
  for (int r = 0; r < kScanRows; ++r) {
    std::uint32_t mask = 0;
    float* score = s.score + r * kScanCols;
    for (int c = 0; c < kScanCols; ++c) score[c] = -s.half_x[r] - s.half_y[c];
    for (int g = 0; g < kScanCols; g += kGroup) {
      const float* group = y + static_cast<std::size_t>(g) * s.units;
      for (std::size_t u = 0; u < s.units; ++u)
        for (int c = 0; c < kGroup; ++c) score[g + c] += x[u * kGroup + r] * group[u * kGroup + c];
    }
    for (int c = 0; c < kScanCols; ++c) {
      const float bound = s.bound_x[r] < s.bound_y[c] ? s.bound_x[r] : s.bound_y[c];
      mask |= static_cast<std::uint32_t>(score[c] >= bound) << c;
    }
    s.hits[r] = mask;
    any |= mask;
  }
  return any != 0;
}

float positive(float value) { return value > 0.0f ? value : 0.0f; }

std::uint32_t second_scalar(const Second& s) {
  std::uint32_t kept = 0;
  for (int c = 0; c < kGroup; ++c) {
    if (!(s.lanes >> c & 1u)) continue;
    const float limit = s.limit_x > s.limit_y[c] ? s.limit_x : s.limit_y[c];
    const float tail = s.tail_x - s.tail_y[c], rest = s.rest_x - s.rest_y[c];
    const float near2 = -2.0f * s.score[c] - (1.0f + 0x1p-20f) * (tail * tail);
    const float near = positive(std::sqrt(positive(near2)) - s.error);
    float sum = near * near + rest * rest;
    for (std::size_t k = 0; k < s.width && sum <= limit; ++k) {
      const float gap = s.x[k * kGroup] - s.y[k * kGroup + static_cast<std::size_t>(c)];
      sum += gap * gap;
    }
    kept |= static_cast<std::uint32_t>(sum <= limit) << c;
  }
  return kept;
}

// Sixteen sums side by side, so that rounding grows with d / 16.
template <class Type>
float screen_scalar(const void* x, const void* y, std::size_t d, float limit) {
  const auto* a = static_cast<const typename Type::Element*>(x);
  const auto* b = static_cast<const typename Type::Element*>(y);
  float sum[kGroup] = {};
  float total = 0.0f;
  for (std::size_t start = 0; start < d && total <= limit; start += 64) {
    const std::size_t stop = d - start < 64 ? d : start + 64;
    for (std::size_t i = start; i < stop; ++i) {
      const float gap = static_cast<float>(Type::value(a[i])) - static_cast<float>(Type::value(b[i]));
      sum[i % kGroup] += gap * gap;
    }
    total = 0.0f;
    for (const float part : sum) total += part;
  }
  return total;
}

constexpr JoinKernels kKernels = {
    scan_scalar,
    second_scalar,
    {screen_scalar<F16>, screen_scalar<BF16>, screen_scalar<F32>, nullptr},
};

}  // namespace

const JoinKernels* scalar_join_kernels() { return &kKernels; }

}  // namespace fastdim
