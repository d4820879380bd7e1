#include "model/cuda_emulation.h"

#include <dlfcn.h>

#include "base/errors.h"
#include "model/cuda_backend.h"

namespace tgv::model {

const CudaTable& emulated_cuda_table(const std::string& path) {
  using Entry = const CudaTable* (*)();
  // By its path, never by a name that the system would look for.
  const std::string file = path.find('/') == std::string::npos ? "./" + path : path;
  void* const handle = dlopen(file.c_str(), RTLD_NOW | RTLD_LOCAL);
  if (!handle) throw SystemError(concat("the emulation cannot be loaded: ", dlerror()));
  const auto entry = reinterpret_cast<Entry>(dlsym(handle, kCudaTableEntry));
  const CudaTable* const table = entry ? entry() : nullptr;
  if (!table || table->version != kCudaTableVersion) {
    throw SystemError(concat(path, " is of another version of this package; build it again"));
  }
  if (!table->is_emulated) throw InvalidArgument(concat(path, " is no emulation"));
  return *table;
}

const CudaTable& cuda_table_of(const std::string& emulation) {
  return emulation.empty() ? cuda_table() : emulated_cuda_table(emulation);
}

}  // namespace tgv::model
