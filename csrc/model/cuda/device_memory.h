// Memory that kernels see and the stream they run on: a GPU's under nvcc, the host's under the
// emulation, where a launch returns when it is done and a stream is nothing.
//
// Under the emulation new memory is filled with NaN bits: what nobody wrote shows where it is used.
#pragma once

#include <unistd.h>

#include <cstddef>
#include <cstring>
#include <string>
#include <utility>
#include <vector>

#include "kernels/cuda/launch.h"
#include "model/cuda/sizes.h"

namespace tgv::model {

inline constexpr size_t kDeviceAlign = 256;  // of every tensor: a multiple of what any kernel asks
inline constexpr size_t device_aligned(size_t bytes) {
  return (bytes + kDeviceAlign - 1) / kDeviceAlign * kDeviceAlign;
}

// --- the stream ---------------------------------------------------------------------------------
class DeviceStream {
 public:
#if defined(__CUDACC__)
  DeviceStream() {
    cuda::check(cudaStreamCreateWithFlags(&stream_, cudaStreamNonBlocking), "creating a stream");
  }
  ~DeviceStream() { (void)cudaStreamDestroy(stream_); }
  cuda::Stream get() const { return stream_; }
#else
  DeviceStream() = default;
  cuda::Stream get() const { return &stream_; }
#endif
  DeviceStream(const DeviceStream&) = delete;
  DeviceStream& operator=(const DeviceStream&) = delete;

  // For kernels on this stream.
  cuda::Launch launch() const {
    cuda::Launch out;
    out.stream = get();
    out.state = &state_;
    out.dependent = starts_early_;
    return out;
  }
  // Kernels of launch() may start before the one before them is over.
  void allow_early_starts(bool allowed) { starts_early_ = allowed; }
  cuda::LaunchState& state() const { return state_; }

  // Read by the thread that runs steps.
  StreamCounts counts() const {
    StreamCounts out = counts_;
    out.launches = state_.launches;
    return out;
  }
  void count_upload() const { ++counts_.uploads; }
  void count_graph() const { ++counts_.graphs; }
  void count_download(size_t bytes) const {
    ++counts_.downloads;
    counts_.downloaded_bytes += static_cast<int64_t>(bytes);
  }

  // Until everything asked for has been done; throws SystemError if any of it failed.
  void wait() const {
#if defined(__CUDACC__)
    cuda::check(cudaStreamSynchronize(stream_), "a kernel or a copy");
#else
    stream_.refuse_if_capturing("a wait");
#endif
  }

 private:
  mutable StreamCounts counts_;
  mutable cuda::LaunchState state_;
  bool starts_early_ = false;
#if defined(__CUDACC__)
  cudaStream_t stream_ = nullptr;
#else
  mutable simt::Stream stream_;
#endif
};

// --- blocks of memory ---------------------------------------------------------------------------
enum class MemoryPlace { kDevice, kPinned };  // kPinned: the host's, from where copies do not wait

// What the current device has. Under the emulation all the host's memory counts as free.
struct DeviceMemoryInfo {
  size_t free_bytes = 0, total_bytes = 0;
};

inline DeviceMemoryInfo device_memory_info() {
  DeviceMemoryInfo out;
#if defined(__CUDACC__)
  cuda::check(cudaMemGetInfo(&out.free_bytes, &out.total_bytes), "cudaMemGetInfo");
#else
  out.total_bytes =
      static_cast<size_t>(sysconf(_SC_PHYS_PAGES)) * static_cast<size_t>(sysconf(_SC_PAGESIZE));
  out.free_bytes = out.total_bytes;
#endif
  return out;
}

// An owned block, aligned to kDeviceAlign. Where there is no room for it, throws CapacityError
// naming what it was for and the bytes; SystemError for any other failure.
template <MemoryPlace kPlace>
class MemoryBlock {
 public:
  MemoryBlock(size_t bytes, const char* what) : bytes_(bytes) {
#if defined(__CUDACC__)
    const cudaError_t status =
        kPlace == MemoryPlace::kDevice ? cudaMalloc(&data_, bytes) : cudaMallocHost(&data_, bytes);
    if (status != cudaSuccess) {
      (void)cudaGetLastError();  // clear it, so that the next launch does not report it
      const std::string message = concat("cannot have ", bytes, " bytes of ",
                                         kPlace == MemoryPlace::kDevice ? "GPU" : "pinned",
                                         " memory for ", what, ": ", cudaGetErrorString(status));
      if (status == cudaErrorMemoryAllocation) throw CapacityError(message);
      throw SystemError(message);
    }
#else
    try {
      host_.assign(bytes + kDeviceAlign, 0xff);
    } catch (const std::exception&) {
      throw CapacityError(concat("cannot have ", bytes, " bytes of memory for ", what));
    }
    const auto address = reinterpret_cast<uintptr_t>(host_.data());
    data_ = host_.data() + (kDeviceAlign - address % kDeviceAlign) % kDeviceAlign;
#endif
  }
  ~MemoryBlock() {
#if defined(__CUDACC__)
    (void)(kPlace == MemoryPlace::kDevice ? cudaFree(data_) : cudaFreeHost(data_));
#endif
  }
  MemoryBlock(const MemoryBlock&) = delete;
  MemoryBlock& operator=(const MemoryBlock&) = delete;

