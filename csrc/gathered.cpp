#include "gathered.h"

#include <algorithm>
#include <limits>

#include "select.h"

namespace fastdim {
namespace {

constexpr std::int64_t kLeast = 12;                           // k of gathered lists
constexpr std::int64_t kLeastSpare = 8;                       // gathered beyond k
constexpr std::int64_t kSpareBytes = std::int64_t{64} << 20;  // of all lists

// More would be thinned out less often, but thresholds would fall later.
std::int64_t spare_of(std::int64_t k, std::int64_t lists) {
  constexpr std::int64_t most = std::numeric_limits<std::uint16_t>::max();
  const std::int64_t spare = std::max(kLeastSpare, k / 4);
  const std::int64_t bytes = lists * spare * static_cast<std::int64_t>(sizeof(Neighbor));
  return k < kLeast || k + spare > most || bytes > kSpareBytes ? 0 : spare;
}

}  // namespace

Gathered::Gathered(double* distances, std::int64_t* indices, std::int64_t k, std::int64_t lists)
    : distances_(distances),
      indices_(indices),
      k_(k),
      spare_(spare_of(k, lists)),
      more_(static_cast<std::size_t>(lists * spare_)) {}

double Gathered::shorten(std::int64_t list, std::uint16_t& count, Scratch& scratch) {
  thin_out(list, count, scratch);
  count = static_cast<std::uint16_t>(k_);
  put(list, scratch);
  double farthest = 0;
  for (std::int64_t i = 0; i < k_; ++i)
    farthest = std::max(farthest, scratch[static_cast<std::size_t>(i)].distance);
  return farthest;
}

void Gathered::finish(std::int64_t list, std::uint16_t count, Scratch& scratch) const {
  thin_out(list, count, scratch);
  if (count < k_)
    scratch.resize(static_cast<std::size_t>(k_), {std::numeric_limits<double>::infinity(),
                                                  std::numeric_limits<std::int64_t>::max()});
  std::sort(scratch.begin(), scratch.begin() + k_, Nearer{});
  put(list, scratch);
}

// All of a list, the k best first.
void Gathered::thin_out(std::int64_t list, std::int64_t count, Scratch& scratch) const {
  scratch.clear();
  for (std::int64_t i = list * k_; i < list * k_ + std::min(k_, count); ++i)
    scratch.push_back({distances_[i], indices_[i]});
  const Neighbor* more = more_.data() + list * spare_;
  scratch.insert(scratch.end(), more, more + std::max<std::int64_t>(0, count - k_));
  select_first(scratch.data(), scratch.size(), static_cast<std::size_t>(k_), Nearer{});
}

void Gathered::put(std::int64_t list, const Scratch& scratch) const {
  for (std::int64_t i = 0; i < k_; ++i) {
    distances_[list * k_ + i] = scratch[static_cast<std::size_t>(i)].distance;
    indices_[list * k_ + i] = scratch[static_cast<std::size_t>(i)].position;
  }
}

}  // namespace fastdim
