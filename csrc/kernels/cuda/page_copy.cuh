// What      Copies whole pages of a KV cache in all layers, for a list of (from, to).
//
// Math      None.
//
// Tensors   PageCopyParams (page_copy.h).
//
// Threads   One block per 16 KB of a page in one layer and plane, four vectors of 16 bytes a
//           thread, all loaded before the first is stored. Blocks of pairs beyond the count leave
//           at once: the grid is that of the longest list, so that a graph can be replayed.
//
// Traffic   Every byte once in and once out, 16 bytes a lane, past L1.
//
// Limits    page_copy_why_not: everything in multiples of 16 bytes.
//
// Numerics  Bits.
//
// Oracle    The same copies on the host, csrc/tests/cuda_page_copy_test.cc.
#pragma once

#include "kernels/cuda/device/dependent.cuh"
#include "kernels/cuda/device/load.cuh"
#include "kernels/cuda/page_copy.h"

namespace tgv::cuda {

inline constexpr int kPageCopyThreads = 256;

// What a block copies: vectors first... of a page of this plane.
struct PageChunk {
  int plane;
  int64_t first;
};

// Chunk `index` of the planes' chunks, one plane after the other.
__device__ __forceinline__ PageChunk find_chunk(const PageCopyParams& p, int64_t index) {
  constexpr int64_t kVectors = kPageCopyChunkBytes / 16;
  int plane = 0;
#pragma unroll
  for (int i = 0; i < kPageCopyMaxPlanes - 1; ++i) {
    const int64_t chunks = (p.plane[i].page_bytes / 16 + kVectors - 1) / kVectors;
    if (plane == i && index >= chunks) {
      index -= chunks;
      plane = i + 1;
    }
  }
  return {plane, index * kVectors};
}

// `chunks`: of one page in one layer, all planes.
template <int kVectors>
__global__ void __launch_bounds__(kPageCopyThreads)
    page_copy(const PageCopyParams p, int64_t chunks) {
  static_assert(kVectors * 16 * kPageCopyThreads == kPageCopyChunkBytes, "a chunk is a block's");
  wait_for_previous();
  const int64_t item = int64_t{blockIdx.x} / chunks;
  const int64_t pair = item / p.layers, layer = item % p.layers;
  if (p.count && pair >= *p.count) return;
  const int from = p.list[2 * pair], to = p.list[2 * pair + 1];
  if (from < 0 || from >= p.pages || to < 0 || to >= p.pages || from == to) return;

  const PageChunk chunk = find_chunk(p, int64_t{blockIdx.x} % chunks);
  const PagePlane& plane = p.plane[chunk.plane];
  uint8_t* pages = static_cast<uint8_t*>(plane.data) + layer * plane.layer_stride;
  const auto* source = reinterpret_cast<const uint4*>(pages + from * plane.page_stride);
  auto* target = reinterpret_cast<uint4*>(pages + to * plane.page_stride);
  const int64_t first = chunk.first + threadIdx.x, end = plane.page_bytes / 16;
  uint4 vectors[kVectors];
#pragma unroll
  for (int i = 0; i < kVectors; ++i) {
    const int64_t at = first + i * kPageCopyThreads;
    if (at < end) vectors[i] = load_once_16(source + at);
  }
#pragma unroll
  for (int i = 0; i < kVectors; ++i) {
    const int64_t at = first + i * kPageCopyThreads;
    if (at < end) target[at] = vectors[i];
  }
}

}  // namespace tgv::cuda