  uint8_t* data() const { return static_cast<uint8_t*>(data_); }
  size_t bytes() const { return bytes_; }

 private:
  size_t bytes_;
  void* data_ = nullptr;
#if !defined(__CUDACC__)
  std::vector<uint8_t> host_;
#endif
};

using DeviceMemory = MemoryBlock<MemoryPlace::kDevice>;
using PinnedMemory = MemoryBlock<MemoryPlace::kPinned>;

// --- copies, in the order of the stream ---------------------------------------------------------
// From host memory that nobody changes before the stream has come past; `to` in device memory.
inline void upload(void* to, const void* from, size_t bytes, const DeviceStream& stream) {
  stream.count_upload();
#if defined(__CUDACC__)
  cuda::check(cudaMemcpyAsync(to, from, bytes, cudaMemcpyHostToDevice, stream.get()), "an upload");
#else
  stream.get()->refuse_if_capturing("an upload");
  std::memcpy(to, from, bytes);
#endif
}

// The bytes are there when the stream has been waited for; `to` in pinned memory, or the call
// itself may wait.
inline void start_download(void* to, const void* from, size_t bytes, const DeviceStream& stream) {
  stream.count_download(bytes);
#if defined(__CUDACC__)
  cuda::check(cudaMemcpyAsync(to, from, bytes, cudaMemcpyDeviceToHost, stream.get()), "a download");
#else
  stream.get()->refuse_if_capturing("a download");
  std::memcpy(to, from, bytes);
#endif
}

// Returns when the bytes are there.
inline void download(void* to, const void* from, size_t bytes, const DeviceStream& stream) {
  start_download(to, from, bytes, stream);
  stream.wait();
}

inline void zero(void* data, size_t bytes, const DeviceStream& stream) {
#if defined(__CUDACC__)
  cuda::check(cudaMemsetAsync(data, 0, bytes, stream.get()), "clearing memory");
#else
  stream.get()->refuse_if_capturing("clearing memory");
  std::memset(data, 0, bytes);
#endif
}

// Hands out aligned parts of a block whose size a first pass, over a null base, finds.
class DeviceCarver {
 public:
  explicit DeviceCarver(uint8_t* base) : base_(base) {}
  template <class T>
  void take(T*& out, size_t bytes) {
    out = base_ ? reinterpret_cast<T*>(base_ + used_) : nullptr;
    used_ += device_aligned(bytes);
  }
  size_t used() const { return used_; }

 private:
  uint8_t* base_;
  size_t used_ = 0;
};

}  // namespace tgv::model
