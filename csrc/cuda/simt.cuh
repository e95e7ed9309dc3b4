// What the kernels use of a GPU, behind thin wrappers: compiled by nvcc they are the real thing,
// with FASTDIM_SIMT defined they are those of an emulator on the CPU, which runs these sources in
// the tests (tests/simt/emulator.h gives the same names, with the same meaning).
#pragma once

#include <cstdint>

#ifdef FASTDIM_SIMT
#include "emulator.h"
#else

#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime.h>

#include <stdexcept>
#include <string>

namespace fastdim::simt {

using Stream = cudaStream_t;

inline void check(cudaError_t code, const char* what) {
  if (code == cudaSuccess) return;
  throw std::runtime_error(std::string(what) + ": " + cudaGetErrorString(code));
}

#ifdef __CUDACC__

// Registers without a first value; the emulator fills them with NaN.
template <class T, int count>
struct Registers {
  T value[count];
  __device__ __forceinline__ T& operator[](int i) { return value[i]; }
  __device__ __forceinline__ const T& operator[](int i) const { return value[i]; }
};

// The block's shared memory: its size is given at launch.
__device__ __forceinline__ unsigned char* shared() {
  extern __shared__ __align__(128) unsigned char block_memory[];
  return block_memory;
}

// All threads of the block, or all 32 lanes of the warp, must reach each of these.
__device__ __forceinline__ void sync() { __syncthreads(); }
__device__ __forceinline__ bool sync_or(bool value) { return __syncthreads_or(value) != 0; }
__device__ __forceinline__ void sync_warp() { __syncwarp(); }
__device__ __forceinline__ unsigned ballot(bool value) { return __ballot_sync(~0u, value); }
template <class T>
__device__ __forceinline__ T shuffle_xor(T value, int mask) {
  return __shfl_xor_sync(~0u, value, mask);
}
template <class T>
__device__ __forceinline__ T shuffle(T value, int lane) {
  return __shfl_sync(~0u, value, lane);
}

__device__ __forceinline__ int atomic_add(int* at, int value) { return atomicAdd(at, value); }
__device__ __forceinline__ unsigned atomic_add(unsigned* at, unsigned value) {
  return atomicAdd(at, value);
}
__device__ __forceinline__ unsigned long long atomic_add(unsigned long long* at,
                                                         unsigned long long value) {
  return atomicAdd(at, value);
}
__device__ __forceinline__ unsigned long long atomic_max(unsigned long long* at,
                                                         unsigned long long value) {
  return atomicMax(at, value);
}
// What other blocks may be changing, as it stands now: never a value kept from before.
__device__ __forceinline__ unsigned long long latest(const unsigned long long* at) {
  return *const_cast<const volatile unsigned long long*>(at);
}
__device__ __forceinline__ void atomic_min(unsigned long long* at, unsigned long long value) {
  atomicMin(at, value);
}

// 16 bytes from global to shared memory, in the background: readable after commit, wait and a
// barrier. wait<left> returns when all but the last `left` groups of this thread have arrived.
__device__ __forceinline__ void copy16(void* to, const void* from) {
  const unsigned address = static_cast<unsigned>(__cvta_generic_to_shared(to));
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" ::"r"(address), "l"(from) : "memory");
}
__device__ __forceinline__ void commit() { asm volatile("cp.async.commit_group;" ::: "memory"); }
template <int left>
__device__ __forceinline__ void wait() {
  asm volatile("cp.async.wait_group %0;" ::"n"(left) : "memory");
}

// ldmatrix.x4: lane l names 16 bytes, row l % 8 of the 8 x 8 matrix l / 8 of 16-bit elements; it
// receives elements 2 (l % 4), 2 (l % 4) + 1 of row l / 4 of each of the four matrices.
__device__ __forceinline__ void load_matrices(std::uint32_t* out, const void* row) {
  const unsigned address = static_cast<unsigned>(__cvta_generic_to_shared(row));
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(out[0]), "=r"(out[1]), "=r"(out[2]), "=r"(out[3])
               : "r"(address)
               : "memory");
}

