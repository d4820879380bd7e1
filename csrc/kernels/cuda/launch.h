// What a launch is told beside its parameters, and CUDA calls that must succeed. Host code only;
// the launches are launch.cuh.
#pragma once

#include <cstdint>

#include "base/errors.h"
#include "kernels/cuda/device/platform.cuh"

namespace tgv::cuda {

struct Launch {
  int blocks = 1;  // at most; a kernel never needs more than it has work items
  int64_t shared_bytes_per_block = 49152;  // what the device lets a block have
#if defined(__CUDACC__)
  cudaStream_t stream = nullptr;
#endif
};

#if defined(__CUDACC__)
inline void check(cudaError_t status, const char* what) {
  if (status != cudaSuccess)
    throw SystemError(concat(what, " failed: ", cudaGetErrorString(status)));
}
#endif

}  // namespace tgv::cuda
