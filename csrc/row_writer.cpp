#include "row_writer.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>

#include "pack.h"
#include "threads.h"

namespace fastdim {
namespace {

constexpr double kInt8Roundings = 8.0;  // of a score, and to spare

std::size_t index(std::int64_t slot) { return static_cast<std::size_t>(slot); }

std::uint16_t to_bf16(float value) {
  std::uint32_t bits;
  std::memcpy(&bits, &value, sizeof bits);
  return static_cast<std::uint16_t>((bits + 0x7fffu + (bits >> 16 & 1u)) >> 16);
}

// Not below the value, and with 16 significant bits: 127 times it, and every smaller multiple, is a
// float32.
float round_up16(double value) {
  const float above = round_up(value);
  std::uint32_t bits;
  std::memcpy(&bits, &above, sizeof bits);
  bits = (bits + 0xffu) & ~0xffu;
  float result;
  std::memcpy(&result, &bits, sizeof result);
  return result;
}

float from_bf16(std::uint16_t half) {
  const std::uint32_t bits = static_cast<std::uint32_t>(half) << 16;
  float value;
  std::memcpy(&value, &bits, sizeof value);
  return value;
}

// The relative error of a score whose terms pass through so many roundings: point 4 of prepare.h.
double score_error(double roundings) { return roundings * 0x1p-24 / (1.0 - roundings * 0x1p-24); }

double scan_roundings(const Prepared& p) {
  if (p.precision == Precision::int8) return kInt8Roundings;
  return static_cast<double>(p.precision == Precision::bfloat16 ? 3 * p.units + 4 : p.units + 4);
}

// One centered row on all columns in bfloat16; `base`: bound of |exact - centered|.
void write_whole(const Prepared& p, Side& side, std::int64_t slot, const float* centered,
                 double base) {
  const std::size_t at = static_cast<std::size_t>(slot);
  const std::size_t width = static_cast<std::size_t>(p.whole_width);
  const std::size_t d = static_cast<std::size_t>(p.rows.d);
  std::uint16_t* out = side.whole.data() + at * width;
  double norm2, error2;
  p.bf16->round(centered, d, out, &norm2, &error2);
  std::fill(out + d, out + width, std::uint16_t{0});
  const double roundings = 3.0 * static_cast<double>(width) / kScanCols + 16.0;
  side.whole_half[at] = round_down(0.5 * norm2 * (1.0 - 2.0 * score_error(roundings) * kUpward));
  side.whole_error[at] = round_up((std::sqrt(error2) + base) * (1.0 + 0x1p-20));
}

struct Quantized {
  float scale;
  std::int32_t sum;     // of the elements
  double norm2, error;  // of what they stand for: squared length, and |that - exact values|
};

// `values`, up to a transform, as whole numbers of -127 ... 127 times one scale. How far the values
// may be wrong after it: point 4 of prepare.h. The first `head` of them are transformed among
// themselves, and of_head is theirs but for the error.
Quantized quantize(const JoinKernels& join, bool transform, std::vector<float>& values,
                   std::uint8_t* bytes, std::size_t head = 0, Quantized* of_head = nullptr) {
  const float most = std::max(head > 0 ? join.turn(values.data(), head, transform) : 0.0f,
                              join.turn(values.data() + head, values.size() - head, transform));
  Quantized out = {round_up16(static_cast<double>(most) / 127.0), 0, 0, 0};
  const double scale = static_cast<double>(out.scale);
  double errors2 = 0;
  const auto add = [&](std::size_t from, std::size_t to) {
    std::int32_t sum, sum2;
    float error2;
    join.quantize(values.data() + from, to - from, out.scale, bytes + from, &sum, &sum2, &error2);
    out.sum += sum;
    out.norm2 += scale * scale * static_cast<double>(sum2);
    errors2 += static_cast<double>(error2);
  };
  if (head > 0) {
    add(0, head);
    *of_head = out;
  }
  add(head, values.size());
  // A sum of float32 squares at most size / 16 + 8 roundings deep.
  const double deep = static_cast<double>(values.size()) / 16.0 + 8.0;
  const double rounding = std::sqrt(errors2) * (1.0 + deep * 0x1p-23);
  out.error = rounding + 0x1p-20 * (std::sqrt(out.norm2) + rounding) + 0x1p-60;
  return out;
}

// One row, as values up to a transform; `base`: what they may be wrong by.
void write_int8(const JoinKernels& join, Int8Rows& rows, std::size_t at, std::vector<float>& values,
                double base) {
  const Quantized found = quantize(join, true, values, rows.elements.data() + at * values.size());
  rows.scale.data()[at] = found.scale;
  rows.offset[at] = -128 * found.sum;
  rows.half.data()[at] =
      round_down(0.5 * found.norm2 * (1.0 - 2.0 * score_error(kInt8Roundings) * kUpward));
  rows.error.data()[at] = round_up((found.error + base) * (1.0 + 0x1p-20));
}

}  // namespace

double scan_error(const Prepared& p) { return score_error(scan_roundings(p)); }

double tail_length(const Prepared& p, std::int64_t first, const float* values, double rest) {
  double tail2 = rest * rest;
  for (std::int64_t k = first; k < p.axes; ++k)
    tail2 += static_cast<double>(values[k]) * static_cast<double>(values[k]);
  return std::sqrt(tail2);
}

double int8_error(const JoinKernels& join, const float* centered, std::int64_t d) {
  std::vector<float> values(static_cast<std::size_t>(tasks(d, 4) * 4), 0.0f);
  std::vector<std::uint8_t> bytes(values.size());
  std::copy(centered, centered + d, values.begin());
  return quantize(join, true, values, bytes.data()).error;
}

std::size_t elements_a_unit(Precision precision) {
  return precision == Precision::int8 ? 4 : precision == Precision::bfloat16 ? 2 : 1;
}

RowWriter::RowWriter(const Prepared& p)
    : p_(p),
      keep_(1.0 - 2.0 * scan_error(p) * kUpward),
      exact_(elements()),
      rough_(static_cast<std::size_t>(p.rough_width)),
      whole_(static_cast<std::size_t>(p.whole_int8_width)),
      scanned_(p.precision == Precision::int8 ? 0 : elements()),
      bytes_(p.precision == Precision::int8 ? elements() : 0) {}

void RowWriter::write(Side& side, std::int64_t slot, const float* values, double rest,
                      double base) {
  const std::size_t near = static_cast<std::size_t>(p_.near_axes), at = index(slot);
  const bool pruned = p_.strategy == Strategy::pruned;
  take(values, p_.near_axes, rest, p_.middle, exact_);
  double norm2 = 0, error = 0;
  if (p_.precision == Precision::int8) {
    const std::size_t head =
        static_cast<std::size_t>(p_.head_units) * elements_a_unit(p_.precision);
    Quantized of_head = {};
    const Quantized found =
        quantize(*p_.join, !p_.axes_apart(), exact_, bytes_.data(), head, &of_head);
    if (head > 0) {
      side.head_half.data()[at] = round_down(0.5 * of_head.norm2 * keep_);
      side.head_offset[at] = -128 * of_head.sum;
    }
    norm2 = found.norm2;
    error = found.error;
    side.scale.data()[at] = found.scale;
    side.offset[at] = -128 * found.sum;
    if (p_.axes_apart())
      side.tail[at] = found.scale * static_cast<float>(static_cast<int>(bytes_[near]) - 128);
  } else {
    // What the tail loses when it becomes a float32 counts as rounding.
    const double tail = pruned ? tail_length(p_, p_.near_axes, values, rest) - p_.middle : 0.0;
    double error2 = 0;
    for (std::size_t k = 0; k < exact_.size(); ++k)
      round(k, pruned && k == near ? tail : static_cast<double>(exact_[k]), norm2, error2);
    error = std::sqrt(error2);
    if (pruned) side.tail[at] = scanned_[near];
  }
  store(side, slot);
  if (p_.far_width() > 0) {
    float* far = side.far.data() + at * p_.far_width();
    std::copy(values + near, values + p_.axes, far);
    std::fill(far + (p_.axes - p_.near_axes), far + p_.far_width(), 0.0f);
  }
  side.half.data()[at] = round_down(0.5 * norm2 * keep_);
  side.rest[at] = static_cast<float>(rest);
  side.base[at] = round_up((base + 0x1p-24 * rest) * kUpward);
  // The factor pays for the float32 sum of two of them.
  side.error[at] = round_up((error + base) * (1.0 + 0x1p-20));
  if (p_.rough_width > 0) {
    take(values, p_.rough_axes, rest, p_.rough_middle, rough_);
    write_int8(*p_.join, side.rough, at, rough_, base);
  }
}

void RowWriter::write_columns(Side& side, std::int64_t slot, const float* centered, double base) {
  if (p_.whole_int8_width == 0) return write_whole(p_, side, slot, centered, base);
  std::fill(std::copy(centered, centered + p_.rows.d, whole_.begin()), whole_.end(), 0.0f);
  write_int8(*p_.join, side.whole_int8, index(slot), whole_, base);
}

void RowWriter::write_padding(Side& side, std::int64_t slot) {
  std::fill(scanned_.begin(), scanned_.end(), 0.0f);
  std::fill(bytes_.begin(), bytes_.end(), std::uint8_t{128});
  store(side, slot);
  std::fill_n(side.far.data() + index(slot) * p_.far_width(), p_.far_width(), 0.0f);
  side.half.data()[index(slot)] = std::numeric_limits<float>::infinity();
  if (p_.head_units > 0)
    side.head_half.data()[index(slot)] = std::numeric_limits<float>::infinity();
}

std::size_t RowWriter::elements() const {
  return static_cast<std::size_t>(p_.units) * elements_a_unit(p_.precision);
}

// The first axes and, where there are more of them, the length of all the rest.
void RowWriter::take(const float* values, std::int64_t axes, double rest, double middle,
                     std::vector<float>& out) const {
  std::fill(std::copy(values, values + axes, out.begin()), out.end(), 0.0f);
  if (p_.strategy == Strategy::pruned)
    out[static_cast<std::size_t>(axes)] =
        static_cast<float>(tail_length(p_, axes, values, rest) - middle);
}

void RowWriter::round(std::size_t k, double exact, double& norm2, double& error2) {
  scanned_[k] = static_cast<float>(exact);
  if (p_.precision == Precision::bfloat16) scanned_[k] = from_bf16(to_bf16(scanned_[k]));
  const double seen = static_cast<double>(scanned_[k]), gap = exact - seen;
  norm2 += seen * seen;
  error2 += gap * gap;
}

void RowWriter::store(Side& side, std::int64_t slot) {
  const std::size_t units = static_cast<std::size_t>(p_.units), at = index(slot);
  std::uint32_t* group = side.near.data() + at / kGroup * units * kGroup + at % kGroup;
  for (std::size_t u = 0; u < units; ++u) {
    std::uint32_t bits;
    if (p_.precision == Precision::int8)
      std::memcpy(&bits, &bytes_[4 * u], sizeof bits);
    else if (p_.precision == Precision::bfloat16)
      bits = static_cast<std::uint32_t>(to_bf16(scanned_[2 * u])) |
             static_cast<std::uint32_t>(to_bf16(scanned_[2 * u + 1])) << 16;
    else
      std::memcpy(&bits, &scanned_[u], sizeof bits);
    group[u * kGroup] = bits;
  }
}

}  // namespace fastdim
