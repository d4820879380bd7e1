// The memory of a KV cache. Knows pages and rows, not who uses them.
//
// Layout    [NP][L] of: K [H, PS, D], V [H, PS, D], and for int8 K's and V's scales [H, PS] in
// half,
//           each part rounded up to 64 bytes. All layers of a page lie together, so that a cache
//           that is nearly empty occupies little more than the pages in use, even where memory
//           comes in huge pages of 2 MB; one layer reads a page in runs of H * PS * D elements.
//
// Reserved as a whole at construction, on huge pages where the kernel grants them; the system gives
// real memory when a page is first written. Not thread-safe; threads may write different rows.
#pragma once

#include <cstdint>

#include "base/huge_buffer.h"
#include "kv/rows.h"

namespace tgv::kv {

using cpu::kPageTokens;  // PS

struct Shape {
  int64_t pages = 0;     // NP, 1..2^31-1
  int64_t layers = 0;    // L, 1..1024
  int64_t heads = 0;     // H, 1..1024
  int64_t head_dim = 0;  // D, a multiple of 4 in 4..256
  Kind kind = Kind::kI8;

  void check() const;            // throws InvalidArgument
  int64_t plane_bytes() const;   // of K of one page in one layer
  int64_t scales_bytes() const;  // of its scales, rounded up to 64; 0 unless kind is int8
  int64_t layer_bytes() const;   // of one page in one layer: K and V, with scales
  int64_t page_bytes() const;    // of one page in all layers
  int64_t total_bytes() const;   // pages * page_bytes()
};

class Storage {
 public:
  explicit Storage(const Shape& shape);  // throws InvalidArgument, SystemError

  const Shape& shape() const { return shape_; }
  // What the kernels of one layer get. 0 <= index < layers, not checked.
  cpu::KvPages layer(int64_t index) const;

  // One token: K and V of all heads, [H, D] f32 each, to or from slot `row` (< PS) of a page.
  // write throws InvalidArgument as store_row does.
  void write(int64_t layer, int64_t page, int64_t row, const float* k, const float* v);
  void read(float* k, float* v, int64_t layer, int64_t page, int64_t row) const;

  // The first `rows` slots of a page, in every layer, with their scales.
  void copy_rows(int64_t to_page, int64_t from_page, int64_t rows);

 private:
  struct Row {  // K and V of one token and head
    void *k, *v;
    uint16_t *k_scale, *v_scale;  // null for kinds without
  };
  Row row_at(int64_t layer, int64_t page, int64_t head, int64_t row) const;

  Shape shape_;
  HugeBuffer memory_;
};

}  // namespace tgv::kv
