#include "kernels/cuda/page_copy.h"

#include "base/errors.h"

namespace tgv::cuda {

namespace {

std::string plane_why_not(const PageCopyParams& p, int i) {
  const PagePlane& plane = p.plane[i];
  const int64_t page_stride = p.pages > 1 ? plane.page_stride : plane.page_bytes;
  const int64_t layer_stride = p.layers > 1 ? plane.layer_stride : plane.page_bytes;
  if (!plane.data) return concat("plane ", i, " is null");
  if (plane.page_bytes < 16)
    return concat("plane ", i, " has pages of ", plane.page_bytes, " bytes");
  if (page_stride < plane.page_bytes || layer_stride < plane.page_bytes) {
    return concat("plane ", i, " has strides ", plane.page_stride, " and ", plane.layer_stride,
                  ", its pages have ", plane.page_bytes, " bytes");
  }
  const int64_t all = static_cast<int64_t>(reinterpret_cast<uintptr_t>(plane.data)) |
                      plane.page_bytes | page_stride | layer_stride;
  if (all % 16) return concat("plane ", i, " is not made of 16-byte aligned multiples of 16 bytes");
  return "";
}

}  // namespace

int64_t page_copy_blocks(const PageCopyParams& p) {
  int64_t chunks = 0;
  for (int i = 0; i < p.planes; ++i) {
    chunks += (p.plane[i].page_bytes + kPageCopyChunkBytes - 1) / kPageCopyChunkBytes;
  }
  return chunks * p.layers * p.pairs;
}

int64_t page_copy_bytes(const PageCopyParams& p, int64_t pairs) {
  int64_t bytes = 0;
  for (int i = 0; i < p.planes; ++i) bytes += p.plane[i].page_bytes;
  return 2 * bytes * p.layers * pairs;
}

std::string page_copy_why_not(const PageCopyParams& p) {
  if (p.pairs < 1 || p.pages < 1 || p.layers < 1) {
    return concat("N=", p.pairs, ", NP=", p.pages, ", L=", p.layers, ", expected all >= 1");
  }
  if (p.planes < 1 || p.planes > kPageCopyMaxPlanes) {
    return concat("there are ", p.planes, " planes, expected 1..", kPageCopyMaxPlanes);
  }
  for (int i = 0; i < p.planes; ++i) {
    const std::string why_not = plane_why_not(p, i);
    if (!why_not.empty()) return why_not;
  }
  if (!p.list) return "list is null";
  if (page_copy_blocks(p) > INT32_MAX) {
    return concat("N=", p.pairs, " pairs of such pages need ", page_copy_blocks(p),
                  " blocks, a launch has 2^31-1");
  }
  return "";
}

}  // namespace tgv::cuda
