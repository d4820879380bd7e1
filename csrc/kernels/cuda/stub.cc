// Linked when the build has no CUDA: everything says so, nothing is #ifdef'ed elsewhere.
#include "base/errors.h"
#include "kernels/cuda/api.h"

namespace tgv::cuda {

namespace {
constexpr const char* kWhyNot =
    "built without CUDA; rebuild with the CMake option TINYGPTV_CUDA=native to use a GPU";
}

bool built() { return false; }

const char* why_not() { return kWhyNot; }

int device_count() { throw Unsupported(kWhyNot); }

DeviceInfo device_info(int) { throw Unsupported(kWhyNot); }

void* function(const char*) { throw Unsupported(kWhyNot); }

}  // namespace tgv::cuda
