// Copies from global into shared memory that run while the thread computes.
//
// cp.async: each thread copies, commits groups and waits for its own; other threads see the bytes
// after a further
// __syncthreads. Bulk copies (sm_90): one thread copies kilobytes and an mbarrier tells all when
// they have landed.
#pragma once

#include "kernels/cuda/device/platform.cuh"

namespace tgv::cuda {

// 16 bytes, both addresses 16-byte aligned; only the first `bytes` (0..16) are read, the rest
// becomes zero.
__device__ __forceinline__ void copy_async_16(void* shared, const void* global, int bytes = 16) {
#if defined(__CUDACC__)
  const uint32_t address = static_cast<uint32_t>(__cvta_generic_to_shared(shared));
  asm volatile("cp.async.cg.shared.global.L2::128B [%0], [%1], 16, %2;" ::"r"(address), "l"(global),
               "r"(bytes)
               : "memory");
#else
  simt::copy_async(shared, global, static_cast<size_t>(bytes), 16);
#endif
}

__device__ __forceinline__ void commit_copies() {
#if defined(__CUDACC__)
  asm volatile("cp.async.commit_group;" ::: "memory");
#else
  simt::commit_copies();
#endif
}

// All but the newest kPending committed groups of this thread have landed.
template <int kPending>
__device__ __forceinline__ void wait_copies() {
#if defined(__CUDACC__)
  asm volatile("cp.async.wait_group %0;" ::"n"(kPending) : "memory");
#else
  simt::wait_copies(kPending);
#endif
}

#if !defined(__CUDACC__) || !defined(__CUDA_ARCH__) || __CUDA_ARCH__ >= 900

// `barrier` is 8 bytes in shared memory. Init by one thread, then a __syncthreads before anybody
// else uses it.
__device__ __forceinline__ void mbarrier_init(uint64_t* barrier, unsigned arrivals) {
#if defined(__CUDACC__)
  const uint32_t address = static_cast<uint32_t>(__cvta_generic_to_shared(barrier));
  asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(address), "r"(arrivals) : "memory");
  asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
#else
  simt::mbarrier_init(barrier, arrivals);
#endif
}

__device__ __forceinline__ void mbarrier_arrive_expect(uint64_t* barrier, unsigned bytes) {
#if defined(__CUDACC__)
  const uint32_t address = static_cast<uint32_t>(__cvta_generic_to_shared(barrier));
  asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(address), "r"(bytes)
               : "memory");
#else
  simt::mbarrier_arrive_expect(barrier, bytes);
#endif
}

// Addresses 16-byte aligned, bytes a multiple of 16.
__device__ __forceinline__ void bulk_copy(void* shared, const void* global, unsigned bytes,
                                          uint64_t* barrier) {
#if defined(__CUDACC__)
  const uint32_t to = static_cast<uint32_t>(__cvta_generic_to_shared(shared));
  const uint32_t tell = static_cast<uint32_t>(__cvta_generic_to_shared(barrier));
  asm volatile(
      "cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1], %2, [%3];" ::
          "r"(to),
      "l"(global), "r"(bytes), "r"(tell)
      : "memory");
#else
  simt::bulk_copy(shared, global, bytes, barrier);
#endif
}

// Returns when the phase with this parity (0 for the first, then 1, 0, ...) has completed.
__device__ __forceinline__ void mbarrier_wait(uint64_t* barrier, unsigned parity) {
#if defined(__CUDACC__)
  const uint32_t address = static_cast<uint32_t>(__cvta_generic_to_shared(barrier));
  uint32_t done = 0;
  while (!done) {
    asm volatile(
        "{\n.reg .pred p;\n"
        "mbarrier.try_wait.parity.shared::cta.b64 p, [%1], %2;\n"
        "selp.b32 %0, 1, 0, p;\n}"
        : "=r"(done)
        : "r"(address), "r"(parity)
        : "memory");
  }
#else
  simt::mbarrier_wait(barrier, parity);
#endif
}

#endif

}  // namespace tgv::cuda
