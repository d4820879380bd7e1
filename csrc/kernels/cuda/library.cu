// The CUDA library's entry: the table of library.h over the CUDA runtime.
#include <cuda_runtime.h>

#include <cstdio>
#include <cstring>

#include "kernels/cuda/library.h"

namespace {

int32_t check(cudaError_t status, const char* call, char* error, int64_t error_bytes) {
  if (status == cudaSuccess) return 0;
  std::snprintf(error, static_cast<size_t>(error_bytes), "%s failed: %s", call,
                cudaGetErrorString(status));
  (void)cudaGetLastError();  // clear it, so that the next call does not report this one's error
  return static_cast<int32_t>(status);
}

int32_t device_count(int32_t* count, char* error, int64_t error_bytes) {
  int n = 0;
  const int32_t status = check(cudaGetDeviceCount(&n), "cudaGetDeviceCount", error, error_bytes);
  *count = status == 0 ? n : 0;
  return status;
}

int32_t device(TgvCudaDevice* out, int32_t index, char* error, int64_t error_bytes) {
  cudaDeviceProp properties;
  const int32_t status = check(cudaGetDeviceProperties(&properties, index),
                               "cudaGetDeviceProperties", error, error_bytes);
  if (status != 0) return status;
  std::snprintf(out->name, sizeof out->name, "%s", properties.name);
  out->compute_major = properties.major;
  out->compute_minor = properties.minor;
  out->multiprocessors = properties.multiProcessorCount;
  out->memory_bytes = static_cast<int64_t>(properties.totalGlobalMem);
  out->l2_bytes = properties.l2CacheSize;
  return 0;
}

const TgvCudaLibrary kLibrary = {TGV_CUDA_LIBRARY_VERSION, device_count, device};

}  // namespace

extern "C" __attribute__((visibility("default"))) const TgvCudaLibrary* tgv_cuda_library() {
  return &kLibrary;
}
