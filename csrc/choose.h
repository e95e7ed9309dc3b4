// Which strategy, how many axes and which arithmetic: measured on a sample, never trusted for
// correctness.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "isa.h"
#include "projection.h"

namespace fastdim {

// pruned: filter on the leading principal axes first. full: filter on all columns at once, in
// bfloat16 where the processor has it. tiled: the float32 scan of search.h. automatic: the
// cheapest.
enum class Strategy { automatic, pruned, full, tiled };

// Of the first level. any: what is likely faster.
enum class Precision { any, float32, bfloat16 };

const char* name(Strategy strategy);

// Throws std::invalid_argument, naming the strategies, if there is none of that name; "" and "auto"
// are automatic.
Strategy parse_strategy(const std::string& text);

// "", "float32" or "bfloat16"; throws std::invalid_argument if it is none of them, or bfloat16
// where `has_bf16` is false.
Precision parse_precision(const std::string& text, bool has_bf16);

struct ChoiceParams {
  const Projection& projection;
  const std::vector<std::int64_t>& order;
  std::int64_t d;
  std::int64_t k;
  Strategy strategy;
  Isa isa;
  Precision precision;
  bool has_bf16;
  int threads;
  const std::function<void()>& poll;
  // Of two positions, as projected, by a thread.
  std::function<double(std::int64_t, std::int64_t, int worker)> distance;
};

struct Choice {
  Strategy strategy;  // pruned or full
  bool bf16;
  std::int64_t near_axes;  // pruned: axes of the first level
};

Choice choose(const ChoiceParams& params);

}  // namespace fastdim
