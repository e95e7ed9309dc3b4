#include "unit.h"

#include <algorithm>
#include <stdexcept>
#include <vector>

#include "levels.h"
#include "threads.h"

namespace fastdim {
namespace {

constexpr std::int64_t kRowsPerTask = 64;

}  // namespace

void divide_rows(const Rows& rows, const std::int64_t* ids, std::int64_t count,
                 const double* divisors, int threads, Isa isa, const std::function<void()>& poll,
                 float* out) {
  if (threads < 1) throw std::invalid_argument("divide_rows: threads must be at least 1");
  for (std::int64_t i = 0; i < count; ++i)
    if (ids[i] < 0 || ids[i] >= rows.n)
      throw std::invalid_argument("divide_rows: a row number is outside the matrix");
  const std::size_t d = static_cast<std::size_t>(rows.d);
  const auto decode = kernels(isa).decode[static_cast<int>(rows.dtype)];
  std::vector<std::vector<double>> scratch(static_cast<std::size_t>(threads),
                                           std::vector<double>(d));
  parallel_for(tasks(count, kRowsPerTask), threads, poll, [&](std::int64_t task, int worker) {
    double* values = scratch[static_cast<std::size_t>(worker)].data();
    const std::int64_t stop = std::min(count, (task + 1) * kRowsPerTask);
    for (std::int64_t i = task * kRowsPerTask; i < stop; ++i) {
      decode(rows.row(ids[i]), d, values);
      const double divisor = divisors[ids[i]];
      float* to = out + static_cast<std::size_t>(i) * d;
      for (std::size_t c = 0; c < d; ++c) to[c] = static_cast<float>(values[c] / divisor);
    }
  });
}

}  // namespace fastdim
