// The memory that a KV cache keeps its books of: so many pages, somewhere. The cache itself moves
// contents only to let a sequence go on in a page that others share, and where somebody carries
// pages from one cache to another; all else is the decoder's.
#pragma once

#include <cstdint>

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

  // What PageStore::read_page makes of a page: no padding, and one order on every device.
  int64_t carried_bytes() const;   // of its numbers, [L, 2, H, PS, D]
  int64_t carried_scales() const;  // halves, [L, 2, H, PS]; 0 unless kind is int8
};

class PageStore {
 public:
  virtual ~PageStore() = default;

  virtual const Shape& shape() const = 0;
  virtual int64_t page_bytes() const = 0;  // of one page in all layers

  // The first `rows` slots of a page, in every layer, with their scales, done or in the order of
  // whatever reads them. What the other slots hold afterwards is worth nothing. Throws SystemError
  // (a GPU's memory).
  virtual void copy_rows(int64_t to_page, int64_t from_page, int64_t rows) = 0;

  // Whether pages can be carried to another cache: the two below throw Unsupported if not.
  virtual bool can_carry() const { return false; }

  // A whole page, in every layer, out of this memory and back, bit for bit: numbers [L, 2, H, PS,
  // D] of the kind, K before V; scales [L, 2, H, PS] half, null for kinds without.
  virtual void read_page(void* numbers, uint16_t* scales, int64_t page) const;
  virtual void write_page(int64_t page, const void* numbers, const uint16_t* scales);
};

}  // namespace tgv::kv
