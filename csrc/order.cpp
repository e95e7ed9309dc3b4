#include "order.h"

#include <algorithm>
#include <cmath>
#include <utility>

#include "threads.h"

namespace fastdim {
namespace {

constexpr std::int64_t kSample = 256;  // points that a direction is taken from
constexpr int kPowerSteps = 3;

struct Piece {
  std::int64_t begin, end;
};

// Sixteen sums side by side: one would wait for itself.
float dot(const float* x, const float* y, std::int64_t axes) {
  float sum[16] = {};
  std::int64_t c = 0;
  for (; c + 16 <= axes; c += 16)
    for (int s = 0; s < 16; ++s) sum[s] += x[c + s] * y[c + s];
  for (; c < axes; ++c) sum[0] += x[c] * y[c];
  float total = 0;
  for (const float part : sum) total += part;
  return total;
}

// A direction near the first principal one of a sample of the piece.
std::vector<float> direction(const float* points, std::int64_t stride, std::int64_t axes,
                             const std::int64_t* order, std::int64_t count) {
  const std::int64_t sample = std::min(count, kSample), step = count / sample;
  const std::size_t width = static_cast<std::size_t>(axes);
  std::vector<float> mean(width, 0.0f), along(width), next(width);
  const auto point = [&](std::int64_t i) { return points + order[i * step] * stride; };
  for (std::int64_t i = 0; i < sample; ++i)
    for (std::size_t c = 0; c < width; ++c) mean[c] += point(i)[c];
  for (float& value : mean) value /= static_cast<float>(sample);
  double farthest = -1;
  for (std::int64_t i = 0; i < sample; ++i) {
    double norm2 = 0;
    for (std::size_t c = 0; c < width; ++c) {
      const double gap = static_cast<double>(point(i)[c]) - static_cast<double>(mean[c]);
      norm2 += gap * gap;
    }
    if (norm2 > farthest) {
      farthest = norm2;
      for (std::size_t c = 0; c < width; ++c) along[c] = point(i)[c] - mean[c];
    }
  }
  // Gaps are divided by the largest of them, so that no square leaves the range of float32.
  float largest = 0;
  for (const float value : along) largest = std::max(largest, std::fabs(value));
  if (!(largest > 0x1p-100f)) return along;
  for (float& value : along) value /= largest;
  for (int power = 0; power < kPowerSteps; ++power) {
    std::fill(next.begin(), next.end(), 0.0f);
    for (std::int64_t i = 0; i < sample; ++i) {
      float place = 0;
      for (std::size_t c = 0; c < width; ++c) place += (point(i)[c] - mean[c]) / largest * along[c];
      for (std::size_t c = 0; c < width; ++c)
        next[c] += place * ((point(i)[c] - mean[c]) / largest);
    }
    float most = 0;
    for (const float value : next) most = std::max(most, std::fabs(value));
    if (!(most > 0)) break;
    for (std::size_t c = 0; c < width; ++c) along[c] = next[c] / most;
  }
  return along;
}

}  // namespace

void bisect(const float* points, std::int64_t stride, std::int64_t axes, std::int64_t leaf,
            int threads, const std::function<void()>& poll, std::vector<std::int64_t>& order,
            std::int64_t count) {
  std::vector<Piece> pieces;
  if (count > leaf) pieces.push_back({0, count});
  while (!pieces.empty()) {
    std::vector<Piece> halves(2 * pieces.size());
    parallel_for(static_cast<std::int64_t>(pieces.size()), threads, poll,
                 [&](std::int64_t at, int) {
                   const Piece piece = pieces[static_cast<std::size_t>(at)];
                   const std::int64_t size = piece.end - piece.begin;
                   std::int64_t* mine = order.data() + piece.begin;
                   const std::vector<float> along = direction(points, stride, axes, mine, size);
                   std::vector<std::pair<float, std::int64_t>> keys(static_cast<std::size_t>(size));
                   for (std::int64_t i = 0; i < size; ++i) {
                     const float* point = points + mine[i] * stride;
                     keys[static_cast<std::size_t>(i)] = {dot(point, along.data(), axes), mine[i]};
                   }
                   // Whole leaves on the left.
                   const std::int64_t half = tasks(size / 2, leaf) * leaf;
                   std::nth_element(keys.begin(), keys.begin() + half, keys.end());
                   for (std::int64_t i = 0; i < size; ++i)
                     mine[i] = keys[static_cast<std::size_t>(i)].second;
                   halves[static_cast<std::size_t>(2 * at)] = {piece.begin, piece.begin + half};
                   halves[static_cast<std::size_t>(2 * at + 1)] = {piece.begin + half, piece.end};
                 });
    pieces.clear();
    for (const Piece& half : halves)
      if (half.end - half.begin > leaf) pieces.push_back(half);
  }
}

}  // namespace fastdim
