#include "within.h"

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <cstring>
#include <stdexcept>

#include "threads.h"

namespace fastdim {
namespace {

constexpr std::int64_t kTaskBytes = std::int64_t{1} << 20;

// Bits of sizes order as the sizes do, and those of infinity and NaN come last.
template <class Bits>
bool within(const Rows& rows, const std::int64_t* ids, std::int64_t count, Bits most, int threads,
            const std::function<void()>& poll) {
  constexpr Bits size = static_cast<Bits>(~Bits{0}) >> 1;
  const std::int64_t row_bytes = rows.d * static_cast<std::int64_t>(sizeof(Bits));
  const std::int64_t step =
      std::max<std::int64_t>(1, kTaskBytes / std::max<std::int64_t>(1, row_bytes));
  const std::int64_t n = ids ? count : rows.n;
  std::atomic<bool> all{true};
  parallel_for(tasks(n, step), threads, poll, [&](std::int64_t task, int) {
    const std::int64_t stop = std::min(n, (task + 1) * step);
    const bool one_run = !ids && rows.stride == rows.d;
    const std::int64_t length = one_run ? (stop - task * step) * rows.d : rows.d;
    for (std::int64_t i = task * step; i < stop && all; i += one_run ? stop - i : 1) {
      const Bits* values = static_cast<const Bits*>(rows.row(ids ? ids[i] : i));
      Bits beyond = 0;
      for (std::int64_t c = 0; c < length; ++c)
        beyond |= static_cast<Bits>((values[c] & size) > most);
      if (beyond) all = false;
    }
  });
  return all;
}

}  // namespace

bool all_within(const Rows& rows, const std::int64_t* ids, std::int64_t count, double largest,
                int threads, const std::function<void()>& poll) {
  if (threads < 1) throw std::invalid_argument("all_within: threads must be at least 1");
  for (std::int64_t i = 0; ids && i < count; ++i)
    if (ids[i] < 0 || ids[i] >= rows.n)
      throw std::invalid_argument("all_within: a row number is out of range");
  switch (rows.dtype) {
    case Dtype::f64: {
      std::uint64_t most;
      std::memcpy(&most, &largest, sizeof(most));
      return within<std::uint64_t>(rows, ids, count, most, threads, poll);
    }
    case Dtype::f32:
      return within<std::uint32_t>(rows, ids, count, 0x7f7fffffu, threads, poll);
    case Dtype::bf16:
      return within<std::uint16_t>(rows, ids, count, 0x7f7f, threads, poll);
    default:
      return within<std::uint16_t>(rows, ids, count, 0x7bff, threads, poll);
  }
}

}  // namespace fastdim
