// Words that blocks share: scoped atomics, and a barrier over the whole grid made of them.
#pragma once

#include "kernels/cuda/device/platform.cuh"

namespace tgv::cuda {

// Adds, after everything this thread wrote before has become visible to the GPU.
__device__ __forceinline__ void add_release(unsigned* word, unsigned value) {
#if defined(__CUDACC__)
  asm volatile("red.release.gpu.global.add.u32 [%0], %1;" ::"l"(word), "r"(value) : "memory");
#else
  __atomic_fetch_add(word, value, __ATOMIC_RELEASE);
#endif
}

// Reads; what the writer did before its release is visible afterwards (through plain loads, not
// through ld.global.nc).
__device__ __forceinline__ unsigned load_acquire(const unsigned* word) {
#if defined(__CUDACC__)
  unsigned value;
  asm volatile("ld.acquire.gpu.global.u32 %0, [%1];" : "=r"(value) : "l"(word) : "memory");
  return value;
#else
  return __atomic_load_n(word, __ATOMIC_ACQUIRE);
#endif
}

// Adds and returns what was there: release and acquire in one. Who finds the others' additions
// done may read what they wrote before them.
__device__ __forceinline__ unsigned add_acquire_release(unsigned* word, unsigned value) {
#if defined(__CUDACC__)
  unsigned before;
  asm volatile("atom.acq_rel.gpu.global.add.u32 %0, [%1], %2;"
               : "=r"(before)
               : "l"(word), "r"(value)
               : "memory");
  return before;
#else
  return __atomic_fetch_add(word, value, __ATOMIC_ACQ_REL);
#endif
}

// All threads of all blocks; the launch must be cooperative. `counter` starts at 0 and only grows:
// the n-th barrier of a launch (n from 1) waits for n * blocks.
__device__ __forceinline__ void grid_barrier(unsigned* counter, unsigned n) {
  __syncthreads();
  if (threadIdx.x == 0) {
    add_release(counter, 1);
    const unsigned target = n * gridDim.x;
    while (load_acquire(counter) < target) TGV_SPIN();
  }
  __syncthreads();
}

}  // namespace tgv::cuda
