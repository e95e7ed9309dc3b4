#include "ceiling.h"

namespace fastdim::cuda {
namespace {

constexpr int kThreads = 256;

__global__ void __launch_bounds__(kThreads, 1) products(int rounds, float* out) {
  float sum[32][4];
  std::uint32_t a[4][4], b[8][2];
  // Values near 1 that differ between lanes: zeros would need less power and run faster.
  for (int i = 0; i < 16; ++i) a[i / 4][i % 4] = 0x3c003800u + 37 * threadIdx.x + i;
  for (int i = 0; i < 16; ++i) b[i / 2][i % 2] = 0xb8003c00u + 53 * threadIdx.x + i;
#pragma unroll
  for (int i = 0; i < 32; ++i) sum[i][0] = sum[i][1] = sum[i][2] = sum[i][3] = 0;
  for (int round = 0; round < rounds; ++round) {
#pragma unroll
    for (int i = 0; i < 32; ++i) simt::mma<false>(sum[i], a[i / 8], b[i % 8]);
  }
  float total = 0;
#pragma unroll
  for (int i = 0; i < 32; ++i) total += sum[i][0] + sum[i][1] + sum[i][2] + sum[i][3];
  out[blockIdx.x * kThreads + threadIdx.x] = total;
}

}  // namespace

double mma_ceiling(int blocks, int rounds, float* out, simt::Stream stream) {
  simt::launch(products, blocks, kThreads, 0, stream, rounds, out);
  return 2.0 * 16 * 8 * 16 * 32 * rounds * (kThreads / 32) * blocks;
}

}  // namespace fastdim::cuda
