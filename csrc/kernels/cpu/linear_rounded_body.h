// Products with rounded activations, written once over the vector of an ISA and compiled once per
// ISA. A .cc file includes this after defining, in an anonymous namespace inside tgv::cpu:
//
//   kLanes        rows in a vector: 8 or 16
//   kTokenTile    tokens whose sums are in registers together
//   kBlockTile    row blocks taken together
//   kAloneTokens  up to so many tokens a row block is taken alone
//   Ints, Floats  kLanes int32 / float
//   Levels        what a tile of kLanes rows is unpacked to
//   unpack4(tile)          -> Levels; the four chunks of an int4 tile are 64 bytes apart
//   dots4<V, T>(levels[V], x, sums[T][V])   adds sum over 32 k of level * x[token].q[k]
//   scales(p), zeros(p)    kLanes float16 -> Floats, bytes -> Ints; p at any address
//   splat, multiply, to_float, fma(a, b, c) = a b + c rounded once, load, store
//
// Float sums of a block of tokens live in L1: one load and one store per eight dot products fit
// beside them, and one loop serves every number of tokens with the same operations in one order.
#pragma once

#include "kernels/cpu/linear_finish.h"
#include "kernels/cpu/linear_isa.h"

namespace tgv::cpu {
namespace {

constexpr int64_t kPrefetchBytes = 2048;  // ahead of the tile in work

// The vectors of one tile step: levels of kCount vectors, their scales and zeros.
template <int kCount>
struct Unpacked {
  Levels levels[kCount];
  Floats scales[kCount];
  Ints zeros[kCount];
};

template <int kCount, bool kSymmetric, int kTokens>
TGV_INLINE void step_tokens(const Unpacked<kCount>& w, const RoundedTile* x, float* sums,
                            int stride) {
  Ints dots[kTokens][kCount];
  for (int m = 0; m < kTokens; ++m) {
    const Ints start = kSymmetric ? splat(x[m].offset) : splat(x[m].offset >> 3);
    for (int v = 0; v < kCount; ++v) dots[m][v] = kSymmetric ? start : multiply(w.zeros[v], start);
  }
  dots4<kCount, kTokens>(w.levels, x, dots);
  for (int m = 0; m < kTokens; ++m) {
    const Floats x_scale = splat(x[m].scale);
    for (int v = 0; v < kCount; ++v) {
      float* sum = sums + m * stride + v * kLanes;
      store(sum, fma(to_float(dots[m][v]), multiply(w.scales[v], x_scale), load(sum)));
    }
  }
}

// One tile of kBlocks row blocks for `count` tokens; sums is [token][16 kBlocks].
template <int kBlocks, bool kSymmetric>
TGV_INLINE void int4_step(const uint8_t* tile, const uint8_t* head, int64_t block_bytes,
                          const RoundedTile* x, int64_t count, float* sums) {
  constexpr int kAll = kBlocks * 16 / kLanes;
  constexpr int kCount = kAll < kVectors ? kAll : kVectors;
  for (int first = 0; first < kAll; first += kCount) {
    Unpacked<kCount> w;
    for (int v = 0; v < kCount; ++v) {
      const int row = (first + v) * kLanes, b = row / 16, r = row % 16;
      w.levels[v] = unpack4(tile + b * block_bytes + 4 * r);
      w.scales[v] = scales(head + b * block_bytes + 2 * r);
      if (!kSymmetric) w.zeros[v] = zeros(head + b * block_bytes + 32 + r);
    }
    constexpr int stride = 16 * kBlocks;
    float* out = sums + first * kLanes;
    int64_t m = 0;
    for (; m + kTokenTile <= count; m += kTokenTile) {
      step_tokens<kCount, kSymmetric, kTokenTile>(w, x + m, out + m * stride, stride);
    }
    for (; m < count; ++m) {
      step_tokens<kCount, kSymmetric, 1>(w, x + m, out + m * stride, stride);
    }
  }
}

template <int kBlocks>
TGV_INLINE void prefetch_tile(const uint8_t* tile, int64_t block_bytes) {
  for (int b = 0; b < kBlocks; ++b) {
    for (int line = 0; line < 5; ++line) {  // four and a head
      __builtin_prefetch(tile + b * block_bytes + 64 * line + kPrefetchBytes);
    }
  }
}

// Row blocks block .. block + kBlocks - 1 for the tokens first .. first + count - 1.
template <int kBlocks, bool kSymmetric>
TGV_INLINE void int4_strip(const Linear& w, const LinearInput& in, float* y, int64_t first,
                           int64_t count, int64_t block) {
  constexpr int kStride = 16 * kBlocks;
  constexpr int64_t kHead = kSymmetric ? 32 : 48;
  const int64_t tiles = w.shape.tiles(), tiles_of_group = w.shape.group_size / 32;
  const int64_t block_bytes = w.shape.block_bytes();
  const uint8_t* head = w.packed + block * block_bytes;  // of the first block
  const RoundedTile* x = static_cast<const RoundedTile*>(in.rounded) + first * tiles;

  alignas(64) float sums[kLinearTokens * kStride];
  __builtin_memset(sums, 0, static_cast<size_t>(count) * kStride * sizeof(float));
  for (int64_t begin = 0; begin < tiles; begin += tiles_of_group) {
    const int64_t end = begin + tiles_of_group < tiles ? begin + tiles_of_group : tiles;
    for (int64_t t = begin; t < end; ++t) {
      const uint8_t* tile = head + kHead + 256 * (t - begin);
      prefetch_tile<kBlocks>(tile, block_bytes);
      int4_step<kBlocks, kSymmetric>(tile, head, block_bytes, x + t * count, count, sums);
    }
    head += kHead + 256 * (end - begin);
  }
  for (int64_t m = 0; m < count; ++m) {
    for (int b = 0; b < kBlocks; ++b) {
      finish(w, y, first + m, 16 * (block + b), sums + m * kStride + 16 * b);
    }
  }
}

template <bool kSymmetric>
TGV_INLINE void int4_blocks(const Linear& w, const LinearInput& in, float* y, int64_t begin,
                            int64_t end) {
  for (int64_t block = begin; block < end;) {
    // Few tokens leave the memory to wait for, and one stream is what it serves best.
    const bool together = in.tokens > kAloneTokens && block + kBlockTile <= end;
    for (int64_t first = 0; first < in.tokens; first += kLinearTokens) {
      const int64_t left = in.tokens - first, count = left < kLinearTokens ? left : kLinearTokens;
      if (together) {
        int4_strip<kBlockTile, kSymmetric>(w, in, y, first, count, block);
      } else {
        int4_strip<1, kSymmetric>(w, in, y, first, count, block);
      }
    }
    block += together ? kBlockTile : 1;
  }
}

TGV_INLINE void multiply_int4(const Linear& w, const LinearInput& in, float* y, int64_t begin,
                              int64_t end) {
  if (w.shape.symmetric) {
    int4_blocks<true>(w, in, y, begin, end);
  } else {
    int4_blocks<false>(w, in, y, begin, end);
  }
}

}  // namespace
}  // namespace tgv::cpu
