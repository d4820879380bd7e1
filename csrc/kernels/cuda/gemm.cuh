// What      The loop of every matrix product: y[m, n] = f(x[m, k] W[n, k]^T + bias), with the
// weights' format left to a Tile.
//
// Math      Each tile of y (128 rows of W x kTokens tokens) is summed over segments of k, each
// from zero, and the segments' sums are added in ascending order.
//
// Tensors   GemmProblem and GemmWork (gemm.h).
//
// Threads   Blocks of 256, each taking a contiguous range of units (stream-K: a unit is a segment
// of a tile, so that all blocks have the same work to within a unit, whatever the number of tiles).
// One loop over all steps of the range: the copies of kStages - 1 steps ahead run across the ends
// of tiles and one block barrier a step does both jobs: the step's bytes are there for everybody,
// and the stage read a step ago is free. A tile that lies inside one block's range is finished in
// registers. Of a tile that several blocks share, each segment's sums go to the workspace; the last
// to arrive adds all of them in order, whoever that is. Since a thread reads back only what the
// same thread of other blocks wrote, warps count for themselves and need no block barrier.
//
// Traffic   x once per 128 rows of W, W once per kTokens tokens (neighbouring units share W and
// find it in the L2 cache); sums of shared tiles are written and read once.
//
// Limits    gemm_why_not, gemm_workspace_why_not.
//
// Numerics  fp32 sums. A row of y depends on its own row of x alone: the order of its sums is a
// function of k.
//
// Oracle    csrc/tests/int4_gemm_test.cc, int8_gemm_test.cc, half_gemm_test.cc, float_gemm_test.cc.
//
// A Tile has   Params (derived from GemmProblem), Element, kTokens, kStages, kStageBytes,
//              kThreadRows, kThreadTokens: what of the tile one thread sums, in
//              sums[kThreadRows * kThreadTokens],
//   row(thread, j), token(thread, c), index(j, c)    where in the tile and in sums they are
//   copy(stage, p, w, row_tile, token_tile, step)    starts one step's copies
//   multiply(sums, stage)                            adds one step's products
//   row_scale(p, row)        what a row's sums are multiplied by in the end
#pragma once

#include "kernels/cuda/device/bits.cuh"
#include "kernels/cuda/device/copy_async.cuh"
#include "kernels/cuda/device/dependent.cuh"
#include "kernels/cuda/device/elements.cuh"
#include "kernels/cuda/device/sync.cuh"
#include "kernels/cuda/gelu.cuh"
#include "kernels/cuda/gemm.h"

namespace tgv::cuda {

// --- copying rows into a stage -------------------------------------------------------------------

// Sixteen bytes of which the first `present` elements exist; the rest is zero.
template <class Storage>
__device__ __forceinline__ uint4 gather_16(const Storage* p, int64_t present) {
  uint32_t w[4];
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    if (sizeof(Storage) == 4) {
      w[i] = i < present ? static_cast<uint32_t>(p[i]) : 0u;
    } else {
      const uint32_t low = 2 * i < present ? static_cast<uint32_t>(p[2 * i]) : 0u;
      const uint32_t high = 2 * i + 1 < present ? static_cast<uint32_t>(p[2 * i + 1]) : 0u;
      w[i] = low | high << 16;
    }
  }
  return make_uint4(w[0], w[1], w[2], w[3]);
}

// Where chunk c (16 bytes) of a 128-byte row lies in a stage. The tensor-core tiles read four
// chunks of two neighbouring rows at once, the fp32 tile one chunk of eight rows: without the
// exchange these would lie in the same banks.
struct SwizzleHalves {
  static __device__ __forceinline__ int chunk(int row, int c) { return c ^ (row & 1) << 2; }
};
struct SwizzleChunks {
  static __device__ __forceinline__ int chunk(int row, int c) { return c ^ (row & 7); }
};

// kRows rows of 128 bytes, from [rows, columns] at (first_row, first_column); zeros beyond both.
// Rows that cp.async cannot take (not 16-byte aligned) are copied by ordinary loads and stores: the
// same barriers make them visible.
template <int kRows, class Swizzle, class Storage>
__device__ __forceinline__ void copy_rows(unsigned char* stage, const Storage* from, int64_t rows,
                                          int64_t columns, int64_t first_row,
                                          int64_t first_column) {
  constexpr int kPerChunk = 16 / sizeof(Storage);
  const bool aligned = columns % kPerChunk == 0 && reinterpret_cast<uintptr_t>(from) % 16 == 0;
#pragma unroll
  for (int i = 0; i < (kRows * 8 + kGemmThreads - 1) / kGemmThreads; ++i) {
    const int item = i * kGemmThreads + static_cast<int>(threadIdx.x);
    if (kRows * 8 % kGemmThreads != 0 && item >= kRows * 8) break;
    const int row = item / 8, c = item % 8;
    const int64_t column = first_column + c * kPerChunk;
    const bool inside = first_row + row < rows && column < columns;
    const Storage* source = inside ? from + (first_row + row) * columns + column : from;
    unsigned char* to = stage + row * 128 + Swizzle::chunk(row, c) * 16;
    if (aligned) {
      copy_async_16(to, source, inside ? 16 : 0);
    } else {
      *reinterpret_cast<uint4*>(to) = gather_16(source, inside ? columns - column : 0);
    }
  }
}

