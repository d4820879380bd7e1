// Pages in the memory of the host. Knows pages and rows, not who uses them.
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
#include "kv/page_store.h"
#include "kv/rows.h"

namespace tgv::kv {

class Storage final : public PageStore {
 public:
  explicit Storage(const Shape& shape);  // throws InvalidArgument, SystemError

  const Shape& shape() const override { return shape_; }
  int64_t page_bytes() const override { return shape_.page_bytes(); }
  // What the kernels of one layer get. 0 <= index < layers, not checked.
  cpu::KvPages layer(int64_t index) const;

  // One token: K and V of all heads, [H, D] f32 each, to or from slot `row` (< PS) of a page.
  // write throws InvalidArgument as store_row does.
  void write(int64_t layer, int64_t page, int64_t row, const float* k, const float* v);
  void read(float* k, float* v, int64_t layer, int64_t page, int64_t row) const;

  void copy_rows(int64_t to_page, int64_t from_page, int64_t rows) override;
  bool can_carry() const override { return true; }
  void read_page(void* numbers, uint16_t* scales, int64_t page) const override;
  void write_page(int64_t page, const void* numbers, const uint16_t* scales) override;

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
