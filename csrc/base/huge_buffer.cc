#include "base/huge_buffer.h"

#include <sys/mman.h>

#include <cerrno>
#include <cstring>

#include "base/errors.h"

namespace tgv {

namespace {
constexpr size_t kHugePage = size_t{2} << 20;
}

HugeBuffer::HugeBuffer(size_t bytes) : mapping_bytes_(bytes + kHugePage), bytes_(bytes) {
  mapping_ =
      mmap(nullptr, mapping_bytes_, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (mapping_ == MAP_FAILED) {
    throw CapacityError(concat("no memory for ", bytes, " bytes: ", std::strerror(errno)));
  }
  const uintptr_t start = reinterpret_cast<uintptr_t>(mapping_);
  const uintptr_t aligned = (start + kHugePage - 1) & ~(kHugePage - 1);
  data_ = static_cast<uint8_t*>(mapping_) + (aligned - start);
  // A hint: a kernel without transparent huge pages says no, and 4 KB pages are right too, only
  // about 5 % slower.
  (void)madvise(data_, bytes_, MADV_HUGEPAGE);
}

HugeBuffer::~HugeBuffer() { munmap(mapping_, mapping_bytes_); }

}  // namespace tgv
