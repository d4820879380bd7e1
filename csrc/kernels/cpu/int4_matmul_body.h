// The product itself, written once over the vector of an ISA and compiled once per ISA. A .cc file
// includes this after defining, in an anonymous namespace inside tgv::cpu:
//
//   kLanes            rows in a vector: 8 or 16
//   kBlocks, kVectors row blocks taken together, and vectors unpacked together
//   Ints, Floats      kLanes int32 / float
//   Levels            what a tile of kLanes rows is unpacked to
//   unpack(tile)      -> Levels; the four chunks of the tile are 64 bytes apart
//   dot(levels, x, start)  start + sum over 32 k of level * x[k], one int32 per lane
//   scales(p), zeros(p)    kLanes float16 -> Floats, bytes -> Ints; p at any address
//   splat, multiply, to_float, fma(a, b, c) = a b + c rounded once, load, store
//
// Nothing of the standard library is called (cmake/isa.cmake says why). Accumulators of a block of
// tokens live in L1: at 16 dot products between a load and its store that costs nothing, and one
// loop serves every number of tokens with the same operations in the same order.
#pragma once

#include "kernels/cpu/int4_matmul_isa.h"

namespace tgv::cpu {
namespace {

#define TGV_INLINE inline __attribute__((always_inline))

constexpr int64_t kPrefetchBytes = 2048;  // ahead of the tile in work
constexpr int64_t kOneStreamTokens = 4;

// --- activations ------------------------------------------------------------------------------
// 32 floats at x to int8. Integer maximum of the bits: it orders magnitudes as floats do, puts NaN
// and infinity on top, and compilers vectorise it.
TGV_INLINE void round_block(Int4Activations& out, const float* x, bool symmetric) {
  int32_t top = 0;
  for (int k = 0; k < 32; ++k) {
    const int32_t magnitude = static_cast<int32_t>(__builtin_bit_cast(uint32_t, x[k]) & 0x7fffffff);
    top = magnitude > top ? magnitude : top;
  }
  const float largest = __builtin_bit_cast(float, top);
  constexpr float kTiny = 7.888609052210118e-31f;  // 2^-100
  if (!(largest >= kTiny) || top >= 0x7f800000) {
    for (int k = 0; k < 32; ++k) out.q[k] = 0;
    out.scale = top >= 0x7f800000 ? __builtin_nanf("") : 0.0f;
    out.offset = 0;
    return;
  }
  const float inverse = 127.0f / largest;
  int32_t sum = 0;
  for (int k = 0; k < 32; ++k) {
    // Adding 1.5 * 2^23 leaves no bits for a fraction: nearest, ties to even; the low byte is q.
    const float shifted = x[k] * inverse + 12582912.0f;
    const int32_t level = static_cast<int32_t>(__builtin_bit_cast(uint32_t, shifted) - 0x4b400000u);
    out.q[k] = static_cast<int8_t>(level);
    sum += level;
  }
  out.scale = largest / 127.0f;
  out.offset = symmetric ? -8 * sum : -sum;
}

TGV_INLINE void round_tokens(const Int4MatmulParams& p, const Int4Pass& pass, int64_t token_block,
                             int64_t tile_begin, int64_t tile_end) {
  const int64_t K = p.shape.columns, first = token_block * kInt4Tokens;
  const int64_t left = pass.tokens - first, count = left < kInt4Tokens ? left : kInt4Tokens;
  Int4Activations* block = pass.rounded + first * p.shape.tiles();
  for (int64_t m = 0; m < count; ++m) {
    const float* x = p.x + (pass.first + first + m) * K;
    for (int64_t t = tile_begin; t < tile_end; ++t) {
      Int4Activations& out = block[t * count + m];
      if (32 * (t + 1) <= K) {
        round_block(out, x + 32 * t, p.shape.symmetric);
        continue;
      }
      float padded[32] = {};
      for (int64_t k = 32 * t; k < K; ++k) padded[k - 32 * t] = x[k];
      round_block(out, padded, p.shape.symmetric);
    }
  }
}

// --- epilogue ---------------------------------------------------------------------------------
// gelu_tanh(v) = v / (1 + exp(-2 u)), u = sqrt(2/pi) (v + 0.044715 v^3). exp by 2^n p(r), relative
// error below 3 * 2^-24; the argument is kept where 2^n is a normal number, and below -10, where
// the result is no more than 2e-37, it is 0.
TGV_INLINE float gelu_tanh(float v) {
  const float u = 0.7978845608028654f * (v + 0.044715f * v * v * v);
  const float wanted = -2.0f * u;
  float e = wanted > 87.0f ? 87.0f : wanted;
  e = e < -87.0f ? -87.0f : e;
  const float shifted = e * 1.4426950408889634f + 12582912.0f;
  const float n = shifted - 12582912.0f;
  const float r = (e - n * 0.693145751953125f) - n * 1.4286068203094172e-6f;  // ln 2 in two parts
  float poly = 1.0f / 5040.0f;
  poly = poly * r + 1.0f / 720.0f;
  poly = poly * r + 1.0f / 120.0f;
  poly = poly * r + 1.0f / 24.0f;
  poly = poly * r + 1.0f / 6.0f;
  poly = poly * r + 0.5f;
  poly = poly * r + 1.0f;
  poly = poly * r + 1.0f;
  const uint32_t exponent = (__builtin_bit_cast(uint32_t, shifted) - 0x4b400000u) << 23;
  const float power = __builtin_bit_cast(float, __builtin_bit_cast(uint32_t, poly) + exponent);
  return wanted > 87.0f ? -0.0f : v / (1.0f + power);
}

// sums: 16 accumulators of one token; rows first_row .. first_row + 15, those below N are written.
TGV_INLINE void finish(const Int4MatmulParams& p, int64_t token, int64_t first_row,
                       const float* sums) {
  const int64_t left = p.shape.rows - first_row, count = left < 16 ? left : 16;
  float values[16], bias[16] = {};
  if (p.bias) {
    for (int64_t r = 0; r < count; ++r) bias[r] = p.bias[first_row + r];
  }
  for (int r = 0; r < 16; ++r) values[r] = p.bias ? sums[r] + bias[r] : sums[r];
  if (p.activation == Int4Activation::kGeluTanh) {
    for (int r = 0; r < 16; ++r) values[r] = gelu_tanh(values[r]);
  }
  float* y = p.y + token * p.shape.rows + first_row;
  if (count == 16) {
    __builtin_memcpy(y, values, sizeof(values));
  } else {
    for (int64_t r = 0; r < count; ++r) y[r] = values[r];
  }
}

// --- product ----------------------------------------------------------------------------------
// One tile step of kStep vectors for `count` tokens. heads[v]: scales, then zeros, of the vector's
// rows; sums is [token][stride] float.
template <int kStep, bool kSymmetric>
TGV_INLINE void tile_step(const uint8_t* const (&tiles)[kStep],
                          const uint8_t* const (&heads)[kStep], const int (&rows)[kStep],
                          const Int4Activations* x, int64_t count, float* sums, int stride) {
  Levels levels[kStep];
  Floats weight_scales[kStep];
  Ints weight_zeros[kStep];
  for (int v = 0; v < kStep; ++v) {
    levels[v] = unpack(tiles[v]);
    weight_scales[v] = scales(heads[v] + 2 * rows[v]);
    if (!kSymmetric) weight_zeros[v] = zeros(heads[v] + 32 + rows[v]);
  }
  for (int64_t m = 0; m < count; ++m) {
    const Floats x_scale = splat(x[m].scale);
    const Ints offset = splat(x[m].offset);
    for (int v = 0; v < kStep; ++v) {
      const Ints start = kSymmetric ? offset : multiply(weight_zeros[v], offset);
      const Floats product = to_float(dot(levels[v], x[m].q, start));
      float* sum = sums + m * stride + v * kLanes;
      store(sum, fma(product, multiply(weight_scales[v], x_scale), load(sum)));
    }
  }
}

// Row blocks block .. block + kCount - 1 for one block of tokens.
template <int kCount, bool kSymmetric>
TGV_INLINE void strip(const Int4MatmulParams& p, const Int4Activations* x, int64_t first_token,
                      int64_t count, int64_t block) {
  constexpr int kAll = kCount * 16 / kLanes;  // vectors of the strip
  constexpr int kStep = kVectors < kAll ? kVectors : kAll;
  constexpr int kStride = 16 * kCount;
  constexpr int64_t kHead = kSymmetric ? 32 : 48;
  const int64_t tiles = p.shape.tiles(), tiles_of_group = p.shape.group_size / 32;
  const int64_t block_bytes = p.shape.block_bytes();
  const uint8_t* head = p.packed + block * block_bytes;  // of the first block

  alignas(64) float sums[kInt4Tokens * kStride];
  __builtin_memset(sums, 0, static_cast<size_t>(count) * kStride * sizeof(float));
  for (int64_t begin = 0; begin < tiles; begin += tiles_of_group) {
    const int64_t end = begin + tiles_of_group < tiles ? begin + tiles_of_group : tiles;
    for (int64_t t = begin; t < end; ++t) {
      const uint8_t* tile = head + kHead + 256 * (t - begin);
      for (int b = 0; b < kCount; ++b) {
        for (int line = 0; line < 5; ++line) {  // four and a head
          __builtin_prefetch(tile + b * block_bytes + 64 * line + kPrefetchBytes);
        }
      }
      for (int first = 0; first < kAll; first += kStep) {
        const uint8_t *vector_tiles[kStep], *heads[kStep];
        int rows[kStep];
        for (int v = 0; v < kStep; ++v) {
          const int row = (first + v) * kLanes, b = row / 16;
          rows[v] = row % 16;
          heads[v] = head + b * block_bytes;
          vector_tiles[v] = tile + b * block_bytes + 4 * rows[v];
        }
        tile_step<kStep, kSymmetric>(vector_tiles, heads, rows, x + t * count, count,
                                     sums + first * kLanes, kStride);
      }
    }
    head += kHead + 256 * (end - begin);
  }
  for (int64_t m = 0; m < count; ++m) {
    for (int b = 0; b < kCount; ++b) {
      finish(p, first_token + m, 16 * (block + b), sums + m * kStride + 16 * b);
    }
  }
}

template <bool kSymmetric>
TGV_INLINE void rows_of(const Int4MatmulParams& p, const Int4Pass& pass, int64_t begin,
                        int64_t end) {
  for (int64_t block = begin; block < end;) {
    // Few tokens leave the memory to wait for, and one stream is what it serves best.
    const bool together = pass.tokens > kOneStreamTokens && block + kBlocks <= end;
    for (int64_t first = 0; first < pass.tokens; first += kInt4Tokens) {
      const int64_t left = pass.tokens - first, count = left < kInt4Tokens ? left : kInt4Tokens;
      const Int4Activations* x = pass.rounded + first * p.shape.tiles();
      if (together) {
        strip<kBlocks, kSymmetric>(p, x, pass.first + first, count, block);
      } else {
        strip<1, kSymmetric>(p, x, pass.first + first, count, block);
      }
    }
    block += together ? kBlocks : 1;
  }
}

TGV_INLINE void multiply_rows(const Int4MatmulParams& p, const Int4Pass& pass, int64_t begin,
                              int64_t end) {
  if (p.shape.symmetric) {
    rows_of<true>(p, pass, begin, end);
  } else {
    rows_of<false>(p, pass, begin, end);
  }
}

#undef TGV_INLINE

}  // namespace
}  // namespace tgv::cpu
