#include "isa.h"

#include <cstdlib>
#include <stdexcept>

#include "levels.h"

#if defined(__x86_64__)
#include <cpuid.h>
#endif
#if defined(__linux__)
#include <sys/syscall.h>
#include <unistd.h>
#endif

namespace fastdim {
namespace {

CpuFeatures detect() {
  CpuFeatures found;
#if defined(__x86_64__)
  unsigned eax, ebx, ecx, edx;
  if (!__get_cpuid(1, &eax, &ebx, &ecx, &edx)) return found;
  const unsigned osxsave = 1u << 27;
  if (!(ecx & osxsave)) return found;
  const bool fma = ecx & 1u << 12, f16c = ecx & 1u << 29;
  unsigned xcr0, xcr0_high;
  // The intrinsic would need a compile flag beyond the baseline.
  __asm__("xgetbv" : "=a"(xcr0), "=d"(xcr0_high) : "c"(0));
  const bool ymm = (xcr0 & 0x6u) == 0x6u, zmm = (xcr0 & 0xe6u) == 0xe6u;
  const bool tmm = (xcr0 & 0x60000u) == 0x60000u;
  if (!ymm || !__get_cpuid_count(7, 0, &eax, &ebx, &ecx, &edx)) return found;
  found.fma = fma;
  found.f16c = f16c;
  found.avx2 = ebx & 1u << 5;
  if (!zmm) return found;
  found.avx512f = ebx & 1u << 16;
  found.avx512dq = ebx & 1u << 17;
  found.avx512bw = ebx & 1u << 30;
  found.avx512vl = ebx & 1u << 31;
  found.avx512_vnni = ecx & 1u << 11;
  const bool amx_tile = edx & 1u << 24, amx_int8 = edx & 1u << 25;
  found.amx_int8 = tmm && amx_tile && amx_int8;
  if (eax >= 1 && __get_cpuid_count(7, 1, &eax, &ebx, &ecx, &edx))
    found.avx512_bf16 = eax & 1u << 5;
#endif
  return found;
}

// Linux saves tiles for a process that has asked for them, all its threads with it.
bool may_use_tiles() {
#if defined(FASTDIM_AVX512_AMX) && defined(__linux__) && defined(__x86_64__)
  constexpr int ask = 0x1023, tiles = 18;  // ARCH_REQ_XCOMP_PERM, the state of their data
  static const bool allowed = syscall(SYS_arch_prctl, ask, tiles) == 0;
  return allowed;
#else
  return false;
#endif
}

bool runs_here(Isa isa) {
  const CpuFeatures& cpu = cpu_features();
  const bool avx2 = cpu.avx2 && cpu.fma && cpu.f16c;
  if (isa == Isa::avx2) return avx2;
  if (isa == Isa::avx512)
    return avx2 && cpu.avx512f && cpu.avx512bw && cpu.avx512vl && cpu.avx512dq;
  return true;
}

std::string join(const std::vector<Isa>& levels) {
  std::string text;
  for (const Isa isa : levels) text += (text.empty() ? "" : ", ") + std::string(name(isa));
  return text;
}

}  // namespace

const CpuFeatures& cpu_features() {
  static const CpuFeatures features = detect();
  return features;
}

const char* name(Isa isa) {
  switch (isa) {
    case Isa::avx2:
      return "avx2";
    case Isa::avx512:
      return "avx512";
    default:
      return "scalar";
  }
}

std::vector<Isa> built_levels() {
  std::vector<Isa> levels = {Isa::scalar};
#if defined(FASTDIM_AVX2)
  levels.push_back(Isa::avx2);
#endif
#if defined(FASTDIM_AVX512)
  levels.push_back(Isa::avx512);
#endif
  return levels;
}

std::vector<Isa> supported_levels() {
  std::vector<Isa> levels;
  for (const Isa isa : built_levels())
    if (runs_here(isa)) levels.push_back(isa);
  return levels;
}

Isa resolve_isa(const std::string& requested) {
  const std::vector<Isa> levels = supported_levels();
  std::string wanted = requested;
  std::string origin = "isa";
  if (wanted.empty()) {
    const char* variable = std::getenv("FASTDIM_ISA");
    if (variable) wanted = variable;
    origin = "FASTDIM_ISA";
  }
  if (wanted.empty()) return levels.back();
  for (const Isa isa : levels)
    if (wanted == name(isa)) return isa;
  for (const Isa isa : {Isa::scalar, Isa::avx2, Isa::avx512})
    if (wanted == name(isa))
      throw std::invalid_argument(origin + "='" + wanted +
                                  "' cannot run here: this build and CPU support " + join(levels));
  throw std::invalid_argument(origin + "='" + wanted + "' is not a level: choose one of " +
                              join(levels) + ", or leave it empty for the highest");
}

Level with_amx(Isa isa) {
  const char* variable = std::getenv("FASTDIM_AMX");
  const std::string wanted = variable ? variable : "";
  if (wanted != "" && wanted != "0" && wanted != "1")
    throw std::invalid_argument("FASTDIM_AMX='" + wanted +
                                "' is neither 0 nor 1: leave it empty for AMX where it is");
  const bool amx =
      wanted != "0" && isa == Isa::avx512 && cpu_features().amx_int8 && may_use_tiles();
  if (wanted == "1" && !amx)
    throw std::invalid_argument("FASTDIM_AMX='1' cannot be met: level " + std::string(name(isa)) +
                                ", this processor, system or build has no AMX; leave it empty for "
                                "AMX where it is");
  return {isa, amx};
}

const Kernels& kernels(Isa isa) {
  return at_level(isa, scalar_kernels, FASTDIM_IF_AVX2(avx2_kernels),
                  FASTDIM_IF_AVX512(avx512_kernels));
}

}  // namespace fastdim
