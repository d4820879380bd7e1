// Copies of whole pages of a KV cache, in all layers: what makes a shared page a sequence's own
// before it writes there. The problem and when the kernel can take it. Host code only; the kernel
// is page_copy.cuh.
#pragma once

#include <cstdint>
#include <string>

namespace tgv::cuda {

// One kind of page that every layer has: K, V, or the scales of one of them. Page p of layer l is
// page_bytes at data + p * page_stride + l * layer_stride, whichever of the two strides is larger.
struct PagePlane {
  void* data = nullptr;      // 16-byte aligned
  int64_t page_bytes = 0;    // the three of them multiples of 16
  int64_t page_stride = 0;   // not read if there is one page
  int64_t layer_stride = 0;  // not read if there is one layer
};

inline constexpr int kPageCopyMaxPlanes = 4;  // K, V and the scales of both

// For i below the count: page list[i, 1] = page list[i, 0], in every plane and layer. A pair that
// names a page outside 0..NP-1 copies nothing, so that a list of fixed length can be filled up
// with -1. No page may be written twice, or written and read.
struct PageCopyParams {
  int pairs = 0;   // N: pairs that the list has room for
  int pages = 0;   // NP
  int layers = 0;  // L
  int planes = 0;  // 1..4
  PagePlane plane[kPageCopyMaxPlanes];
  const int32_t* list = nullptr;   // [N, 2] from, to
  const int32_t* count = nullptr;  // one number in device memory; null: N
};

// Bytes of one page that one block copies.
inline constexpr int64_t kPageCopyChunkBytes = 16384;

int64_t page_copy_blocks(const PageCopyParams& p);

// Bytes that must move for this many pairs: every page read once and written once.
int64_t page_copy_bytes(const PageCopyParams& p, int64_t pairs);

// Empty if the kernel can take the problem, otherwise the reason.
std::string page_copy_why_not(const PageCopyParams& p);

}  // namespace tgv::cuda
