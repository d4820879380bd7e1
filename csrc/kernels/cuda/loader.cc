// Opens the CUDA library beside the file this code is linked into, on first use, once.
#include <dlfcn.h>

#include <string>

#include "base/errors.h"
#include "kernels/cuda/api.h"
#include "kernels/cuda/library.h"

namespace tgv::cuda {

namespace {

struct Loaded {
  void* handle = nullptr;  // never closed: kernels and contexts outlive any of ours
  const TgvCudaLibrary* library = nullptr;
  int count = 0;
  std::string why_not;  // empty when a device can be used
};

std::string folder_of_this_module() {
  Dl_info info;
  if (!dladdr(reinterpret_cast<const void*>(&folder_of_this_module), &info) || !info.dli_fname) {
    return ".";
  }
  const std::string file = info.dli_fname;
  const size_t slash = file.rfind('/');
  return slash == std::string::npos ? "." : file.substr(0, slash);
}

Loaded load() {
  Loaded loaded;
  const std::string path = folder_of_this_module() + "/libtinygptv_cuda.so";
  loaded.handle = dlopen(path.c_str(), RTLD_NOW | RTLD_LOCAL);
  if (!loaded.handle) {
    loaded.why_not = concat("the CUDA library cannot be loaded: ", dlerror());
    return loaded;
  }
  const auto entry = reinterpret_cast<TgvCudaEntry>(dlsym(loaded.handle, TGV_CUDA_ENTRY_NAME));
  if (!entry || entry()->version != TGV_CUDA_LIBRARY_VERSION) {
    loaded.why_not = concat(path, " is of another version of this package; reinstall it");
    return loaded;
  }
  char error[512] = "";
  int32_t count = 0;
  if (entry()->device_count(&count, error, sizeof error) != 0) {
    loaded.why_not = concat("no usable CUDA device: ", error);
  } else if (count == 0) {
    loaded.why_not = "no CUDA device on this machine";
  }
  loaded.library = entry();
  loaded.count = count;
  return loaded;
}

const Loaded& loaded() {
  static const Loaded once = load();
  return once;
}

const Loaded& usable() {
  if (!loaded().why_not.empty()) throw Unsupported(loaded().why_not);
  return loaded();
}

}  // namespace

bool built() { return true; }

const char* why_not() { return loaded().why_not.empty() ? nullptr : loaded().why_not.c_str(); }

int device_count() { return usable().count; }

DeviceInfo device_info(int index) {
  const Loaded& cuda = usable();
  if (index < 0 || index >= cuda.count) {
    throw InvalidArgument(concat("device is ", index, ", expected 0..", cuda.count - 1));
  }
  TgvCudaDevice device;
  char error[512] = "";
  if (cuda.library->device(&device, index, error, sizeof error) != 0) throw SystemError(error);
  return {device.name,         device.compute_major, device.compute_minor, device.multiprocessors,
          device.memory_bytes, device.l2_bytes};
}

void* function(const char* name) {
  void* const found = dlsym(usable().handle, name);
  if (!found) throw SystemError(concat("the CUDA library has no '", name, "'; reinstall it"));
  return found;
}

}  // namespace tgv::cuda
