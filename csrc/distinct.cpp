#include "distinct.h"

#include <algorithm>
#include <array>
#include <atomic>
#include <cstring>
#include <vector>

#include "threads.h"

namespace fastdim {
namespace {

constexpr std::int64_t kRowsPerTask = 256;

// Rows are told apart by so many pieces of themselves first, each a cache line, spread evenly: rows
// that differ nearly always differ there, and equal ones are compared whole anyway.
constexpr std::int64_t kPieces = 4;
constexpr std::int64_t kPieceBytes = 64;
constexpr std::int64_t kAhead = 16;  // rows from one that is hashed to one whose pieces are fetched
constexpr std::int64_t kSlotsAhead = 8;  // likewise, of the table

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

// Four hashes side by side: one would wait for its own multiplication.
template <class Bits>
std::uint64_t hash_row(const void* data, std::int64_t d) {
  constexpr std::int64_t lanes = 8 / static_cast<std::int64_t>(sizeof(Bits));
  constexpr std::int64_t parts = 4;
  const Bits* row = static_cast<const Bits*>(data);
  const auto word = [&](std::int64_t start) {
    std::uint64_t bits = 0;
    for (std::int64_t lane = 0; lane < lanes; ++lane)
      bits |= static_cast<std::uint64_t>(canonical(row[start + lane]))
              << (8 * sizeof(Bits) * lane % 64);
    return bits;
  };
  std::uint64_t hash[parts] = {0x243f6a8885a308d3u, 0x13198a2e03707344u, 0xa4093822299f31d0u,
                               0x082efa98ec4e6c89u};
  std::int64_t i = 0;
  for (; i + parts * lanes <= d; i += parts * lanes)
    for (std::int64_t part = 0; part < parts; ++part)
      hash[part] = mix(hash[part], word(i + part * lanes));
  for (; i < d; ++i) hash[0] = mix(hash[0], canonical(row[i]));
  for (std::int64_t part = 1; part < parts; ++part) hash[0] = mix(hash[0], hash[part]);
  return hash[0];
}

// The processor does not foresee where pieces and slots lie: it would wait for each of them.
void ask_for(const void* place) {
#if defined(__GNUC__)
  __builtin_prefetch(place);
#else
  (void)place;
#endif
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
std::vector<std::uint64_t> hash_rows(const Rows& rows, int threads,
                                     const std::function<void()>& poll) {
  std::vector<std::uint64_t> hashes(static_cast<std::size_t>(rows.n));
  parallel_for(tasks(rows.n, kRowsPerTask), threads, poll, [&](std::int64_t task, int) {
    const std::int64_t stop = std::min(rows.n, (task + 1) * kRowsPerTask);
    for (std::int64_t i = task * kRowsPerTask; i < stop; ++i)
      hashes[static_cast<std::size_t>(i)] = hash_row<Bits>(rows.row(i), rows.d);
  });
  return hashes;
}

// Where in a row, in elements, the pieces begin: on cache lines where those of all rows lie alike.
template <class Bits>
std::array<std::int64_t, kPieces> piece_starts(const Rows& rows) {
  constexpr std::int64_t width = kPieceBytes / static_cast<std::int64_t>(sizeof(Bits));
  std::int64_t lead = 0, step = 1;
  if (rows.stride % width == 0) {
    const std::int64_t beyond = static_cast<std::int64_t>(
        reinterpret_cast<std::uintptr_t>(rows.data) % static_cast<std::uintptr_t>(kPieceBytes));
    lead = (kPieceBytes - beyond) % kPieceBytes / static_cast<std::int64_t>(sizeof(Bits));
    step = width;
  }
  const std::int64_t last = (rows.d - width - lead) / step;
  std::array<std::int64_t, kPieces> starts;
  for (std::int64_t number = 0; number < kPieces; ++number)
    starts[static_cast<std::size_t>(number)] = lead + number * last / (kPieces - 1) * step;
  return starts;
}

// The same of a few pieces of every row; of all of it where they would be half of it or more.
template <class Bits>
std::vector<std::uint64_t> hash_pieces(const Rows& rows, int threads,
                                       const std::function<void()>& poll) {
  constexpr std::int64_t width = kPieceBytes / static_cast<std::int64_t>(sizeof(Bits));
  if (rows.d < 2 * kPieces * width) return hash_rows<Bits>(rows, threads, poll);
  const auto starts = piece_starts<Bits>(rows);
  const auto piece = [&](std::int64_t i, std::int64_t start) {
    return static_cast<const Bits*>(rows.row(i)) + start;
  };
  std::vector<std::uint64_t> hashes(static_cast<std::size_t>(rows.n));
  parallel_for(tasks(rows.n, kRowsPerTask), threads, poll, [&](std::int64_t task, int) {
    const std::int64_t stop = std::min(rows.n, (task + 1) * kRowsPerTask);
    for (std::int64_t i = task * kRowsPerTask; i < stop; ++i) {
      std::uint64_t hash = 0;
      for (const std::int64_t start : starts) {
        if (i + kAhead < stop) {
          ask_for(piece(i + kAhead, start));
          ask_for(piece(i + kAhead, start + width - 1));
        }
        hash = mix(hash, hash_row<Bits>(piece(i, start), width));
      }
      hashes[static_cast<std::size_t>(i)] = hash;
    }
  });
  return hashes;
}

// Numbers groups in the order of their first rows. `same(i, j)`: whether rows of one hash are
// equal.
template <class Same>
std::int64_t number(const std::vector<std::uint64_t>& hashes, const Same& same, std::int64_t* first,
                    std::int64_t* inverse) {
  // Open addressing, at most half full, in row order: the first of a group is its smallest row.
  const std::int64_t n = static_cast<std::int64_t>(hashes.size());
  std::size_t slots = 16;
  while (slots < 2 * hashes.size()) slots *= 2;
  std::vector<std::int64_t> table(slots, -1);
  std::vector<std::uint64_t> of_group;
  std::int64_t groups = 0;
  for (std::int64_t i = 0; i < n; ++i) {
    const std::uint64_t hash = hashes[static_cast<std::size_t>(i)];
    if (i + kSlotsAhead < n)
      ask_for(&table[hashes[static_cast<std::size_t>(i + kSlotsAhead)] & (slots - 1)]);
    for (std::size_t slot = hash & (slots - 1);; slot = (slot + 1) & (slots - 1)) {
      const std::int64_t seen = table[slot];
      if (seen < 0) {
        table[slot] = groups;
        of_group.push_back(hash);
        first[groups] = i;
        inverse[i] = groups++;
        break;
      }
      if (of_group[static_cast<std::size_t>(seen)] == hash && same(first[seen], i)) {
        inverse[i] = seen;
        break;
      }
    }
  }
  return groups;
}

template <class Bits>
std::int64_t group(const Rows& rows, int threads, const std::function<void()>& poll,
                   std::int64_t* first, std::int64_t* inverse) {
  const auto same = [&](std::int64_t i, std::int64_t j) {
    return equal_rows<Bits>(rows.row(i), rows.row(j), rows.d);
  };
  // By hash alone first, so that the values can be compared by all threads; where rows of one hash
  // turn out to differ, again with all of their elements hashed; where they still do, with the
  // values.
  std::vector<std::uint64_t> hashes;
  for (const auto hash : {hash_pieces<Bits>, hash_rows<Bits>}) {
    hashes = hash(rows, threads, poll);
    const std::int64_t groups =
        number(hashes, [](std::int64_t, std::int64_t) { return true; }, first, inverse);
    std::atomic<bool> differ{false};
    parallel_for(tasks(rows.n, kRowsPerTask), threads, poll, [&](std::int64_t task, int) {
      const std::int64_t stop = std::min(rows.n, (task + 1) * kRowsPerTask);
      for (std::int64_t i = task * kRowsPerTask; i < stop && !differ; ++i)
        if (first[inverse[i]] != i && !same(first[inverse[i]], i)) differ = true;
    });
    if (!differ) return groups;
  }
  return number(hashes, same, first, inverse);
}

// Calls what(Bits{}) with the unsigned integer of the size of an element.
template <class What>
auto by_size(Dtype dtype, const What& what) {
  switch (dtype) {
    case Dtype::f64:
      return what(std::uint64_t{});
    case Dtype::f32:
      return what(std::uint32_t{});
    default:
      return what(std::uint16_t{});
  }
}

}  // namespace

std::int64_t distinct(const Rows& rows, int threads, const std::function<void()>& poll,
                      std::int64_t* first, std::int64_t* inverse) {
  return by_size(rows.dtype, [&](auto bits) {
    return group<decltype(bits)>(rows, threads, poll, first, inverse);
  });
}

std::vector<std::uint64_t> row_hashes(const Rows& rows) {
  return by_size(rows.dtype, [&](auto bits) { return hash_rows<decltype(bits)>(rows, 1, {}); });
}

}  // namespace fastdim
