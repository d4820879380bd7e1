// What the rest of the core may ask of CUDA. Two implementations, one linked: stub.cc ("built
// without CUDA") and loader.cc, which opens the CUDA library beside this module on first use.
#pragma once

#include <cstdint>
#include <string>

namespace tgv::cuda {

struct DeviceInfo {
  std::string name;
  int compute_major = 0;
  int compute_minor = 0;
  int multiprocessors = 0;
  int64_t memory_bytes = 0;
  int64_t l2_bytes = 0;
};

// This build has a CUDA library (TINYGPTV_CUDA=native|all).
bool built();

// Null when at least one device can be used; otherwise a sentence that says why none can.
const char* why_not();

inline bool available() { return why_not() == nullptr; }

// The functions below throw Unsupported, quoting why_not(), when no device can be used.
int device_count();
DeviceInfo device_info(int index);  // InvalidArgument unless 0 <= index < device_count()

// A function that levels above this one have in the CUDA library, by the name it is exported under.
// SystemError if this library has none such.
void* function(const char* name);

}  // namespace tgv::cuda
