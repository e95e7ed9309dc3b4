// The kernels of the cosines compiled for the emulator, as a library for ctypes.
#include "../../csrc/cuda/cosine.cu"
#include "guard.h"

namespace {

using fastdim::cuda::RowsParams;

RowsParams rows_of(const void* data, long long n, long long d, long long row_stride, int dtype) {
  return {data, n, d, row_stride, static_cast<fastdim::cuda::Dtype>(dtype), 0};
}

}  // namespace

extern "C" {

int simt_row_norms(const void* data, long long n, long long d, long long row_stride, int dtype,
                   double* norms) {
  return guarded([&] { fastdim::cuda::row_norms(rows_of(data, n, d, row_stride, dtype), norms); });
}

int simt_unit_rows(const void* data, long long n, long long d, long long row_stride, int dtype,
                   const std::int64_t* chosen, long long m, const double* inverse, long long padded,
                   long long width, double* parts, double* mean, double* w, double* slopes,
                   double* center) {
  return guarded([&] {
    fastdim::cuda::unit_rows({rows_of(data, n, d, row_stride, dtype), chosen, m, inverse, padded,
                              width, parts, mean, w, slopes, center});
  });
}

int simt_cosine_pairs(const double* w, long long m, long long width, long long w_stride,
                      const double* slopes, const double* center, const double* edges,
                      long long bins, long long runs, double* moments,
                      unsigned long long* histogram) {
  return guarded([&] {
    fastdim::cuda::cosine_pairs(
        {w, m, width, w_stride, slopes, center, edges, bins, runs, moments, histogram, 0});
  });
}

int simt_pair_cosines(const void* data, long long n, long long d, long long row_stride, int dtype,
                      const std::int64_t* left, const std::int64_t* right, const double* inverse,
                      long long count, double* out) {
  return guarded([&] {
    fastdim::cuda::pair_cosines(rows_of(data, n, d, row_stride, dtype), left, right, inverse, count,
                                out);
  });
}
}