// --- tensor-core tiles ---------------------------------------------------------------------------

// What the 16-bit tiles share: a step of 64 columns, 4 x 2 warps of 32 rows x kTokens / 2 tokens.
// The weights are the A operand, so that a fragment serves all of a warp's tokens. The columns of
// an A fragment are permuted (packing: int4_gemv.h), such that the B operands of two products of 16
// columns are one 16-byte load of x in its own order: ldmatrix would give the order without the
// permutation, at the same number of bytes and instructions.
template <int kTokens>
struct TensorTile {
  static constexpr int kTokensPerTile = kTokens;
  static constexpr int kColumns = 64;
  static constexpr int kActivationBytes = kTokens * 128;
  static constexpr int kTokenTiles = kTokens / 16;  // of 8, a warp's
  static constexpr int kThreadRows = 4;
  static constexpr int kThreadTokens = kTokenTiles * 2;

  static __device__ __forceinline__ int warp_row(int thread) { return (thread >> 5 & 3) * 32; }
  static __device__ __forceinline__ int warp_token(int thread) {
    return (thread >> 7) * (kTokens / 2);
  }
  // j: fragment of 16 rows, upper or lower 8; c: fragment of 8 tokens, first or second of a pair.
  static __device__ __forceinline__ int row(int thread, int j) {
    return warp_row(thread) + j / 2 * 16 + j % 2 * 8 + (thread >> 2 & 7);
  }
  static __device__ __forceinline__ int token(int thread, int c) {
    return warp_token(thread) + c / 2 * 8 + (thread & 3) * 2 + c % 2;
  }
  static __device__ __forceinline__ constexpr int index(int j, int c) {
    return (j / 2 * kTokenTiles + c / 2) * 4 + j % 2 * 2 + c % 2;
  }

  // Adds the products of 32 columns: a[fragment of 16 rows][step of 16 columns].
  template <class Element>
  static __device__ __forceinline__ void multiply_32(float (&sums)[kThreadRows * kThreadTokens],
                                                     const uint32_t (&a)[2][2][4],
                                                     const unsigned char* activations,
                                                     int half_step) {
#pragma unroll
    for (int tile = 0; tile < kTokenTiles; ++tile) {
      const int row = warp_token(threadIdx.x) + tile * 8 + (threadIdx.x >> 2 & 7);
      const int chunk = SwizzleHalves::chunk(row, half_step * 4 + (threadIdx.x & 3));
      const uint4 b = *reinterpret_cast<const uint4*>(activations + row * 128 + chunk * 16);
#pragma unroll
      for (int r = 0; r < 2; ++r) {
        float* c = sums + (r * kTokenTiles + tile) * 4;
        float d[4] = {c[0], c[1], c[2], c[3]};
        Element::multiply(d, a[r][0], b.x, b.y);
        Element::multiply(d, a[r][1], b.z, b.w);
#pragma unroll
        for (int e = 0; e < 4; ++e) c[e] = d[e];
      }
    }
  }
};

// --- the loop ------------------------------------------------------------------------------------

// The first unit of a block; the last block's range ends at first_unit(blocks).
__device__ __forceinline__ int gemm_first_unit(const GemmWork& w, int block) {
  const int each = w.units / w.blocks, rest = w.units % w.blocks;
  return block * each + (block < rest ? block : rest);
}

// Where in the workspace a shared tile lies: by its own number if there are few tiles, otherwise by
// the block that holds its first unit, which leaves no other tile unfinished.
__device__ __forceinline__ int gemm_slot(const GemmWork& w, int tile) {
  if (w.tiles < w.blocks) return tile;
  const int each = w.units / w.blocks, rest = w.units % w.blocks, unit = tile * w.segments;
  return unit < (each + 1) * rest ? unit / (each + 1) : rest + (unit - (each + 1) * rest) / each;
}

// Where a unit lies.
struct GemmUnit {
  int unit, tile, row_tile, token_tile, segment, step, end;  // steps [step, end)

  __device__ __forceinline__ GemmUnit(const GemmWork& w, int unit_) : unit(unit_) {
    tile = unit / w.segments;
    segment = unit % w.segments;
    row_tile = tile / w.token_tiles;
    token_tile = tile % w.token_tiles;
    step = segment * w.steps_per_segment;
    end = min(w.steps, step + w.steps_per_segment);
  }
};

__device__ __forceinline__ int steps_of(const GemmWork& w, int unit) {
  return min(w.steps_per_segment, w.steps - unit % w.segments * w.steps_per_segment);
}

