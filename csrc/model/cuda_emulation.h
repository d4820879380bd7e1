// The CUDA library compiled for the host (csrc/tests makes it): for tests of what is above it, on
// machines without a GPU. Opened by its path alone; no build of the package holds one.
#pragma once

#include <string>

#include "model/cuda/table.h"

namespace tgv::model {

// The table of the emulation at `path`, which stays open. Throws SystemError where there is none or
// it is of another version, InvalidArgument if it is no emulation.
const CudaTable& emulated_cuda_table(const std::string& path);

// That one, or for an empty path the CUDA library's; throws as cuda_table does.
const CudaTable& cuda_table_of(const std::string& emulation);

}  // namespace tgv::model
