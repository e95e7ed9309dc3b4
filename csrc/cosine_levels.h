// The kernels of csrc/cpu/cosine_<level>.cpp, chosen at run time.
#pragma once

#include "cpu/cosine_kernels.h"
#include "isa.h"

namespace fastdim {

const CosineKernels& cosine_kernels(Isa isa);

// Whether the level has product_ints and this processor runs it.
bool has_int16(Isa isa);

}  // namespace fastdim