template <class Tile>
__device__ __forceinline__ void gemm_write(const float* total, const typename Tile::Params& p,
                                           const GemmUnit& at) {
  using Element = typename Tile::Element;
  const int thread = thread_read_anew();
#pragma unroll
  for (int j = 0; j < Tile::kThreadRows; ++j) {
    const int64_t row = int64_t{at.row_tile} * kGemmRows + Tile::row(thread, j);
    if (row >= p.n) continue;
    const float bias = p.bias ? Element::load(p.bias, row) : 0.0f;
    const float scale = Tile::row_scale(p, row);
#pragma unroll
    for (int c = 0; c < Tile::kThreadTokens; ++c) {
      const int64_t token = int64_t{at.token_tile} * Tile::kTokensPerTile + Tile::token(thread, c);
      if (token >= p.m) continue;
      float value = fmaf(total[Tile::index(j, c)], scale, bias);  // scale 1: a sum
      if (p.gelu) value = gelu_tanh(value);
      if (p.y_is_element) {
        Element::store(p.y, token * p.n + row, value);
      } else {
        static_cast<float*>(p.y)[token * p.n + row] = value;
      }
    }
  }
}

// This warp's sums of a segment go to the workspace. True for the warp that is the last of those
// with its number to have finished the tile: it finds all sums added up in `total`.
template <int kSums>
__device__ __forceinline__ bool gemm_share(float (&total)[kSums], const float (&sums)[kSums],
                                           const GemmProblem& p, const GemmWork& w,
                                           const GemmUnit& at, int first, int last) {
  const int slot = gemm_slot(w, at.tile), thread = thread_read_anew();
  unsigned* counter = static_cast<unsigned*>(p.workspace) + slot * kGemmWarps + (thread >> 5);
  const int64_t counter_bytes = (int64_t{w.slots} * kGemmWarps * 4 + 127) / 128 * 128;
  float* shared_sums = reinterpret_cast<float*>(static_cast<char*>(p.workspace) + counter_bytes) +
                       int64_t{slot} * w.segments * kSums * kGemmThreads + thread;
#pragma unroll
  for (int i = 0; i < kSums; ++i) {
    shared_sums[(int64_t{at.segment} * kSums + i) * kGemmThreads] = sums[i];
  }
  if (at.segment + 1 < w.segments && at.unit + 1 < last) return false;  // more of this tile to come

  const int tile_first = at.tile * w.segments;
  const unsigned mine = static_cast<unsigned>(at.unit + 1 - max(first, tile_first));
  unsigned before = 0;
  __syncwarp();  // the lanes' sums, before lane 0 says that they are there
  if ((thread & 31) == 0) before = add_acquire_release(counter, mine);
  before = __shfl_sync(0xffffffffu, before, 0);
  if (before + mine != static_cast<unsigned>(w.segments)) return false;
  __syncwarp();
  if ((thread & 31) == 0) *counter = 0;  // for the next launch
  for (int segment = 0; segment < w.segments; ++segment) {
#pragma unroll
    for (int i = 0; i < kSums; ++i) {
      total[i] += shared_sums[(int64_t{segment} * kSums + i) * kGemmThreads];
    }
  }
  return true;
}

template <class Tile>
__device__ __forceinline__ void gemm(const typename Tile::Params& p, const GemmWork& w) {
  constexpr int kSums = Tile::kThreadRows * Tile::kThreadTokens;
  wait_for_previous();
  TGV_DYNAMIC_SHARED(unsigned char, stages);
  const int first = gemm_first_unit(w, blockIdx.x), last = gemm_first_unit(w, blockIdx.x + 1);
  float sums[kSums], total[kSums];  // of the segment; of the tile's segments before it
#pragma unroll
  for (int i = 0; i < kSums; ++i) sums[i] = total[i] = 0.0f;

  GemmUnit ahead(w, first);
  const auto copy_ahead = [&](int stage) {
    if (ahead.unit < last) {
      Tile::copy(stages + stage * Tile::kStageBytes, p, w, ahead.row_tile, ahead.token_tile,
                 ahead.step);
      if (++ahead.step == ahead.end) ahead = GemmUnit(w, ahead.unit + 1);
    }
    commit_copies();  // also when there is nothing to copy: waits count groups
  };
  for (int stage = 0; stage < Tile::kStages - 1; ++stage) copy_ahead(stage);

  int stage = 0, unit = first, left = steps_of(w, first);
  while (unit < last) {
    wait_copies<Tile::kStages - 2>();
    __syncthreads();
    copy_ahead(stage == 0 ? Tile::kStages - 1 : stage - 1);
    Tile::multiply(sums, stages + stage * Tile::kStageBytes);
    stage = stage + 1 == Tile::kStages ? 0 : stage + 1;
    if (--left > 0) continue;

    const GemmUnit now(w, unit);
    const int tile_first = now.tile * w.segments;
    bool finished;
    if (tile_first >= first && tile_first + w.segments <= last) {
      finished = now.segment + 1 == w.segments;
#pragma unroll
      for (int i = 0; i < kSums; ++i) total[i] += sums[i];
    } else {
      finished = gemm_share(total, sums, p, w, now, first, last);
    }
#pragma unroll
    for (int i = 0; i < kSums; ++i) sums[i] = 0.0f;
    if (finished) {
      gemm_write<Tile>(total, p, now);
#pragma unroll
      for (int i = 0; i < kSums; ++i) total[i] = 0.0f;
    }
    left = steps_of(w, ++unit);
  }
}

}  // namespace tgv::cuda
