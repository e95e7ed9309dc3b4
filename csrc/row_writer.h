// How one row is written into a Side: points 4 and 5 of prepare.h.
#pragma once

#include <cstdint>
#include <vector>

#include "prepare.h"

namespace fastdim {

inline constexpr double kUpward = 1.0 + 0x1p-40;  // pays for float64 roundings of a bound

// Length of what lies beyond the first `first` axes of a row of axes values: the further ones and
// `rest`.
double tail_length(const Prepared& prepared, std::int64_t first, const float* values, double rest);

// Elements of the first level in 32 bits.
std::size_t elements_a_unit(Precision precision);

// What rounding a centered row to int8 on all its columns moves it by.
double int8_error(const JoinKernels& join, const float* centered, std::int64_t d);

// One for each thread: it has room for one row.
class RowWriter {
 public:
  explicit RowWriter(const Prepared& prepared);

  // `values`: axes floats; `rest`: the length beyond them; `base`: see prepare.h.
  void write(Side& side, std::int64_t slot, const float* values, double rest, double base);

  // All columns of one centered row for the second level; `base`: bound of |exact - centered|.
  void write_columns(Side& side, std::int64_t slot, const float* centered, double base);

  // A row that no scan lists.
  void write_padding(Side& side, std::int64_t slot);

 private:
  std::size_t elements() const;
  void take(const float* values, std::int64_t axes, double rest, double middle,
            std::vector<float>& out) const;
  void round(std::size_t k, double exact, double& norm2, double& error2);
  void store(Side& side, std::int64_t slot);

  const Prepared& p_;
  double keep_;
  std::vector<float> exact_;         // what the scan should see
  std::vector<float> rough_;         // what the level between should see
  std::vector<float> whole_;         // what the second level should see
  std::vector<float> scanned_;       // what the scan sees, but in int8
  std::vector<std::uint8_t> bytes_;  // int8: as stored
};

}  // namespace fastdim
