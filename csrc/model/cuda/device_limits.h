// The limits of the current device.
#pragma once

#include "kernels/cuda/launch.h"
#include "model/cuda/sizes.h"

namespace tgv::model {

// Throws SystemError.
inline DeviceLimits device_limits() {
  DeviceLimits out;
#if defined(__CUDACC__)
  int device = 0;
  cuda::check(cudaGetDevice(&device), "cudaGetDevice");
  const auto ask = [&](cudaDeviceAttr what) {
    int value = 0;
    cuda::check(cudaDeviceGetAttribute(&value, what, device), "cudaDeviceGetAttribute");
    return value;
  };
  out.multiprocessors = ask(cudaDevAttrMultiProcessorCount);
  out.shared_bytes_per_block = ask(cudaDevAttrMaxSharedMemoryPerBlockOptin);
  out.can_start_early = ask(cudaDevAttrComputeCapabilityMajor) >= 9;
#endif
  return out;
}

}  // namespace tgv::model
