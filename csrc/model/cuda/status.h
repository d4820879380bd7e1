// How a function of the CUDA library says that it failed: no exception crosses its border.
//
// C++17: nvcc reads it.
#pragma once

#include <cstdint>

namespace tgv::model {

// Which exception it was. kNone: the call did what it says.
enum class CudaStatus : int32_t {
  kNone,
  kInvalidArgument,
  kUnsupported,
  kCapacity,
  kSystem,
  kOther
};

struct CudaError {
  char message[1024];  // always terminated; not written by a call that succeeds
};

}  // namespace tgv::model
