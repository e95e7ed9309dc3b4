#include "cosine_rows.h"

#include <algorithm>
#include <cmath>
#include <cstring>

#include "cpu/join_kernels.h"
#include "distinct.h"

namespace fastdim {

Weighted nonzero_distinct(const CosineParams& p) {
  std::vector<std::int64_t> first(static_cast<std::size_t>(p.rows.n)), inverse(first.size());
  const std::int64_t groups = distinct(p.rows, p.threads, p.poll, first.data(), inverse.data());
  // Equal rows may be left out one by one: the first that takes part stands for the others.
  std::vector<std::int64_t> count(static_cast<std::size_t>(groups), 0);
  for (std::int64_t row = p.rows.n; row-- > 0;) {
    if (p.inv_norms[row] == 0.0) continue;
    const std::int64_t g = inverse[static_cast<std::size_t>(row)];
    first[static_cast<std::size_t>(g)] = row;
    ++count[static_cast<std::size_t>(g)];
  }
  Weighted rows;
  for (std::size_t g = 0; g < count.size(); ++g) {
    if (count[g] == 0) continue;
    rows.ids.push_back(first[g]);
    rows.weights.push_back(count[g]);
    rows.repeated = rows.repeated || count[g] > 1;
  }
  return rows;
}

double Job::exact(std::int64_t i, std::int64_t j) const {
  const std::int64_t x = rows.ids[static_cast<std::size_t>(i)];
  const std::int64_t y = rows.ids[static_cast<std::size_t>(j)];
  return clipped_cosine(kernels.dot[static_cast<int>(p.rows.dtype)](
      p.rows.row(x), p.rows.row(y), static_cast<std::size_t>(d), p.inv_norms[x], p.inv_norms[y]));
}

std::int64_t Job::bin(double cosine) const {
  const double position = (cosine + 1.0) / step;
  std::int64_t b = std::clamp<std::int64_t>(static_cast<std::int64_t>(position), 0, bins - 1);
  while (b > 0 && cosine < edge(b)) --b;
  while (b < bins - 1 && cosine >= edge(b + 1)) ++b;
  return b;
}

Coded::Coded(const Job& job, std::int64_t count)
    : pairs(job.pairs()),
      units(job.units()),
      axes(job.axes),
      ints(static_cast<std::size_t>(count * 2 * pairs)),
      bytes(static_cast<std::size_t>(count * 4 * units)),
      places(static_cast<std::size_t>(count * job.floats)),
      rows(static_cast<std::size_t>(count)),
      offset(static_cast<std::size_t>(count), 0) {}

void Coded::encode(const Job& job, std::int64_t from, std::int64_t to, RowScratch& scratch) {
  const std::int64_t row = job.rows.ids[static_cast<std::size_t>(from)];
  double* values = scratch.decoded.data();
  job.common.decode[static_cast<int>(job.p.rows.dtype)](job.p.rows.row(row),
                                                        static_cast<std::size_t>(job.d), values);
  for (std::int64_t c = 0; c < job.d; ++c) values[c] *= job.p.inv_norms[row];
  double along[kMaxCosineAxes];
  job.kernels.deflate(values, job.p.axes, static_cast<std::size_t>(job.axes),
                      static_cast<std::size_t>(job.d), along);
  if (job.arithmetic == Arithmetic::int8) return encode_int8(job, to, values, along);
  for (std::int64_t k = 0; k < job.axes; ++k)
    places.data()[to * job.axes + k] = static_cast<float>(along[k]);
  rows[static_cast<std::size_t>(to)] =
      quantize(job.kernels, values, job.d, ints.data() + to * 2 * pairs);
}

// One scale for both parts, so that their products add up in one int32: the point of cosine.h.
void Coded::encode_int8(const Job& job, std::int64_t to, const double* rest, const double* along) {
  const std::size_t count = static_cast<std::size_t>(4 * units);
  std::vector<float> values(count, 0.0f);
  for (std::int64_t c = 0; c < job.d; ++c)
    values[static_cast<std::size_t>(c)] = static_cast<float>(rest[c]);
  const double most = static_cast<double>(job.rounding.turn(values.data(), count, true));
  double largest = 0.0;
  for (std::int64_t k = 0; k < axes; ++k) largest = std::max(largest, std::fabs(along[k]));
  // Rounding adds at most half the root of their number to the length of the integers; 40 pays for
  // the rounding of these lines and of the transform.
  const double longest = 46300.0 - 0.5 * std::sqrt(static_cast<double>(job.d + axes + 4));
  constexpr double finer = 1 << kFiner;
  const float step = round_up(std::max({most / 127.0, finer * largest / 32700.0, finer / longest}));
  std::int32_t sum, sum2;
  float error2;
  job.rounding.quantize(values.data(), count, step, bytes.data() + to * 4 * units, &sum, &sum2,
                        &error2);
  std::int16_t* parts = ints.data() + to * 2 * pairs;
  std::fill(parts, parts + 2 * pairs, std::int16_t{0});
  double gaps = 0.0;
  for (std::int64_t k = 0; k < axes; ++k) {
    const double unit = static_cast<double>(step) / finer;
    parts[k] = static_cast<std::int16_t>(std::lrint(along[k] / unit));
    const double gap = along[k] - static_cast<double>(parts[k]) * unit;
    gaps += gap * gap;
  }
  // The rounding of a float32 sum of squares at most size / 16 + 8 deep; 2^-20 pays for that of the
  // row and of its transform, the square of the step for what the shift loses: s s' <= s^2 + s'^2.
  const double deep = static_cast<double>(count) / 16.0 + 8.0;
  const double error = std::sqrt(gaps + static_cast<double>(error2) * (1.0 + deep * 0x1p-22)) +
                       0x1p-20 + static_cast<double>(step) * static_cast<double>(step);
  offset[static_cast<std::size_t>(to)] = -128 * sum;
  rows[static_cast<std::size_t>(to)] = {1.0 / static_cast<double>(step), error, 1.0 + 0x1p-40};
}

double Coded::product(const Job& job, std::int64_t i, std::int64_t j) const {
  std::int32_t sum = 0;
  for (std::int64_t k = 0; k < 2 * pairs; ++k)
    sum += ints.data()[i * 2 * pairs + k] * ints.data()[j * 2 * pairs + k];
  sum >>= job.shift();
  for (std::int64_t k = 0; k < 4 * units; ++k)
    sum += (bytes.data()[i * 4 * units + k] - 128) * (bytes.data()[j * 4 * units + k] - 128);
  return static_cast<double>(sum) /
         (rows[static_cast<std::size_t>(i)].scale * rows[static_cast<std::size_t>(j)].scale);
}

Panels::Panels(const Job& job, std::int64_t count, std::int64_t rows_wide, bool rows_side)
    : width(rows_wide),
      pairs(job.pairs()),
      units(job.units()),
      floats(job.floats),
      turned(rows_side),
      unit(static_cast<std::size_t>(tasks(count, width) * width * floats)),
      ints(static_cast<std::size_t>(tasks(count, width) * width * 2 * pairs)),
      bytes(static_cast<std::size_t>(tasks(count, width) * width * 4 * units)),
      scale(static_cast<std::size_t>(tasks(count, width) * width), 0.0f),
      offset(scale.size(), 0),
      length(scale.size(), 0.0),
      error(scale.size(), 0.0) {}

void Panels::fill(const Job& job, const Coded* coded, std::int64_t panel, std::int64_t first,
                  std::int64_t count, RowScratch& scratch) {
  float* values = unit.data() + panel * width * floats;
  if (!coded) {
    pack_panel(job.common, job.p.rows, job.transform, job.rows.ids.data() + first,
               static_cast<int>(count), static_cast<int>(width), scratch, values);
    return;
  }
  const std::uint32_t sign = turned ? 0x80808080u : 0u;
  std::uint8_t* groups = bytes.data() + panel * width * 4 * units;
  for (std::int64_t r = 0; r < width; ++r) {
    const bool real = r < count;
    const std::int64_t row = first + r;
    const std::size_t slot = static_cast<std::size_t>(panel * width + r);
    interleave(real ? coded->ints.data() + row * 2 * pairs : nullptr, 2 * pairs,
               static_cast<int>(width), static_cast<int>(r),
               ints.data() + panel * width * 2 * pairs);
    for (std::int64_t u = 0; u < units; ++u) {
      std::uint32_t four = 0x80808080u;
      if (real) std::memcpy(&four, coded->bytes.data() + (row * units + u) * 4, sizeof four);
      four ^= sign;
      std::memcpy(groups + (u * width + r) * 4, &four, sizeof four);
    }
    for (std::int64_t k = 0; k < floats; ++k)
      values[k * width + r] = real ? coded->places.data()[row * floats + k] : 0.0f;
    const Quantized code = real ? coded->rows[static_cast<std::size_t>(row)] : Quantized{1, 0, 0};
    scale[slot] = real ? static_cast<float>(1.0 / code.scale) : 0.0f;
    offset[slot] = real ? coded->offset[static_cast<std::size_t>(row)] : 0;
    length[slot] = code.length;
    error[slot] = code.error;
  }
}

}  // namespace fastdim
