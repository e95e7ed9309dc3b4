// The rate that this card reaches with mma.sync alone: what the filter is measured against.
#pragma once

#include "simt.cuh"

namespace fastdim::cuda {

// Runs `rounds` x 32 products of 16 x 8 x 16 on each of 8 warps of every block, without memory;
// returns their floating-point operations. `out`: one float a thread.
double mma_ceiling(int blocks, int rounds, float* out, simt::Stream stream);

}  // namespace fastdim::cuda
