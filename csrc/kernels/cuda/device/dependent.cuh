// Launches that start before the one before them on the stream is over (programmatic dependent
// launch, sm_90 on; elsewhere, and where a launch is not one of these, nothing of it happens).
//
// Every kernel calls wait_for_previous() in all threads before it reads what another kernel may
// have written, or writes what another may read: weights and its own parameters are all that it
// touches earlier. The wait ends when the launches before are over and what they wrote is visible;
// as each of them waits, too, all that is further back is over as well.
#pragma once

#include "kernels/cuda/device/platform.cuh"

namespace tgv::cuda {

// And lets the next launch start, which takes what this one leaves of the multiprocessors.
__device__ __forceinline__ void wait_for_previous() {
#if defined(__CUDACC__)
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.wait;" ::: "memory");
  asm volatile("griddepcontrol.launch_dependents;" ::: "memory");
#endif
#else
  simt::wait_for_previous();
#endif
}

// Asks for the 128 bytes around `p`, which nobody writes, to come nearer. p: of the device's
// memory.
__device__ __forceinline__ void prefetch_line(const void* p) {
#if defined(__CUDACC__)
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
  asm volatile("prefetch.global.L2 [%0];" ::"l"(p));
#else
  (void)p;  // loaded in a moment anyway
#endif
#else
  (void)*static_cast<const volatile unsigned char*>(p);
#endif
}

}  // namespace tgv::cuda
