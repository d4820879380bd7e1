#include "model/memory.h"

#include <sys/mman.h>

#include <cerrno>
#include <cstring>
#include <utility>

#include "base/errors.h"

namespace tgv::model {

Memory::Memory(size_t bytes)
    : own_(std::make_unique<HugeBuffer>(bytes)), data_(own_->data()), bytes_(bytes) {}

Memory::Memory(int descriptor, size_t offset, size_t bytes) : bytes_(bytes) {
  void* mapping =
      mmap(nullptr, bytes, PROT_READ, MAP_SHARED, descriptor, static_cast<off_t>(offset));
  if (mapping == MAP_FAILED) {
    throw SystemError(concat("cannot map ", bytes, " bytes of a file: ", std::strerror(errno)));
  }
  data_ = static_cast<const uint8_t*>(mapping);
}

Memory::Memory(Memory&& other) noexcept
    : own_(std::move(other.own_)),
      data_(std::exchange(other.data_, nullptr)),
      bytes_(std::exchange(other.bytes_, 0)) {}

Memory::~Memory() {
  if (data_ && !own_) munmap(const_cast<uint8_t*>(data_), bytes_);
}

}  // namespace tgv::model
