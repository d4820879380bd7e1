// Arrays in the memory that kernels see: a GPU's under nvcc, the host's under the emulation. Each
// lies between two zones of NaN bits, so that reading past an end shows in the result; writing past
// one is found by guards_intact().
#pragma once

#include <cstdint>
#include <cstring>
#include <vector>

#include "base/errors.h"

#if defined(__CUDACC__)
#include "kernels/cuda/launch.cuh"
#endif

namespace tgv::test {

template <class T>
class DeviceArray {
 public:
  static constexpr size_t kGuardBytes = 4096;

  // Filled with NaN bits: an output before anybody has written it.
  explicit DeviceArray(size_t count) : count_(count) { allocate(nullptr); }
  explicit DeviceArray(const std::vector<T>& values) : count_(values.size()) {
    allocate(values.data());
  }
  ~DeviceArray() {
#if defined(__CUDACC__)
    cudaFree(memory_);
#endif
  }
  DeviceArray(const DeviceArray&) = delete;
  DeviceArray& operator=(const DeviceArray&) = delete;

  T* data() { return reinterpret_cast<T*>(memory_ + kGuardBytes); }

  std::vector<T> download() {
    const std::vector<uint8_t> bytes = all_bytes();
    std::vector<T> values(count_);
    if (count_) std::memcpy(values.data(), bytes.data() + kGuardBytes, count_ * sizeof(T));
    return values;
  }

  bool guards_intact() {
    const std::vector<uint8_t> bytes = all_bytes();
    for (size_t i = 0; i < bytes.size(); ++i) {
      const bool inside = i >= kGuardBytes && i < kGuardBytes + count_ * sizeof(T);
      if (!inside && bytes[i] != 0xff) return false;
    }
    return true;
  }

 private:
  void allocate(const T* values) {
    std::vector<uint8_t> bytes(count_ * sizeof(T) + 2 * kGuardBytes, 0xff);
    if (values) std::memcpy(bytes.data() + kGuardBytes, values, count_ * sizeof(T));
#if defined(__CUDACC__)
    cuda::check(cudaMalloc(&memory_, bytes.size()), "cudaMalloc");
    cuda::check(cudaMemcpy(memory_, bytes.data(), bytes.size(), cudaMemcpyHostToDevice),
                "cudaMemcpy");
#else
    host_.resize(bytes.size() + 64);
    memory_ = host_.data() + (64 - reinterpret_cast<uintptr_t>(host_.data()) % 64) % 64;
    std::memcpy(memory_, bytes.data(), bytes.size());
#endif
  }

  std::vector<uint8_t> all_bytes() {
    std::vector<uint8_t> bytes(count_ * sizeof(T) + 2 * kGuardBytes);
#if defined(__CUDACC__)
    cuda::check(cudaDeviceSynchronize(), "a kernel");
    cuda::check(cudaMemcpy(bytes.data(), memory_, bytes.size(), cudaMemcpyDeviceToHost),
                "cudaMemcpy");
#else
    std::memcpy(bytes.data(), memory_, bytes.size());
#endif
    return bytes;
  }

  size_t count_;
  uint8_t* memory_ = nullptr;
#if !defined(__CUDACC__)
  std::vector<uint8_t> host_;
#endif
};

}  // namespace tgv::test
