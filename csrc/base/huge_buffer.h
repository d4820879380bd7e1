// Anonymous memory aligned to 2 MB, on huge pages where the kernel grants them. Zero-filled; freed
// by the destructor.
#pragma once

#include <cstddef>
#include <cstdint>

namespace tgv {

class HugeBuffer {
 public:
  explicit HugeBuffer(size_t bytes);  // throws SystemError when the kernel refuses
  ~HugeBuffer();
  HugeBuffer(const HugeBuffer&) = delete;
  HugeBuffer& operator=(const HugeBuffer&) = delete;

  uint8_t* data() const { return data_; }
  size_t bytes() const { return bytes_; }

 private:
  void* mapping_ = nullptr;
  size_t mapping_bytes_ = 0;
  uint8_t* data_ = nullptr;
  size_t bytes_ = 0;
};

}  // namespace tgv
