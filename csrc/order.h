// An order in which rows that lie near each other stand near each other.
#pragma once

#include <cstdint>
#include <functional>
#include <vector>

namespace fastdim {

// Splits points[order[...]] again and again in two halves along a direction of large variance, down
// to pieces of `leaf`. points: row-major, `stride` floats apart, the first `axes` are looked at.
// The same for any number of threads; any order is a valid one, a good one only saves time.
void bisect(const float* points, std::int64_t stride, std::int64_t axes, std::int64_t leaf,
            int threads, const std::function<void()>& poll, std::vector<std::int64_t>& order,
            std::int64_t count);

}  // namespace fastdim
