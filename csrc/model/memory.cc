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

void Memory::leave_in_file(size_t offset, size_t bytes, int descriptor, size_t file_offset) {
  constexpr size_t kPage = 4096;
  const size_t first = (offset + kPage - 1) / kPage * kPage, end = (offset + bytes) / kPage * kPage;
  if (first >= end) return;
  void* const mapping = mmap(own_->data() + first, end - first, PROT_READ, MAP_PRIVATE | MAP_FIXED,
                             descriptor, static_cast<off_t>(file_offset + first));
  if (mapping == MAP_FAILED) {
    throw SystemError(concat("cannot map ", bytes, " bytes of a file: ", std::strerror(errno)));
  }
  (void)madvise(mapping, end - first, MADV_RANDOM);  // a hint: rows are read one by one
}

Memory::Memory(Memory&& other) noexcept
    : own_(std::move(other.own_)),
      data_(std::exchange(other.data_, nullptr)),
      bytes_(std::exchange(other.bytes_, 0)) {}

Memory::~Memory() {
  if (data_ && !own_) munmap(const_cast<uint8_t*>(data_), bytes_);
}

}  // namespace tgv::model
