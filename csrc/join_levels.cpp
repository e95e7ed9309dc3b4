#include "join_levels.h"

#include "levels.h"

namespace fastdim {

const JoinKernels& join_kernels(Isa isa) {
  return at_level(isa, scalar_join_kernels, FASTDIM_IF_AVX2(avx2_join_kernels),
                  FASTDIM_IF_AVX512(avx512_join_kernels));
}

const JoinKernels* bf16_join_kernels(Isa isa) {
  return table_if<JoinKernels>(isa == Isa::avx512 && cpu_features().avx512_bf16,
                               FASTDIM_IF_AVX512_BF16(avx512_bf16_join_kernels));
}

ScanOf scan_of(Level level, Precision precision) {
  const JoinKernels& kernels = join_kernels(level.isa);
  if (precision == Precision::float32) return {kernels.scan};
  if (precision == Precision::bfloat16) {
    const JoinKernels* bf16 = bf16_join_kernels(level.isa);
    return {bf16 ? bf16->scan : nullptr};
  }
  if (!cpu_features().avx512_vnni || !kernels.scan_int8) return {};
  const JoinKernels* amx =
      table_if<JoinKernels>(level.amx, FASTDIM_IF_AVX512_AMX(avx512_amx_join_kernels));
  return amx ? ScanOf{amx->scan_int8, kTileRows} : ScanOf{kernels.scan_int8};
}

}  // namespace fastdim
