// Products with rounded activations, written once over the vector of an ISA and compiled once per
// ISA. A .cc file includes this after defining, in an anonymous namespace inside tgv::cpu:
//
//   kLanes          rows in a vector: 8 or 16
//   kVectors        vectors unpacked together
//   kBlockTile      row blocks taken together, but one alone up to kAloneTokens tokens
//   kTokenTile      tokens whose dot products are in registers together
//   kFinish         what takes the sums of a strip
//   kUnsignedBytes  whether dots8 takes int8 weights as they are stored, 128 too large
//   Ints, Floats    kLanes int32 / float
//   Levels          what a tile of kLanes rows is unpacked to
//   unpack4(tile), unpack8(tile)  -> Levels; chunks of a tile are 64 bytes apart
//   dots4<V, T>(levels[V], x, sums[T][V])  adds sum over 32 k of level * x[token].q[k]; dots8 alike
//   scales(p), zeros(p)  kLanes float16 -> Floats, bytes -> Ints; p at any address
//   as_floats       the bits of Ints
//   splat, add, subtract, multiply, fma(a, b, c) = a b + c rounded once, load, store
//
// Float sums of a block of tokens live in L1: one load and one store per eight dot products fit
// beside them, and one loop serves every number of tokens with the same operations in one order.
#pragma once

#include "kernels/cpu/linear_finish.h"
#include "kernels/cpu/linear_isa.h"
#include "kernels/cpu/linear_round_body.h"

