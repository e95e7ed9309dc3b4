// The portable level, for all processors without AVX-512.
#include <cstring>

#include "select_kernels.h"

namespace fastdim {
namespace {

constexpr float kLowest = -__builtin_inff();

bool is_folded(const Listed& listed, std::size_t i) {
  return __builtin_signbit(listed.error[listed.slot[i]]);
}

// Quickselect whose partitions take no branch that depends on the scores, which a processor cannot
// foresee. Where its pivots are bad the k-th is found bit by bit, so that no order of scores makes
// it slow.
float kth_of(float* scores, std::size_t count, std::size_t k) {
  constexpr int most_rounds = 48;
  std::size_t begin = 0, end = count, at = k - 1;
  for (int round = 0; round < most_rounds; ++round) {
    // The median of three.
    const float a = scores[begin], b = scores[begin + (end - begin) / 2], c = scores[end - 1];
    const float low = a < b ? a : b, high = a < b ? b : a;
    const float pivot = c < low ? low : (c < high ? c : high);
    std::size_t above = begin;
    for (std::size_t i = begin; i < end; ++i) {
      const float score = scores[i];
      scores[i] = scores[above];
      scores[above] = score;
      above += static_cast<std::size_t>(score > pivot);
    }
    std::size_t equal = above;
    for (std::size_t i = above; i < end; ++i) {
      const float score = scores[i];
      scores[i] = scores[equal];
      scores[equal] = score;
      equal += static_cast<std::size_t>(score == pivot);
    }
    if (at >= above && at < equal) return pivot;
    if (at < above)
      end = above;
    else
      begin = equal;
  }
  // Whole numbers in the order of the floats.
  std::uint32_t key = 0;
  for (int bit = 31; bit >= 0; --bit) {
    const std::uint32_t tried = key | 1u << bit;
    std::size_t reached = 0;
    for (std::size_t i = begin; i < end; ++i) {
      std::uint32_t bits;
      std::memcpy(&bits, scores + i, sizeof bits);
      reached += static_cast<std::size_t>((bits >> 31 ? ~bits : bits | 0x80000000u) >= tried);
    }
    if (begin + reached > at) key = tried;
  }
  const std::uint32_t bits = key >> 31 ? key & 0x7fffffffu : ~key;
  float value;
  std::memcpy(&value, &bits, sizeof value);
  return value;
}

float kth_scalar(const Listed& listed, std::size_t k, bool folded, float* room) {
  std::size_t count = 0;
  for (std::size_t i = 0; i < listed.count; ++i) {
    room[count] = listed.score[i];
    count += static_cast<std::size_t>(!(folded && is_folded(listed, i)));
  }
  return count < k ? kLowest : kth_of(room, count, k);
}

std::size_t keep_scalar(const Listed& listed, const Within& within) {
  std::size_t kept = 0;
  for (std::size_t i = 0; i < listed.count; ++i) {
    const float score = listed.score[i];
    const std::int32_t slot = listed.slot[i];
    const float sum = (within.reach + within.error_x) + listed.error[slot];
    listed.score[kept] = score;
    listed.slot[kept] = slot;
    kept += static_cast<std::size_t>(-2.0f * score <= sum * sum * within.stretch + within.flushed);
  }
  return kept;
}

std::size_t divide_scalar(const Listed& listed, float kth, float* best_score, std::int32_t* best) {
  std::size_t first = 0, rest = 0;
  for (std::size_t i = 0; i < listed.count; ++i) {
    const float score = listed.score[i];
    const std::int32_t slot = listed.slot[i];
    const bool moved = (score >= kth) & !is_folded(listed, i);
    best_score[first] = score;
    best[first] = slot;
    first += static_cast<std::size_t>(moved);
    listed.score[rest] = score;
    listed.slot[rest] = slot;
    rest += static_cast<std::size_t>(!moved);
  }
  return first;
}

constexpr SelectKernels kKernels = {kth_scalar, keep_scalar, divide_scalar, nullptr};

}  // namespace

const SelectKernels* scalar_select_kernels() { return &kKernels; }

}  // namespace fastdim
