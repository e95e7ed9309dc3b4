// Conversions of numbers and the sum of a tensor core, as the emulator takes them.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>

namespace fastdim::simt {

inline std::uint16_t to_half(float v) {
  const float magnitude = std::fabs(v);
  const std::uint16_t sign = std::signbit(v) ? 0x8000 : 0;
  if (std::isnan(v)) return sign | 0x7e00;
  if (magnitude >= 65520.0f) return sign | 0x7c00;
  if (magnitude < 0x1p-14f) {
    return static_cast<std::uint16_t>(sign | std::lrint(std::ldexp(double(magnitude), 24)));
  }
  int exponent = 0;
  const float fraction = std::frexp(magnitude, &exponent);
  const long rounded = std::lrint(std::ldexp(double(fraction), 11));  // 1024..2048, ties to even
  return static_cast<std::uint16_t>(sign | (((exponent + 13) << 10) + rounded));
}
inline float from_half(std::uint16_t bits) {
  const int exponent = (bits >> 10) & 31, fraction = bits & 1023;
  double value = exponent == 31  ? (fraction ? std::nan("") : HUGE_VAL)
                 : exponent == 0 ? std::ldexp(fraction, -24)
                                 : std::ldexp(1024 + fraction, exponent - 25);
  return static_cast<float>(bits & 0x8000 ? -value : value);
}
inline float from_bfloat(std::uint16_t bits) {
  const std::uint32_t wide = static_cast<std::uint32_t>(bits) << 16;
  float value;
  std::memcpy(&value, &wide, 4);
  return value;
}
inline std::uint16_t to_bfloat(float v) {
  std::uint32_t wide;
  std::memcpy(&wide, &v, 4);
  if (std::isnan(v)) return 0x7fff;
  return static_cast<std::uint16_t>((wide + 0x7fff + ((wide >> 16) & 1)) >> 16);
}
inline float round_down(double v) {
  const float f = static_cast<float>(v);
  return f > v ? std::nextafter(f, -HUGE_VALF) : f;
}
inline float round_up(double v) {
  const float f = static_cast<float>(v);
  return f < v ? std::nextafter(f, HUGE_VALF) : f;
}
inline unsigned float_bits(float v) {
  unsigned out;
  std::memcpy(&out, &v, 4);
  return out;
}
inline float float_of(unsigned v) {
  float out;
  std::memcpy(&out, &v, 4);
  return out;
}
inline unsigned long long bits(double v) {
  unsigned long long out;
  std::memcpy(&out, &v, 8);
  return out;
}
inline double from_bits(unsigned long long v) {
  double out;
  std::memcpy(&out, &v, 8);
  return out;
}

// One step of a tensor core: every term cut off at the last bit of the largest, then the total.
inline float add_cut(float c, const double* terms, int count) {
  if (!std::isfinite(c)) return c;
  double largest = std::fabs(static_cast<double>(c)), any = 0;
  for (int i = 0; i < count; ++i) {
    largest = std::max(largest, std::fabs(terms[i]));
    any += 0 * terms[i];
  }
  if (std::isnan(any)) return std::nanf("");
  if (largest == 0) return 0;
  // The unit 2^(e - 23) and its inverse from the exponent of the largest, a float32 or a product of
  // two 16-bit numbers: always a normal float64.
  const std::uint64_t exponent = bits(largest) >> 52;
  const double unit = from_bits((exponent - 23) << 52);
  const double inverse = from_bits((2046 - exponent + 23) << 52);
  std::int64_t units = static_cast<std::int64_t>(c * inverse);
  for (int i = 0; i < count; ++i) units += static_cast<std::int64_t>(terms[i] * inverse);
  const double total = static_cast<double>(units) * unit;
  const float f = static_cast<float>(total);
  return std::fabs(f) > std::fabs(total) ? std::nextafter(f, 0.0f) : f;
}

}  // namespace fastdim::simt
