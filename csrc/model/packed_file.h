// A file of packed weights: a header of 4096 bytes, then the block of memory that the plan lays
// out, byte for byte. Little-endian, as every machine that the kernels run on.
//
// The header states architecture, forms, the id and a sum over the data; offsets are not in it. A
// file is untrusted until its own sum, its size and the ranges of every field have been checked.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

#include "base/thread_pool.h"
#include "model/plan.h"

namespace tgv::model {

inline constexpr int64_t kPackedHeaderBytes = 4096;

struct PackedHeader {
  Architecture architecture;
  Forms forms;
  std::string id;
  uint64_t data_bytes = 0;
  uint64_t data_sum = 0;
};

// An open file; closed by the destructor.
class PackedFile {
 public:
  static PackedFile open(const std::string& path);    // throws SystemError
  static PackedFile create(const std::string& path);  // must not exist; throws SystemError
  ~PackedFile();
  PackedFile(PackedFile&& other) noexcept;
  PackedFile(const PackedFile&) = delete;
  PackedFile& operator=(const PackedFile&) = delete;
  PackedFile& operator=(PackedFile&&) = delete;

  int descriptor() const { return descriptor_; }

  // Checks everything but the data. Throws InvalidArgument saying what is wrong with the file.
  PackedHeader read_header() const;
  // The data into `out`, by all threads of the pool; returns its sum. Throws SystemError.
  uint64_t read_data(uint8_t* out, uint64_t bytes, ThreadPool& pool) const;
  void write(const PackedHeader& header, const uint8_t* data, ThreadPool& pool);  // and fsync

 private:
  PackedFile(int descriptor, std::string path);

  int descriptor_;
  std::string path_;
};

// The sum that read_data returns, of data in memory. Any single changed byte changes it.
uint64_t sum_of(const uint8_t* data, uint64_t bytes, ThreadPool& pool);

}  // namespace tgv::model
