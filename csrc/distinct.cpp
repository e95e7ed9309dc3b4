#include "distinct.h"

#include <algorithm>
#include <cstring>
#include <vector>

#include "threads.h"

namespace fastdim {
namespace {

constexpr std::int64_t kRowsPerTask = 256;

// Unsigned integers of the element's size: equal values have equal bits once -0 became +0.
template <class Bits>
Bits canonical(Bits bits) {
  constexpr Bits minus_zero = static_cast<Bits>(Bits{1} << (8 * sizeof(Bits) - 1));
  return bits == minus_zero ? Bits{0} : bits;
}

std::uint64_t mix(std::uint64_t hash, std::uint64_t word) {
  hash = (hash ^ word) * 0x9e3779b97f4a7c15u;
  return hash ^ hash >> 29;
}

template <class Bits>
std::uint64_t hash_row(const void* data, std::int64_t d) {
  constexpr std::int64_t lanes = 8 / static_cast<std::int64_t>(sizeof(Bits));
  const Bits* row = static_cast<const Bits*>(data);
  std::uint64_t hash[2] = {0x243f6a8885a308d3u, 0x13198a2e03707344u};
  std::int64_t i = 0;
  for (int part = 0; i + lanes <= d; i += lanes, part ^= 1) {
    std::uint64_t word = 0;
    for (std::int64_t lane = 0; lane < lanes; ++lane)
      word |= static_cast<std::uint64_t>(canonical(row[i + lane]))
              << (8 * sizeof(Bits) * lane % 64);
    hash[part] = mix(hash[part], word);
  }
  for (; i < d; ++i) hash[0] = mix(hash[0], canonical(row[i]));
  return mix(hash[0], hash[1]);
}

template <class Bits>
bool equal_rows(const void* x, const void* y, std::int64_t d) {
  if (std::memcmp(x, y, static_cast<std::size_t>(d) * sizeof(Bits)) == 0) return true;
  const Bits* a = static_cast<const Bits*>(x);
  const Bits* b = static_cast<const Bits*>(y);
  for (std::int64_t i = 0; i < d; ++i)
    if (canonical(a[i]) != canonical(b[i])) return false;
  return true;
}

template <class Bits>
std::int64_t group(const Rows& rows, int threads, const std::function<void()>& poll,
                   std::int64_t* first, std::int64_t* inverse) {
  std::vector<std::uint64_t> hashes(static_cast<std::size_t>(rows.n));
  parallel_for((rows.n + kRowsPerTask - 1) / kRowsPerTask, threads, poll,
               [&](std::int64_t task, int) {
                 const std::int64_t stop = std::min(rows.n, (task + 1) * kRowsPerTask);
                 for (std::int64_t i = task * kRowsPerTask; i < stop; ++i)
                   hashes[static_cast<std::size_t>(i)] = hash_row<Bits>(rows.row(i), rows.d);
               });

  // Open addressing, at most half full, in row order: the first of a group is its smallest row.
  std::size_t slots = 16;
  while (slots < 2 * static_cast<std::size_t>(rows.n)) slots *= 2;
  std::vector<std::int64_t> table(slots, -1);
  std::int64_t groups = 0;
  for (std::int64_t i = 0; i < rows.n; ++i) {
    const std::uint64_t hash = hashes[static_cast<std::size_t>(i)];
    for (std::size_t slot = hash & (slots - 1);; slot = (slot + 1) & (slots - 1)) {
      const std::int64_t seen = table[slot];
      if (seen < 0) {
        table[slot] = groups;
        first[groups] = i;
        inverse[i] = groups++;
        break;
      }
      if (hashes[static_cast<std::size_t>(first[seen])] == hash &&
          equal_rows<Bits>(rows.row(first[seen]), rows.row(i), rows.d)) {
        inverse[i] = seen;
        break;
      }
    }
  }
  return groups;
}

}  // namespace

std::int64_t distinct(const Rows& rows, int threads, const std::function<void()>& poll,
                      std::int64_t* first, std::int64_t* inverse) {
  switch (rows.dtype) {
    case Dtype::f64:
      return group<std::uint64_t>(rows, threads, poll, first, inverse);
    case Dtype::f32:
      return group<std::uint32_t>(rows, threads, poll, first, inverse);
    default:
      return group<std::uint16_t>(rows, threads, poll, first, inverse);
  }
}

}  // namespace fastdim
