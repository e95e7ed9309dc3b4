// The CUDA sources compiled for the emulator, as a library for ctypes.
#include "../../csrc/cuda/knn.cu"
#include "guard.h"

extern "C" {

void simt_mma_group(int value) { fastdim::simt::mma_group() = value; }

int simt_knn(const void* data, long long n, long long d, long long row_stride, int dtype,
             const long long* queries, long long m, long long k, long long keep, int tile,
             int blocks, const long long* order, const double* axes, long long axes_count,
             int symmetric, double* distances, long long* indices, long long* counts) {
  static_assert(sizeof(long long) == sizeof(std::int64_t));
  return guarded([&] {
    fastdim::cuda::KnnParams params = {data,
                                       n,
                                       d,
                                       row_stride,
                                       static_cast<fastdim::cuda::Dtype>(dtype),
                                       reinterpret_cast<const std::int64_t*>(queries),
                                       m,
                                       k,
                                       keep,
                                       static_cast<fastdim::cuda::Tile>(tile),
                                       blocks,
                                       nullptr,
                                       distances,
                                       reinterpret_cast<std::int64_t*>(indices),
                                       reinterpret_cast<std::int64_t*>(counts),
                                       0,
                                       reinterpret_cast<const std::int64_t*>(order),
                                       axes,
                                       axes_count,
                                       symmetric != 0};
    std::vector<unsigned char> memory(fastdim::cuda::knn_workspace(params) + 256, 0xff);
    const auto address = reinterpret_cast<std::uintptr_t>(memory.data());
    params.workspace = memory.data() + (256 - address % 256);
    fastdim::cuda::knn(params);
  });
}
}
