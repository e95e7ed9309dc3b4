// Tiles of sums of products, for vectors of any width: the loops that the files of the vector
// levels share. Each passes a type of its own unnamed namespace (kernels.h says why), with
//   Element, Vector, lanes; zero(), load(p), all(p), add(a, b, sum) = a * b + sum;
//   keep(double*, Vector), which stores doubles, or adds floats to doubles.
#pragma once

#include <cstddef>

#include "moments_kernels.h"

namespace fastdim {
namespace {

// Sums over count rows of two panels of 3 vectors; always inlined, for the sums to stay in
// registers.
template <class Type, int Rows>
__attribute__((always_inline)) inline void sum_products(const typename Type::Element* a,
                                                        const typename Type::Element* b,
                                                        std::size_t count,
                                                        typename Type::Vector (&sum)[Rows][3]) {
#pragma GCC unroll 8
  for (int r = 0; r < Rows; ++r) sum[r][0] = sum[r][1] = sum[r][2] = Type::zero();
  for (std::size_t k = 0; k < count; ++k, a += 3 * Type::lanes, b += 3 * Type::lanes) {
    const typename Type::Vector b0 = Type::load(b);
    const typename Type::Vector b1 = Type::load(b + Type::lanes);
    const typename Type::Vector b2 = Type::load(b + 2 * Type::lanes);
#pragma GCC unroll 8
    for (int r = 0; r < Rows; ++r) {
      const typename Type::Vector element = Type::all(a + r);
      sum[r][0] = Type::add(element, b0, sum[r][0]);
      sum[r][1] = Type::add(element, b1, sum[r][1]);
      sum[r][2] = Type::add(element, b2, sum[r][2]);
    }
  }
}

// tile (Rows, 3 vectors): `keep` of the sums over count rows.
template <class Type, int Rows>
__attribute__((always_inline)) inline void keep_products(const typename Type::Element* a,
                                                         const typename Type::Element* b,
                                                         std::size_t count, double* tile) {
  typename Type::Vector sum[Rows][3];
  sum_products<Type, Rows>(a, b, count, sum);
#pragma GCC unroll 8
  for (int r = 0; r < Rows; ++r)
#pragma GCC unroll 3
    for (std::size_t h = 0; h < 3; ++h)
      Type::keep(tile + (3 * static_cast<std::size_t>(r) + h) * Type::lanes, sum[r][h]);
}

// The same of floats whose `keep` adds: blocks of so many rows, one after the other.
template <class Type, int Rows, std::size_t Block>
inline void add_blocks(const float* a, const float* b, std::size_t count, double* tile) {
  constexpr std::size_t width = 3 * Type::lanes;
  for (std::size_t i = 0; i < Rows * width; ++i) tile[i] = 0.0;
  for (std::size_t start = 0; start < count; start += Block) {
    const std::size_t rows = count - start < Block ? count - start : Block;
    keep_products<Type, Rows>(a + start * width, b + start * width, rows, tile);
  }
}

// a' tile b, tile of 3 vectors squared: sums over every second row side by side, for one would wait
// for each product.
template <class Type>
inline double bilinear(const float* a, const float* b, const float* tile) {
  constexpr std::size_t width = 3 * Type::lanes;
  typename Type::Vector sum[2][3];
  for (auto& part : sum) part[0] = part[1] = part[2] = Type::zero();
  for (std::size_t r = 0; r < width; r += 2)
#pragma GCC unroll 2
    for (std::size_t half = 0; half < 2; ++half) {
      const typename Type::Vector element = Type::all(a + r + half);
#pragma GCC unroll 3
      for (std::size_t h = 0; h < 3; ++h)
        sum[half][h] = Type::add(element, Type::load(tile + (r + half) * width + h * Type::lanes),
                                 sum[half][h]);
    }
  double parts[width] = {};
  for (const auto& part : sum)
    for (std::size_t h = 0; h < 3; ++h)
      Type::keep(parts + h * Type::lanes,
                 Type::add(part[h], Type::load(b + h * Type::lanes), Type::zero()));
  double total = 0.0;
  for (const double part : parts) total += part;
  return total;
}

}  // namespace
}  // namespace fastdim
