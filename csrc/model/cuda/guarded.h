// The library's side of its border: calls run on their device, and what they throw becomes a
// status.
#pragma once

#include <cstdio>
#include <exception>

#include "base/errors.h"
#include "kernels/cuda/launch.h"
#include "model/cuda/status.h"

namespace tgv::model {

// Calls come from several threads, and which device is current in each is somebody else's choice.
class OnDevice {
 public:
#if defined(__CUDACC__)
  explicit OnDevice(int device) {
    cuda::check(cudaGetDevice(&before_), "cudaGetDevice");
    cuda::check(cudaSetDevice(device), "cudaSetDevice");
  }
  ~OnDevice() { (void)cudaSetDevice(before_); }
#else
  explicit OnDevice(int device) { check_range("device", device, 0, 0); }
#endif
  OnDevice(const OnDevice&) = delete;
  OnDevice& operator=(const OnDevice&) = delete;

#if defined(__CUDACC__)
 private:
  int before_ = 0;
#endif
};

inline CudaStatus failed(CudaStatus status, const char* message, CudaError* error) noexcept {
  std::snprintf(error->message, sizeof error->message, "%s", message);
  return status;
}

template <class Body>
CudaStatus guarded(CudaError* error, int device, const Body& body) noexcept {
  try {
    [[maybe_unused]] const OnDevice there(device);
    body();
    return CudaStatus::kNone;
  } catch (const InvalidArgument& thrown) {
    return failed(CudaStatus::kInvalidArgument, thrown.what(), error);
  } catch (const Unsupported& thrown) {
    return failed(CudaStatus::kUnsupported, thrown.what(), error);
  } catch (const CapacityError& thrown) {
    return failed(CudaStatus::kCapacity, thrown.what(), error);
  } catch (const SystemError& thrown) {
    return failed(CudaStatus::kSystem, thrown.what(), error);
  } catch (const std::exception& thrown) {
    return failed(CudaStatus::kOther, thrown.what(), error);
  } catch (...) {
    return failed(CudaStatus::kOther, "an unknown error", error);
  }
}

}  // namespace tgv::model
