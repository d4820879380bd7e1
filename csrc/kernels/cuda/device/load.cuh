// Loads of data that is read once (weights, old keys and values): past L1, so that they evict
// nothing of use.
#pragma once

#if defined(TGV_SIMT)
#include <cstring>
#endif

#include "kernels/cuda/device/platform.cuh"

namespace tgv::cuda {

// 16 bytes; `p` 16-byte aligned and not written during the kernel.
__device__ __forceinline__ uint4 load_once_16(const void* p) {
  uint4 v;
#if defined(__CUDACC__)
  asm volatile("ld.global.nc.L1::no_allocate.L2::128B.v4.u32 {%0,%1,%2,%3}, [%4];"
               : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w)
               : "l"(p));
#else
  std::memcpy(&v, p, sizeof v);
#endif
  return v;
}

// 8 bytes, likewise.
__device__ __forceinline__ uint2 load_once_8(const void* p) {
  uint2 v;
#if defined(__CUDACC__)
  asm volatile("ld.global.nc.L1::no_allocate.L2::128B.v2.u32 {%0,%1}, [%2];"
               : "=r"(v.x), "=r"(v.y)
               : "l"(p));
#else
  std::memcpy(&v, p, sizeof v);
#endif
  return v;
}

// 4 bytes, likewise.
__device__ __forceinline__ uint32_t load_once_4(const void* p) {
  uint32_t v;
#if defined(__CUDACC__)
  asm volatile("ld.global.nc.L1::no_allocate.L2::128B.u32 %0, [%1];" : "=r"(v) : "l"(p));
#else
  std::memcpy(&v, p, sizeof v);
#endif
  return v;
}

}  // namespace tgv::cuda