namespace tgv::cpu {
namespace {

// Ahead of the tile in work: far for one stream of few tokens, which waits for the memory; near for
// several, where far lines leave L1 again before they are used.
constexpr int64_t kPrefetchOne = 8192, kPrefetchMore = 2048;

enum class Form { kInt4, kInt4Zeros, kInt8 };
constexpr int64_t head_bytes_of(Form form) {
  return form == Form::kInt4 ? 32 : form == Form::kInt4Zeros ? 48 : 64;
}
constexpr int64_t tile_bytes_of(Form form) { return form == Form::kInt8 ? 512 : 256; }

// The vectors of one tile step. int8 has its scales at the end.
template <int kCount>
struct Unpacked {
  Levels levels[kCount];
  Floats scales[kCount];
  Ints zeros[kCount];
};

template <int kCount, Form kForm, int kTokens>
TGV_INLINE void step_tokens(const Unpacked<kCount>& w, const RoundedTile* x, float* sums,
                            int stride) {
  Ints dots[kTokens][kCount];
  for (int m = 0; m < kTokens; ++m) {
    const int32_t base = __builtin_bit_cast(int32_t, x[m].base);
    const int32_t offset = x[m].start - base;  // -8 sum q
    for (int v = 0; v < kCount; ++v) {
      if (kForm == Form::kInt4) {
        dots[m][v] = splat(x[m].start);
      } else if (kForm == Form::kInt4Zeros) {
        dots[m][v] = add(multiply(w.zeros[v], splat(offset >> 3)), splat(base));
      } else {
        dots[m][v] = splat(kUnsignedBytes ? base + (offset << 4) : base);
      }
    }
  }
  if (kForm == Form::kInt8) {
    dots8<kCount, kTokens>(w.levels, x, dots);
  } else {
    dots4<kCount, kTokens>(w.levels, x, dots);
  }
  for (int m = 0; m < kTokens; ++m) {
    const Floats base = splat(x[m].base);
    for (int v = 0; v < kCount; ++v) {
      float* sum = sums + m * stride + v * kLanes;
      const Floats part = subtract(as_floats(dots[m][v]), base);
      store(sum, kForm == Form::kInt8 ? add(part, load(sum)) : fma(part, w.scales[v], load(sum)));
    }
  }
}

// One tile of kBlocks row blocks for `count` tokens; sums is [token][16 kBlocks].
template <int kBlocks, Form kForm>
TGV_INLINE void tile_step(const uint8_t* tile, const uint8_t* head, int64_t block_bytes,
                          const RoundedTile* x, int64_t count, float* sums) {
  constexpr int kAll = kBlocks * 16 / kLanes;
  constexpr int kCount = kAll < kVectors ? kAll : kVectors;
  constexpr int kStride = 16 * kBlocks;
  for (int first = 0; first < kAll; first += kCount) {
    Unpacked<kCount> w;
    for (int v = 0; v < kCount; ++v) {
      const int row = (first + v) * kLanes, r = row % 16;
      const int64_t block = row / 16 * block_bytes;
      const uint8_t* own = tile + block + 4 * r;
      w.levels[v] = kForm == Form::kInt8 ? unpack8(own) : unpack4(own);
      if (kForm != Form::kInt8) w.scales[v] = scales(head + block + 2 * r);
      if (kForm == Form::kInt4Zeros) w.zeros[v] = zeros(head + block + 32 + r);
    }
    float* out = sums + first * kLanes;
    int64_t m = 0;
    for (; m + kTokenTile <= count; m += kTokenTile) {
      step_tokens<kCount, kForm, kTokenTile>(w, x + m, out + m * kStride, kStride);
    }
    if constexpr (kTokenTile > 4) {
      for (; m + 4 <= count; m += 4) {
        step_tokens<kCount, kForm, 4>(w, x + m, out + m * kStride, kStride);
      }
    }
    if constexpr (kTokenTile > 2) {
      for (; m + 2 <= count; m += 2) {
        step_tokens<kCount, kForm, 2>(w, x + m, out + m * kStride, kStride);
      }
    }
    for (; m < count; ++m) {
      step_tokens<kCount, kForm, 1>(w, x + m, out + m * kStride, kStride);
    }
  }
}

template <int kBlocks, int kLines>
TGV_INLINE void prefetch_tile(const uint8_t* tile, int64_t block_bytes) {
  constexpr int64_t kAhead = kBlocks == 1 ? kPrefetchOne : kPrefetchMore;
  for (int b = 0; b < kBlocks; ++b) {
    for (int line = 0; line < kLines + 1; ++line) {  // a head, too
      __builtin_prefetch(tile + b * block_bytes + 64 * line + kAhead);
    }
  }
}

// sums[token][16 kBlocks] *= the float32 scales of the rows, at the start of each int8 block.
template <int kBlocks>
TGV_INLINE void scale_rows(const uint8_t* block, int64_t block_bytes, int64_t count, float* sums) {
  for (int64_t m = 0; m < count; ++m) {
    for (int row = 0; row < 16 * kBlocks; row += kLanes) {
      const float* scale =
          reinterpret_cast<const float*>(block + row / 16 * block_bytes) + row % 16;
      float* sum = sums + m * 16 * kBlocks + row;
      store(sum, multiply(load(sum), load(scale)));
    }
  }
}

// A block of tokens.
struct Tokens {
  int64_t first, count;
};

// Row blocks block .. block + kBlocks - 1 for a block of tokens.
template <int kBlocks, Form kForm>
TGV_INLINE void strip(const Linear& w, const LinearInput& in, const Tokens& tokens, int64_t block,
                      const Target& to) {
  constexpr int kStride = 16 * kBlocks;
  constexpr int64_t kHead = head_bytes_of(kForm), kTile = tile_bytes_of(kForm);
  const int64_t tiles = w.shape.tiles(), block_bytes = w.shape.block_bytes(), count = tokens.count;
  const int64_t tiles_of_group = kForm == Form::kInt8 ? tiles : w.shape.group_size / 32;
  const uint8_t* head = w.packed + block * block_bytes;  // of the first block
  const RoundedTile* x = static_cast<const RoundedTile*>(in.rounded) + tokens.first * tiles;

  alignas(64) float sums[kLinearTokens * kStride];
  __builtin_memset(sums, 0, static_cast<size_t>(count) * kStride * sizeof(float));
  for (int64_t begin = 0; begin < tiles; begin += tiles_of_group) {
    const int64_t end = begin + tiles_of_group < tiles ? begin + tiles_of_group : tiles;
    for (int64_t t = begin; t < end; ++t) {
      const uint8_t* tile = head + kHead + kTile * (t - begin);
      prefetch_tile<kBlocks, kTile / 64>(tile, block_bytes);
      tile_step<kBlocks, kForm>(tile, head, block_bytes, x + t * count, count, sums);
    }
    head += kHead + kTile * (end - begin);
  }
  if (kForm == Form::kInt8) {
    scale_rows<kBlocks>(w.packed + block * block_bytes, block_bytes, count, sums);
  }
  kFinish(w, to, sums, count, 16 * block, kBlocks);
}

// Few tokens leave the memory to wait for, and one stream is what it serves best.
TGV_INLINE bool taken_together(const LinearInput& in) {
  return kBlockTile > 1 && in.tokens > kAloneTokens;
}

template <Form kForm>
TGV_INLINE void rows_to_y(const Linear& w, const LinearInput& in, const Tokens& tokens, float* y,
                          int64_t begin, int64_t end) {
  int64_t block = begin;
  if (taken_together(in)) {
    for (; block + kBlockTile <= end; block += kBlockTile) {
      const Target to = target_of(w, in, y, tokens.first, 16 * block);
      strip<kBlockTile, kForm>(w, in, tokens, block, to);
    }
  }
  for (; block < end; ++block) {
    strip<1, kForm>(w, in, tokens, block, target_of(w, in, y, tokens.first, 16 * block));
  }
}

// Two blocks are 32 columns of the next product, which reads them as a tile.
template <Form kForm, RoundTile* kRoundTile>
TGV_INLINE void rows_to_tiles(const Linear& w, const LinearInput& in, const Tokens& tokens,
                              void* rounded, int64_t begin, int64_t end) {
  alignas(64) float pair[kLinearTokens * 32];
  for (int64_t block = begin; block < end; block += 2) {
    if (taken_together(in) && kBlockTile == 2 && block + 2 <= end) {
      strip<kBlockTile, kForm>(w, in, tokens, block, {pair, 32, 32, false});
    } else {
      strip<1, kForm>(w, in, tokens, block, {pair, 32, 16, false});
      if (block + 1 < end) {
        strip<1, kForm>(w, in, tokens, block + 1, {pair + 16, 32, 16, false});
      } else {
        for (int64_t m = 0; m < tokens.count; ++m) __builtin_memset(pair + 32 * m + 16, 0, 64);
      }
    }
    RoundedTile* const out =
        rounded_column(rounded, w.shape.rows, tokens.first, tokens.count, block / 2);
    for (int64_t m = 0; m < tokens.count; ++m) kRoundTile(out[m], pair + 32 * m);
  }
}

// One block of tokens after the other: its activations stay in L2, and the weights of a claim come
// from the cache after the first.
template <Form kForm, RoundTile* kRoundTile>
TGV_INLINE void multiply_blocks(const Linear& w, const LinearInput& in, const LinearOutput& out,
                                int64_t begin, int64_t end) {
  for (int64_t first = 0; first < in.tokens; first += kLinearTokens) {
    const int64_t left = in.tokens - first, count = left < kLinearTokens ? left : kLinearTokens;
    const Tokens tokens{first, count};
    if (out.rounded) {
      rows_to_tiles<kForm, kRoundTile>(w, in, tokens, out.rounded, begin, end);
    } else {
      rows_to_y<kForm>(w, in, tokens, out.y, begin, end);
    }
  }
#if defined(__AVX512F__)
  if (!out.rounded) _mm_sfence();  // y may have been streamed
#endif
}

template <RoundTile* kRoundTile = round_tile>
TGV_INLINE void multiply_int4(const Linear& w, const LinearInput& in, const LinearOutput& out,
                              int64_t begin, int64_t end) {
  if (w.shape.symmetric) {
    multiply_blocks<Form::kInt4, kRoundTile>(w, in, out, begin, end);
  } else {
    multiply_blocks<Form::kInt4Zeros, kRoundTile>(w, in, out, begin, end);
  }
}

template <RoundTile* kRoundTile = round_tile>
TGV_INLINE void multiply_int8(const Linear& w, const LinearInput& in, const LinearOutput& out,
                              int64_t begin, int64_t end) {
  multiply_blocks<Form::kInt8, kRoundTile>(w, in, out, begin, end);
}

}  // namespace
}  // namespace tgv::cpu
