// Which kernels of cpu/join_kernels.h a search runs.
#pragma once

#include <cstdint>

#include "choose.h"
#include "cpu/join_kernels.h"
#include "isa.h"

namespace fastdim {

// The kernels of the level, and those in bfloat16 where this processor has it (else null).
const JoinKernels& join_kernels(Isa isa);
const JoinKernels* bf16_join_kernels(Isa isa);

// The scan on units of that arithmetic, null where it was not built or cannot run here, and how
// many query rows it takes.
struct ScanOf {
  void (*scan)(const Scan& scan) = nullptr;
  std::int64_t rows = kScanRows;
};
ScanOf scan_of(Level level, Precision precision);

}  // namespace fastdim
