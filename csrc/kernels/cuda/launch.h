// What a launch is told beside its parameters, and CUDA calls that must succeed. Host code only;
// the launches are launch.cuh.
#pragma once

#include <cstdint>

#include "base/errors.h"
#include "kernels/cuda/device/platform.cuh"

namespace tgv::cuda {

#if defined(__CUDACC__)
using Stream = cudaStream_t;  // null: the default stream
#else
using Stream = simt::Stream*;  // null: every launch runs at once
#endif

// What launches do to a stream, beside what they put on it.
struct LaunchState {
  int64_t launches = 0;     // so far, those that were captured included
  bool only_loads = false;  // a kernel is loaded and allowed its shared memory, and not launched
};

struct Launch {
  int blocks = 1;  // at most; a kernel never needs more than it has work items
  int64_t shared_bytes_per_block = 49152;  // what the device lets a block have
  Stream stream = nullptr;
  LaunchState* state = nullptr;  // may be null
  bool dependent = false;        // it may start early, see device/dependent.cuh
};

#if defined(__CUDACC__)
inline void check(cudaError_t status, const char* what) {
  if (status != cudaSuccess)
    throw SystemError(concat(what, " failed: ", cudaGetErrorString(status)));
}
#endif

}  // namespace tgv::cuda
