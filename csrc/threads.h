#pragma once

#include <cstdint>
#include <functional>

namespace fastdim {

// Pieces of at most `size` that `count` things make.
inline std::int64_t tasks(std::int64_t count, std::int64_t size) {
  return (count + size - 1) / size;
}

// Calls body(index, worker) once for each index in [0, count), on at most `threads` threads, worker
// numbers in [0, threads). Indices are handed out one at a time, in order. `poll` (may be empty) is
// called between two indices by the calling thread alone; what it or body throws stops the others
// and is thrown again here.
void parallel_for(std::int64_t count, int threads, const std::function<void()>& poll,
                  const std::function<void(std::int64_t index, int worker)>& body);

}  // namespace fastdim
