// A block of memory that is either ours, on huge pages, or a file's, mapped for reading.
#pragma once

#include <cstdint>
#include <memory>

#include "base/huge_buffer.h"

namespace tgv::model {

class Memory {
 public:
  explicit Memory(size_t bytes);  // zero-filled; throws SystemError
  // `bytes` of the file from `offset` (a multiple of 4096) on, shared with all who map it,
  // read-only.
  Memory(int descriptor, size_t offset, size_t bytes);
  ~Memory();
  Memory(Memory&& other) noexcept;
  Memory(const Memory&) = delete;
  Memory& operator=(const Memory&) = delete;
  Memory& operator=(Memory&&) = delete;

  const uint8_t* data() const { return data_; }
  uint8_t* writable() const { return own_ ? own_->data() : nullptr; }  // null when mapped
  size_t bytes() const { return bytes_; }
  bool is_mapped() const { return !own_; }

  // Own memory: the whole pages inside `bytes` from `offset` on, which hold what the file holds
  // from `file_offset` + offset on (a multiple of 4096), go back to the system; who reads there
  // reads the file's pages, which the system may drop and read again. Throws SystemError.
  void leave_in_file(size_t offset, size_t bytes, int descriptor, size_t file_offset);

 private:
  std::unique_ptr<HugeBuffer> own_;
  const uint8_t* data_ = nullptr;
  size_t bytes_ = 0;
};

}  // namespace tgv::model
