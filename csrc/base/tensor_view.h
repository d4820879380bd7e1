// A tensor somebody else owns: pointer, dtype, shape, strides. No allocation, no reference count.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace tgv {

enum class DType : uint8_t { kF32, kF16, kBF16, kI8, kU8, kI32, kI64 };

const char* dtype_name(DType dtype);  // "f32", "f16", ...
int64_t dtype_bytes(DType dtype);

struct TensorView {
  void* data = nullptr;  // may be null only when a size is 0
  DType dtype = DType::kF32;
  std::vector<int64_t> shape;
  std::vector<int64_t>
      strides_elems;  // as many as sizes; of a dimension of size <= 1 any value is fine
  bool read_only = false;

  // Row-major strides for `shape`.
  static TensorView contiguous(void* data, DType dtype, std::vector<int64_t> shape,
                               bool read_only = false);

  int rank() const { return static_cast<int>(shape.size()); }
  int64_t elements() const;
  bool is_contiguous() const;
  std::string describe() const;  // "[512,16,32,64] f16", with ", strided" / ", read-only" if it is
};

}  // namespace tgv
