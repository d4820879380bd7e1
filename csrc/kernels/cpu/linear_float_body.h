// Products of float32 activations with bf16 or f32 weights, written once over the vector of an ISA.
// A .cc file includes this after defining, in an anonymous namespace inside tgv::cpu:
//
//   kLanes         rows in a vector: 8 or 16
//   kFloatTokens   tokens whose sums are in registers together
//   kFloatBlocks   row blocks taken together, but one alone up to kFloatTokens tokens
//   Floats         kLanes float
//   load_floats(p), load_pairs(p, out)   kLanes float; kLanes pairs of bf16 -> two Floats
//   splat, fma(a, b, c) = a b + c rounded once, load, store
//
// K is cut into slabs: the weights of a slab stay in L1 while they meet one tile of tokens after
// the other, and sums wait in memory between slabs. The chain of a sum runs through all slabs.
#pragma once

#include "kernels/cpu/linear_finish.h"
#include "kernels/cpu/linear_isa.h"

namespace tgv::cpu {
namespace {

constexpr int64_t kSlab = 256;                 // k, even
constexpr int64_t kFloatPrefetchBytes = 2048;  // ahead of the weights in work

// kTokens tokens by kBlocks row blocks by k in [begin, end). w: the first block at k = begin.
template <int kBlocks, bool kPairs, int kTokens>
TGV_INLINE void float_tile(const uint8_t* w, int64_t block_bytes, const float* x, int64_t K,
                           int64_t begin, int64_t end, float* sums) {
  constexpr int kCount = kBlocks * 16 / kLanes, kStride = 16 * kBlocks, kStep = kPairs ? 2 : 1;
  Floats acc[kTokens][kCount];
  for (int m = 0; m < kTokens; ++m) {
    for (int v = 0; v < kCount; ++v) acc[m][v] = load(sums + m * kStride + v * kLanes);
  }
  for (int64_t k = begin; k < end; k += kStep, w += 64) {
    Floats weights[kCount][kStep];
    for (int v = 0; v < kCount; ++v) {
      const int row = v * kLanes;
      const uint8_t* own = w + row / 16 * block_bytes + 4 * (row % 16);
      if constexpr (kPairs) {
        load_pairs(own, weights[v]);
      } else {
        weights[v][0] = load_floats(own);
      }
    }
    for (int b = 0; b < kBlocks; ++b) __builtin_prefetch(w + b * block_bytes + kFloatPrefetchBytes);
    for (int step = 0; step < kStep; ++step) {
      if (kPairs && k + step == K) break;  // K is odd; the weight there is padding
      for (int m = 0; m < kTokens; ++m) {
        const Floats value = splat(x[m * K + k + step]);
        for (int v = 0; v < kCount; ++v) acc[m][v] = fma(weights[v][step], value, acc[m][v]);
      }
    }
  }
  for (int m = 0; m < kTokens; ++m) {
    for (int v = 0; v < kCount; ++v) store(sums + m * kStride + v * kLanes, acc[m][v]);
  }
}

template <int kBlocks, bool kPairs>
TGV_INLINE void float_strip(const Linear& w, const LinearInput& in, float* y, int64_t first,
                            int64_t count, int64_t block) {
  constexpr int kStride = 16 * kBlocks;
  const int64_t K = in.columns, block_bytes = w.shape.block_bytes();
  const float* x = in.x + first * K;
  alignas(64) float sums[kLinearTokens * kStride];
  __builtin_memset(sums, 0, static_cast<size_t>(count) * kStride * sizeof(float));
  for (int64_t begin = 0; begin < K; begin += kSlab) {
    const int64_t end = begin + kSlab < K ? begin + kSlab : K;
    const uint8_t* slab = w.packed + block * block_bytes + begin * (kPairs ? 32 : 64);
    int64_t m = 0;
    for (; m + kFloatTokens <= count; m += kFloatTokens) {
      float_tile<kBlocks, kPairs, kFloatTokens>(slab, block_bytes, x + m * K, K, begin, end,
                                                sums + m * kStride);
    }
    if constexpr (kFloatTokens > 4) {
      for (; m + 4 <= count; m += 4) {
        float_tile<kBlocks, kPairs, 4>(slab, block_bytes, x + m * K, K, begin, end,
                                       sums + m * kStride);
      }
    }
    if constexpr (kFloatTokens > 2) {
      for (; m + 2 <= count; m += 2) {
        float_tile<kBlocks, kPairs, 2>(slab, block_bytes, x + m * K, K, begin, end,
                                       sums + m * kStride);
      }
    }
    for (; m < count; ++m) {
      float_tile<kBlocks, kPairs, 1>(slab, block_bytes, x + m * K, K, begin, end,
                                     sums + m * kStride);
    }
  }
  kFinish(w, target_of(w, in, y, first, 16 * block), sums, count, 16 * block, kBlocks);
}

template <bool kPairs>
TGV_INLINE void multiply_floats(const Linear& w, const LinearInput& in, const LinearOutput& out,
                                int64_t begin, int64_t end) {
  float* const y = out.y;
  const int64_t together = in.tokens >= kFloatTokens ? kFloatBlocks : 1;
  for (int64_t first = 0; first < in.tokens; first += kLinearTokens) {
    const int64_t left = in.tokens - first, count = left < kLinearTokens ? left : kLinearTokens;
    int64_t block = begin;
    for (; block + together <= end; block += together) {
      if (together == kFloatBlocks) {
        float_strip<kFloatBlocks, kPairs>(w, in, y, first, count, block);
      } else {
        float_strip<1, kPairs>(w, in, y, first, count, block);
      }
    }
    for (; block < end; ++block) float_strip<1, kPairs>(w, in, y, first, count, block);
  }
#if defined(__AVX512F__)
  _mm_sfence();  // y may have been streamed
#endif
}

TGV_INLINE void multiply_bf16(const Linear& w, const LinearInput& in, const LinearOutput& out,
                              int64_t begin, int64_t end) {
  multiply_floats<true>(w, in, out, begin, end);
}

TGV_INLINE void multiply_f32(const Linear& w, const LinearInput& in, const LinearOutput& out,
                             int64_t begin, int64_t end) {
  multiply_floats<false>(w, in, out, begin, end);
}

}  // namespace
}  // namespace tgv::cpu
