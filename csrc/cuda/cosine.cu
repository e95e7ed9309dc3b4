#include <stdexcept>
#include <type_traits>

#include "cosine.cuh"

namespace fastdim::cuda {
namespace {

std::int64_t row_blocks(std::int64_t rows) { return (rows + kWarps - 1) / kWarps; }

template <class Pointer>
using Value = std::remove_const_t<std::remove_pointer_t<Pointer>>;

template <class Call>
void with_rows(const RowsParams& rows, Call call) {
  if (rows.n < 1 || rows.d < 1 || rows.row_stride < rows.d) {
    throw std::invalid_argument("rows: needs n >= 1, d >= 1, row_stride >= d");
  }
  switch (rows.dtype) {
    case Dtype::float16:
      return call(static_cast<const Float16*>(rows.data));
    case Dtype::bfloat16:
      return call(static_cast<const BFloat16*>(rows.data));
    case Dtype::float32:
      return call(static_cast<const float*>(rows.data));
    case Dtype::float64:
      return call(static_cast<const double*>(rows.data));
  }
  throw std::invalid_argument("rows: unknown number type");
}

template <class T>
void center(const UnitRowsParams& p, const T* data) {
  const RowsParams& rows = p.rows;
  const std::int64_t column_blocks = (rows.d + 127) / 128;
  simt::launch(unit_parts<T>, column_blocks * kMeanParts, 128, 0, rows.stream, data, rows.d,
               rows.row_stride, p.chosen, p.m, p.inverse, kMeanParts, p.parts);
  simt::launch(unit_means, column_blocks, 128, 0, rows.stream, p.parts, kMeanParts, p.m, rows.d,
               p.mean);
  simt::launch(center_rows<T>, row_blocks(p.padded), 32 * kWarps, 0, rows.stream, data, rows.d,
               rows.row_stride, p.chosen, p.m, p.inverse, p.mean, p.padded, p.width, p.w, p.slopes,
               p.center);
}

}  // namespace

void row_norms(const RowsParams& rows, double* norms) {
  with_rows(rows, [&](auto data) {
    simt::launch(norm_rows<Value<decltype(data)>>, row_blocks(rows.n), 32 * kWarps, 0, rows.stream,
                 data, rows.n, rows.d, rows.row_stride, norms);
  });
}

void unit_rows(const UnitRowsParams& p) {
  if (p.m < 1 || p.padded < p.m || p.padded % kCosineTile || p.width < p.rows.d ||
      p.width % kCosineSlice) {
    throw std::invalid_argument("unit_rows: needs m >= 1 and whole tiles and slices");
  }
  with_rows(p.rows, [&](auto data) { center<Value<decltype(data)>>(p, data); });
}

void cosine_pairs(const CosineParams& p) {
  const std::int64_t tiles = (p.m + kCosineTile - 1) / kCosineTile;
  if (p.m < 2 || p.m > (std::int64_t{1} << 36) || p.width < 1 || p.width % kCosineSlice ||
      p.w_stride < p.width || p.w_stride % 2) {
    throw std::invalid_argument("cosine_pairs: needs 2 <= m <= 2^36 rows of whole slices");
  }
  if (p.bins < 1 || p.bins > kLargestBins || p.runs < 1 || p.runs > tiles * (tiles + 1) / 2) {
    throw std::invalid_argument("cosine_pairs: needs 1 to 8192 bins and a tile a run at least");
  }
  simt::launch(cosine_tiles, p.runs, kCosineThreads, cosine_bytes(p.bins), p.stream, p,
               bin_copies(p.bins));
}

void pair_cosines(const RowsParams& rows, const std::int64_t* left, const std::int64_t* right,
                  const double* inverse, std::int64_t count, double* out) {
  if (count < 1) throw std::invalid_argument("pair_cosines: needs a pair");
  with_rows(rows, [&](auto data) {
    simt::launch(cosines_of_pairs<Value<decltype(data)>>, row_blocks(count), 32 * kWarps, 0,
                 rows.stream, data, rows.d, rows.row_stride, left, right, inverse, count, out);
  });
}

}  // namespace fastdim::cuda
