// The memory of a KV cache: for each layer K and V apart, [NP, H, PS, D] each, and for int8 their
// scales [NP, H, PS] in half. Knows pages and rows, not who uses them.
//
// Reserved as a whole at construction, on huge pages where the kernel grants them; the system gives
// real memory when a page is first written. Not thread-safe; threads may write different rows.
#pragma once

#include <cstdint>

#include "base/huge_buffer.h"
#include "kv/rows.h"

namespace tgv::kv {

inline constexpr int64_t kPageTokens = 16;  // PS

struct Shape {
  int64_t pages = 0;     // NP, 1..2^31-1
  int64_t layers = 0;    // L, 1..1024
  int64_t heads = 0;     // H, 1..1024
  int64_t head_dim = 0;  // D, a multiple of 4 in 4..256
  Kind kind = Kind::kI8;

  void check() const;           // throws InvalidArgument
  int64_t page_bytes() const;   // of one page: all layers, K and V, with scales
  int64_t total_bytes() const;  // pages * page_bytes()
};

// What the kernels of one layer get.
struct Layer {
  void* k = nullptr;             // [NP, H, PS, D] kind
  void* v = nullptr;             // [NP, H, PS, D] kind
  uint16_t* k_scales = nullptr;  // [NP, H, PS] f16; null unless kind is int8
  uint16_t* v_scales = nullptr;  // [NP, H, PS] f16; null unless kind is int8
};

class Storage {
 public:
  explicit Storage(const Shape& shape);  // throws InvalidArgument, SystemError

  const Shape& shape() const { return shape_; }
  Layer layer(int64_t index) const;  // 0 <= index < layers, not checked

  // One token: K and V of all heads, [H, D] f32 each, to or from slot `row` (< PS) of a page.
  // write throws InvalidArgument as store_row does.
  void write(int64_t layer, int64_t page, int64_t row, const float* k, const float* v);
  void read(float* k, float* v, int64_t layer, int64_t page, int64_t row) const;

  // The first `rows` slots of a page, in every layer, with their scales.
  void copy_rows(int64_t to_page, int64_t from_page, int64_t rows);

 private:
  int64_t row_index(int64_t page, int64_t head, int64_t row) const {
    return (page * shape_.heads + head) * kPageTokens + row;
  }

  Shape shape_;
  int64_t row_bytes_;     // of one row of D elements
  int64_t plane_bytes_;   // of K of one layer
  int64_t scales_bytes_;  // of the scales of that
  HugeBuffer memory_;     // [L, 2] planes, then [L, 2] planes of scales
};

}  // namespace tgv::kv
