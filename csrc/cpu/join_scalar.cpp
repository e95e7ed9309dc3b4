// The portable level: plain C++ for any architecture, also the plainest statement of each leaf.
#include <cmath>

#include "join_kernels.h"
#include "load_scalar.h"

namespace fastdim {
namespace {

void scan_scalar(const Scan& s) {
  const float* x = static_cast<const float*>(s.x);
  const float* y = static_cast<const float*>(s.y);
  for (int r = 0; r < kScanRows; ++r) {
    s.count[r] = 0;
    for (int g = 0; g < s.columns; g += kGroup) {
      const float* group = y + static_cast<std::size_t>(g) * s.units;
      float score[kGroup];
      for (int c = 0; c < kGroup; ++c) score[c] = -s.half_x[r] - s.half_y[g + c];
      for (std::size_t u = 0; u < s.units; ++u)
        for (int c = 0; c < kGroup; ++c) score[c] += x[u * kGroup + r] * group[u * kGroup + c];
      for (int c = 0; c < kGroup; ++c) {
        const float bound = s.bound_x[r] < s.bound_y[g + c] ? s.bound_x[r] : s.bound_y[g + c];
        if (!(score[c] >= bound)) continue;
        const int at = r * kListStride + s.count[r]++;
        s.score[at] = score[c];
        s.column[at] = g + c;
      }
    }
  }
}

float positive(float value) { return value > 0.0f ? value : 0.0f; }

int second_scalar(const Second& s) {
  int kept = 0;
  for (int i = 0; i < s.count; ++i) {
    const std::int32_t c = s.column[i];
    const float limit = s.limit_x > s.limit_y[c] ? s.limit_x : s.limit_y[c];
    const float tail = s.tail_x - s.tail_y[c], rest = s.rest_x - s.rest_y[c];
    const float near2 = -2.0f * s.score[i] - (1.0f + 0x1p-20f) * (tail * tail);
    const float near = positive(std::sqrt(positive(near2)) - (s.error_x + s.error_y[c]));
    const float* y = s.y + static_cast<std::size_t>(c) * s.width;
    float sum = near * near + rest * rest;
    for (std::size_t k = 0; k < s.width && sum <= limit; ++k)
      sum += (s.x[k] - y[k]) * (s.x[k] - y[k]);
    s.column[kept] = c;
    kept += sum <= limit;
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
      const float gap =
          static_cast<float>(Type::value(a[i])) - static_cast<float>(Type::value(b[i]));
      sum[i % kGroup] += gap * gap;
    }
    total = 0.0f;
    for (const float part : sum) total += part;
  }
  return total;
}

constexpr JoinKernels kKernels = {
    scan_scalar, nullptr, nullptr,
    nullptr,     nullptr, second_scalar,
    nullptr,     nullptr, {screen_scalar<F16>, screen_scalar<BF16>, screen_scalar<F32>, nullptr},
};

}  // namespace

const JoinKernels* scalar_join_kernels() { return &kKernels; }

}  // namespace fastdim
