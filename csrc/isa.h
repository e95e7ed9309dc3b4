// Which instruction set level runs. Three levels only; finer features are asked about inside them.
#pragma once

#include <string>
#include <utility>
#include <vector>

#include "cpu/kernels.h"

namespace fastdim {

enum class Isa { scalar, avx2, avx512 };

struct CpuFeatures {
  bool avx2 = false, fma = false, f16c = false;
  bool avx512f = false, avx512bw = false, avx512vl = false, avx512dq = false;
  bool avx512_bf16 = false, avx512_vnni = false;
  bool amx_int8 = false;
};

// What both the processor and the operating system (XCR0: saved registers) support.
const CpuFeatures& cpu_features();

const char* name(Isa isa);
std::vector<Isa> built_levels();
std::vector<Isa> supported_levels();  // built and runnable here, ascending

// The level named by `requested`, or if that is empty by the environment variable FASTDIM_ISA (read
// at each call), or if that is unset or empty the highest supported one. Throws
// std::invalid_argument, naming the levels, if the name is unknown or the level cannot run here.
Isa resolve_isa(const std::string& requested);

// A level, and whether its sums of int8 go through AMX tiles.
struct Level {
  Isa isa;
  bool amx;
};

// The level with AMX where processor, system and build have it, unless the environment variable
// FASTDIM_AMX (read at each call) is 0; 1 asks for it. The first call that may say yes asks Linux
// for it, once: signals want larger stacks from then on. Throws std::invalid_argument on other
// values, and on 1 where it cannot be.
Level with_amx(Isa isa);

const Kernels& kernels(Isa isa);

}  // namespace fastdim