// c (16 x 8, float32) += a (16 x 16) b (16 x 8), 16-bit elements. With g = lane / 4, t = lane % 4:
// c[0..3] = C(g, 2t), C(g, 2t + 1), C(g + 8, 2t), C(g + 8, 2t + 1); a[0..3] = A(g, 2t..),
// A(g + 8, 2t..), A(g, 2t + 8..), A(g + 8, 2t + 8..); b[0..1] = B(2t.., g), B(2t + 8.., g).
template <bool bfloat>
__device__ __forceinline__ void mma(float* c, const std::uint32_t* a, const std::uint32_t* b) {
  if constexpr (bfloat) {
    asm volatile(
        "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 "
        "{%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
        : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
  } else {
    asm volatile(
        "mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 "
        "{%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
        : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
  }
}

// c (8 x 8) += a (8 x 4) b (4 x 8) in float64. With g = lane / 4, t = lane % 4: c[0..1] = C(g, 2t),
// C(g, 2t + 1); a = A(g, t); b = B(t, g).
__device__ __forceinline__ void mma_double(double* c, double a, double b) {
  asm volatile("mma.sync.aligned.m8n8k4.row.col.f64.f64.f64.f64 {%0, %1}, {%2}, {%3}, {%0, %1};"
               : "+d"(c[0]), "+d"(c[1])
               : "d"(a), "d"(b));
}

__device__ __forceinline__ std::uint16_t to_half(float v) {
  return __half_as_ushort(__float2half_rn(v));
}
__device__ __forceinline__ float from_half(std::uint16_t bits) {
  return __half2float(__ushort_as_half(bits));
}
__device__ __forceinline__ std::uint16_t to_bfloat(float v) {
  return __bfloat16_as_ushort(__float2bfloat16_rn(v));
}
__device__ __forceinline__ float from_bfloat(std::uint16_t bits) {
  return __uint_as_float(static_cast<unsigned>(bits) << 16);
}
__device__ __forceinline__ float round_down(double v) { return __double2float_rd(v); }
__device__ __forceinline__ float round_up(double v) { return __double2float_ru(v); }
__device__ __forceinline__ unsigned float_bits(float v) { return __float_as_uint(v); }
__device__ __forceinline__ float float_of(unsigned v) { return __uint_as_float(v); }
__device__ __forceinline__ unsigned long long bits(double v) {
  return static_cast<unsigned long long>(__double_as_longlong(v));
}
__device__ __forceinline__ double from_bits(unsigned long long v) {
  return __longlong_as_double(static_cast<long long>(v));
}

// Errors of the launch are raised here; those of the kernel at the next synchronisation.
template <class... Parameters, class... Arguments>
void launch(void (*kernel)(Parameters...), std::int64_t blocks, int threads, int shared_bytes,
            Stream stream, Arguments... arguments) {
  if (shared_bytes > 48 * 1024) {
    check(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, shared_bytes),
          "shared memory of a kernel");
  }
  cudaLaunchConfig_t config = {};
  config.gridDim = dim3(static_cast<unsigned>(blocks));
  config.blockDim = dim3(static_cast<unsigned>(threads));
  config.dynamicSmemBytes = static_cast<std::size_t>(shared_bytes);
  config.stream = stream;
  check(cudaLaunchKernelEx(&config, kernel, static_cast<Parameters>(arguments)...),
        "launch of a kernel");
}

#endif  // __CUDACC__

inline void fill(void* at, int byte, std::int64_t bytes, Stream stream) {
  check(cudaMemsetAsync(at, byte, static_cast<std::size_t>(bytes), stream), "filling memory");
}
inline void clear(void* at, std::size_t bytes, Stream stream) {
  fill(at, 0, static_cast<std::int64_t>(bytes), stream);
}

}  // namespace fastdim::simt

#endif
