// Elements of every number type as float64, for the files of this level alone: everything is local
// to the file that includes it, as kernels.h demands.
#pragma once

#include <cstdint>
#include <cstring>

namespace fastdim {
namespace {

// The tile of Kernels.
constexpr int kRows = 4;
constexpr int kCols = 8;

inline float from_bits(std::uint32_t bits) {
  float value;
  std::memcpy(&value, &bits, sizeof value);
  return value;
}

struct F16 {
  using Element = std::uint16_t;
  static double value(Element half) {
    const std::uint32_t sign = static_cast<std::uint32_t>(half & 0x8000u) << 16;
    const std::uint32_t magnitude = half & 0x7fffu;
    // Subnormal halves are multiples of 2^-24; others move from exponent bias 15 to 127.
    if (magnitude < 0x400u) {
      const double tiny = static_cast<double>(magnitude) * 0x1p-24;
      return sign ? -tiny : tiny;
    }
    return static_cast<double>(from_bits(sign | ((magnitude << 13) + 0x38000000u)));
  }
};

struct BF16 {
  using Element = std::uint16_t;
  static double value(Element half) {
    return static_cast<double>(from_bits(static_cast<std::uint32_t>(half) << 16));
  }
};

struct F32 {
  using Element = float;
  static double value(Element x) { return static_cast<double>(x); }
};

struct F64 {
  using Element = double;
  static double value(Element x) { return x; }
};

}  // namespace
}  // namespace fastdim
