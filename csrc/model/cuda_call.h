// The host's side of the CUDA library's border: a status becomes an exception again.
#pragma once

#include "base/errors.h"
#include "model/cuda/status.h"

namespace tgv::model {

// Calls `function` of a table and throws what it threw on the other side.
template <class... Parameters, class... Arguments>
void call(CudaStatus (*function)(Parameters...), Arguments... arguments) {
  CudaError error;
  error.message[0] = 0;
  switch (function(arguments..., &error)) {
    case CudaStatus::kNone:
      return;
    case CudaStatus::kInvalidArgument:
      throw InvalidArgument(error.message);
    case CudaStatus::kUnsupported:
      throw Unsupported(error.message);
    case CudaStatus::kCapacity:
      throw CapacityError(error.message);
    case CudaStatus::kSystem:
      throw SystemError(error.message);
    case CudaStatus::kOther:
      break;
  }
  throw Error(error.message);
}

}  // namespace tgv::model
