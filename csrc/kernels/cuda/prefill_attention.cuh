// What      Causal attention of the new tokens of some sequences over their paged keys and values,
//           those of the new tokens included: attention of a prompt, or of a part of one.
//
// Math      Flash attention. 64 queries go over the keys in steps of 64 and keep, for each query, m
//           = max score, l = sum exp(score - m) and o = sum exp(score - m) v (exp2, with log2(e) in
//           the scale). The scales of 8-bit pages act on numbers that stand for a position: that of
//           K on its score, that of V on its weight. Weights are rounded to 16 bits, so they take
//           the scale of V as a share of the largest one that the query has met, and o is in units
//           of that one.
//
// Tensors   PrefillAttentionParams (prefill_attention.h). Shared: K and V of a step as [64, D + 8]
//           halves: rows are 16 bytes over a multiple of 32, so the eight rows of an ldmatrix lie
//           in eight different bank groups.
//
// Threads   A block per (64 queries, sequence, head), those with most keys first. 4 warps of 16
//           queries each: S = Q K^T is D / 16 x 8 products m16n8k16 with Q in registers, O = P V is
//           4 x D / 8, P going from accumulators to operands without leaving the registers. D = 80
//           is five steps and ten columns of tiles, nothing is padded. The next step's K and V are
//           copied while this one is computed: into a second buffer, or, of 8-bit kinds, as they
//           are stored, to be made halves at the next step. At most 168 registers: three blocks a
//           multiprocessor.
//
// Traffic   K and V once per 64 queries (from L2 but for the first), q and out once.
//
// Limits    prefill_attention_why_not: D 64 or 80; f16, bf16, int8 and e4m3 pages.
//
// Numerics  fp32 scores, softmax, sums and output (rounded once where it is f16); weights are f16
// (bf16 over bf16 pages) before
//           they meet V. A row depends on its own query and the positions it sees: not on the other
//           sequences, the other queries, or how a prompt was cut into launches, bit for bit.
//           Positions beyond the context are not used, whatever their bits and scales are. Of later
//           positions of the context finite elements do not matter; a NaN or infinity in V reaches
//           the queries of the same 64 before it (0 * NaN), one in K or in a scale does not.
//
// Oracle    Double precision over the gathered positions, csrc/tests/prefill_attention_test.cc.
#pragma once

#include "kernels/cuda/device/bits.cuh"
#include "kernels/cuda/device/copy_async.cuh"
#include "kernels/cuda/device/dependent.cuh"
#include "kernels/cuda/kv_pages.cuh"
#include "kernels/cuda/prefill_attention.h"

namespace tgv::cuda {

inline constexpr int kPrefillWarps = 4;
inline constexpr int kPrefillThreads = kPrefillWarps * 32;

// What of a block lies where in its shared memory, in bytes. "stored": as in the pages.
template <KvKind kKind, int D>
struct PrefillShared {
  static constexpr bool kConvert = kKvHasScales<kKind>;
  static constexpr int kStride = D + 8;  // halves
  static constexpr int kTile = kPrefillKeys * kStride * 2;
  static constexpr int kRow = D * kKvElementBytes<kKind>;  // of a page
  static constexpr int kStored = kConvert ? kPrefillKeys * kRow : 0;
  static constexpr int kStoredScales = kConvert ? kPrefillKeys * 2 : 0;
  static constexpr int kScales = kConvert ? kPrefillKeys * 4 : 0;
  static constexpr int kStages = kConvert ? 1 : 2;  // of K and V tiles

  static constexpr int kStoredAt = 2 * kStages * kTile;
  static constexpr int kStoredScalesAt = kStoredAt + 2 * kStored;
  static constexpr int kScalesAt = kStoredScalesAt + 2 * kStoredScales;
  static constexpr int kBytes = kScalesAt + 2 * kScales;
};

// What a warp keeps of its 16 queries; index 0 is query g, 1 is query g + 8. l: of this lane's
// columns alone. o[n]: columns 8n + 2t, 8n + 2t + 1 of both, in units of `unit` for 8-bit kinds.
template <int D>
struct PrefillState {
  float m[2], l[2], unit[2], o[D / 8][4];
};

// Whose keys a block reads.
struct PrefillContext {
  const int32_t* table;  // of the sequence
  int64_t heads, head;
  int length;
};

// Starts to copy 64 positions of K or V; those beyond the context become zeros, and their table
// entries and pages are not read.
template <int kRow>
__device__ __forceinline__ void copy_positions(uint8_t* to, int stride, const void* pages,
                                               const PrefillContext& context, int first) {
  constexpr int kPieces = kRow / 16;
  // Addresses that do not change from step to step stay in registers, of which the 8-bit kinds,
  // with their scales, have none left.
  [[maybe_unused]] constexpr int kUnroll = kRow < 128 ? 1 : kPieces;
#pragma unroll kUnroll
  for (int i = 0; i < (kPrefillKeys * kPieces + kPrefillThreads - 1) / kPrefillThreads; ++i) {
    const int piece = static_cast<int>(threadIdx.x) + i * kPrefillThreads;
    if (piece >= kPrefillKeys * kPieces) break;
    const int slot = piece / kPieces, part = piece % kPieces, position = first + slot;
    const bool held = position < context.length;
    const int64_t page = held ? context.table[position / kPagePositions] : 0;
    const int64_t row =
        (page * context.heads + context.head) * kPagePositions + position % kPagePositions;
    copy_async_16(to + slot * stride + part * 16,
                  static_cast<const uint8_t*>(pages) + row * kRow + part * 16, held ? 16 : 0);
  }
}

// The scales of K and then of V, eight positions a thread.
__device__ __forceinline__ void copy_scales(uint8_t* to, const PrefillAttentionParams& p,
                                            const PrefillContext& context, int first) {
  constexpr int kPieces = kPrefillKeys / 8;
  const int piece = static_cast<int>(threadIdx.x);
  if (piece >= 2 * kPieces) return;
  const int position = first + piece % kPieces * 8;
  const int held = max(0, min(8, context.length - position));
  const int64_t page = held ? context.table[position / kPagePositions] : 0;
  const int64_t row =
      (page * context.heads + context.head) * kPagePositions + position % kPagePositions;
  copy_async_16(to + piece * 16, (piece < kPieces ? p.k_scales : p.v_scales) + row, held * 2);
}

// Starts to copy the step that begins at position `first`: into tile `stage`, or as it is stored.
template <KvKind kKind, int D>
__device__ __forceinline__ void copy_step(uint8_t* shared, int stage,
                                          const PrefillAttentionParams& p,
                                          const PrefillContext& context, int first) {
  using Shared = PrefillShared<kKind, D>;
  if constexpr (Shared::kConvert) {
    uint8_t* stored = shared + Shared::kStoredAt;
    copy_positions<Shared::kRow>(stored, Shared::kRow, p.k_pages, context, first);
    copy_positions<Shared::kRow>(stored + Shared::kStored, Shared::kRow, p.v_pages, context, first);
    copy_scales(shared + Shared::kStoredScalesAt, p, context, first);
  } else {
    uint8_t* tile = shared + stage * 2 * Shared::kTile;
    copy_positions<Shared::kRow>(tile, Shared::kStride * 2, p.k_pages, context, first);
    copy_positions<Shared::kRow>(tile + Shared::kTile, Shared::kStride * 2, p.v_pages, context,
                                 first);
  }
  commit_copies();
}

// Makes halves of the stored K and V, and floats of their scales, those of K times scale_log2.
template <KvKind kKind, int D>
__device__ __forceinline__ void convert_step(uint8_t* shared, float scale_log2) {
  using Shared = PrefillShared<kKind, D>;
  constexpr int kPieces = D / 8;  // of a row, 8 elements each
#pragma unroll 2
  for (int piece = threadIdx.x; piece < 2 * kPrefillKeys * kPieces; piece += kPrefillThreads) {
    const uint2 words = *reinterpret_cast<const uint2*>(shared + Shared::kStoredAt + piece * 8);
    const uint2 low = product_words<kKind>(&words.x), high = product_words<kKind>(&words.y);
    uint8_t* to = shared + piece / kPieces * Shared::kStride * 2 + piece % kPieces * 16;
    *reinterpret_cast<uint4*>(to) = make_uint4(low.x, low.y, high.x, high.y);
  }
  const Half* scales = reinterpret_cast<const Half*>(shared + Shared::kStoredScalesAt);
  static_assert(kPrefillThreads == 2 * kPrefillKeys, "a thread a scale");
  reinterpret_cast<float*>(shared + Shared::kScalesAt)[threadIdx.x] =
      half_to_float(scales[threadIdx.x]) * (threadIdx.x < kPrefillKeys ? scale_log2 : 1.0f);
}

// The A operands of 16 queries, rows g and g + 8 of `q`; rows that are null are zeros.
template <int D>
__device__ __forceinline__ void load_queries(uint32_t (&a)[D / 16][4], const uint16_t* row0,
                                             const uint16_t* row1, int t) {
#pragma unroll
  for (int j = 0; j < D / 16; ++j) {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const int column = j * 16 + half * 8 + t * 2;
      a[j][half * 2] = row0 ? *reinterpret_cast<const uint32_t*>(row0 + column) : 0u;
      a[j][half * 2 + 1] = row1 ? *reinterpret_cast<const uint32_t*>(row1 + column) : 0u;
    }
  }
}

// s[n]: q . k of queries g, g, g + 8, g + 8 and keys 8n + 2t, + 1, without scales.
template <KvKind kKind, int D>
__device__ __forceinline__ void multiply_keys(float (&s)[kPrefillKeys / 8][4],
                                              const uint32_t (&q)[D / 16][4], const uint16_t* k,
                                              int lane) {
  constexpr int kStride = PrefillShared<kKind, D>::kStride;
  const uint16_t* row = k + ((lane >> 4) * 8 + (lane & 7)) * kStride + (lane >> 3 & 1) * 8;
#pragma unroll
  for (int n = 0; n < kPrefillKeys / 8; ++n) {
#pragma unroll
    for (int i = 0; i < 4; ++i) s[n][i] = 0.0f;
  }
#pragma unroll
  for (int j = 0; j < D / 16; ++j) {
#pragma unroll
    for (int pair = 0; pair < kPrefillKeys / 16; ++pair) {
      uint32_t b[4];
      ldmatrix_x4<false>(b, row + pair * 16 * kStride + j * 16);
      add_product<kKind>(s[2 * pair], q[j], b[0], b[1]);
      add_product<kKind>(s[2 * pair + 1], q[j], b[2], b[3]);
    }
  }
}

// o += P V, P in the layout of multiply_keys.
template <KvKind kKind, int D>
__device__ __forceinline__ void multiply_values(float (&o)[D / 8][4],
                                                const float (&weights)[kPrefillKeys / 8][4],
                                                const uint16_t* v, int lane) {
  constexpr int kStride = PrefillShared<kKind, D>::kStride;
  const uint16_t* row = v + ((lane >> 3 & 1) * 8 + (lane & 7)) * kStride + (lane >> 4) * 8;
#pragma unroll
  for (int step = 0; step < kPrefillKeys / 16; ++step) {
    const float (&w0)[4] = weights[2 * step], (&w1)[4] = weights[2 * step + 1];
    const uint32_t a[4] = {round_pair<kKind>(w0[0], w0[1]), round_pair<kKind>(w0[2], w0[3]),
                           round_pair<kKind>(w1[0], w1[1]), round_pair<kKind>(w1[2], w1[3])};
#pragma unroll
    for (int pair = 0; pair < D / 16; ++pair) {
      uint32_t b[4];
      ldmatrix_x4<true>(b, row + step * 16 * kStride + pair * 16);
      add_product<kKind>(o[2 * pair], a, b[0], b[1]);
      add_product<kKind>(o[2 * pair + 1], a, b[2], b[3]);
    }
  }
}

__device__ __forceinline__ float quad_max(float x) {
  x = fmaxf(x, __shfl_xor_sync(0xffffffffu, x, 1));
  return fmaxf(x, __shfl_xor_sync(0xffffffffu, x, 2));
}

// Weights of one query times the scales of V over the largest scale it has met. Returns what turns
// the old unit into the new.
__device__ __forceinline__ float scale_weights(float (&s)[kPrefillKeys / 8][4], int r, float& unit,
                                               const float* v_scales, int visible, int t) {
  float largest = unit;
#pragma unroll
  for (int n = 0; n < kPrefillKeys / 8; ++n) {
#pragma unroll
    for (int e = 0; e < 2; ++e) {
      const int key = n * 8 + t * 2 + e;
      if (key < visible) largest = fmaxf(largest, fabsf(v_scales[key]));
    }
  }
  largest = quad_max(largest);
  const float inverse = largest > 0.0f ? 1.0f / largest : 0.0f, change = unit * inverse;
  unit = largest;
#pragma unroll
  for (int n = 0; n < kPrefillKeys / 8; ++n) {
#pragma unroll
    for (int e = 0; e < 2; ++e) {
      const int key = n * 8 + t * 2 + e;
      float& weight = s[n][2 * r + e];
      weight = key < visible ? weight * (v_scales[key] * inverse) : 0.0f;
    }
  }
  return change;
}

// Makes weights of the scores of query r, and brings m, l and o up to date. The first `visible`
// keys of the step may be seen.
template <bool kScales, int D>
__device__ __forceinline__ void weigh(PrefillState<D>& state, float (&s)[kPrefillKeys / 8][4],
                                      int r, float scale_log2, const float* scales, int visible,
                                      int t) {
  float largest = state.m[r];
#pragma unroll
  for (int n = 0; n < kPrefillKeys / 8; ++n) {
#pragma unroll
    for (int e = 0; e < 2; ++e) {
      const int key = n * 8 + t * 2 + e;
      const float scale = kScales ? scales[key] : scale_log2;
      float& score = s[n][2 * r + e];
      score = key < visible ? score * scale : -INFINITY;
      largest = fmaxf(largest, score);
    }
  }
  const float m = quad_max(largest);
  float shrink = exp2_fast(state.m[r] - m), sum = 0.0f;
  state.m[r] = m;
#pragma unroll
  for (int n = 0; n < kPrefillKeys / 8; ++n) {
#pragma unroll
    for (int e = 0; e < 2; ++e) {
      float& score = s[n][2 * r + e];
      score = exp2_fast(score - m);
      sum += score;
    }
  }
  state.l[r] = fmaf(state.l[r], shrink, sum);
  if (kScales) {
    shrink *= scale_weights(s, r, state.unit[r], scales + kPrefillKeys, visible, t);
  }
#pragma unroll
  for (int n = 0; n < D / 8; ++n) {
    state.o[n][2 * r] *= shrink;
    state.o[n][2 * r + 1] *= shrink;
  }
}

// One row of out, from its element `at` on: what is left is to add l over the quad.
template <bool kScales, int D>
__device__ __forceinline__ void write_row(const PrefillAttentionParams& p, int64_t at,
                                          const PrefillState<D>& state, int r, int t, bool wanted) {
  float l = state.l[r];
  l += __shfl_xor_sync(0xffffffffu, l, 1);
  l += __shfl_xor_sync(0xffffffffu, l, 2);
  if (!wanted) return;
  const float factor = (kScales ? state.unit[r] : 1.0f) / l;
#pragma unroll
  for (int n = 0; n < D / 8; ++n) {
    const float low = state.o[n][2 * r] * factor, high = state.o[n][2 * r + 1] * factor;
    const int64_t column = at + n * 8 + t * 2;
    if (p.out_is_half) {
      *reinterpret_cast<uint32_t*>(static_cast<Half*>(p.out) + column) = floats_to_half2(low, high);
    } else {
      *reinterpret_cast<float2*>(static_cast<float*>(p.out) + column) = make_float2(low, high);
    }
  }
}

template <KvKind kKind, int D>
__global__ void __launch_bounds__(kPrefillThreads, 3)
    prefill_attention(const PrefillAttentionParams p, int tiles) {
  wait_for_previous();
  using Shared = PrefillShared<kKind, D>;
  TGV_DYNAMIC_SHARED(uint8_t, shared);
  const int lane = threadIdx.x & 31, warp = threadIdx.x >> 5, g = lane >> 2, t = lane & 3;
  const int h = static_cast<int>(blockIdx.x) % p.heads;
  const int rest = static_cast<int>(blockIdx.x) / p.heads;
  const int sequence = rest % p.sequences, tile = tiles - 1 - rest / p.sequences;
  const int tokens = p.tokens[sequence], token = tile * kPrefillQueries + warp * 16 + g;
  if (tile * kPrefillQueries >= tokens) return;  // the whole block
  const PrefillContext context = {p.block_table + int64_t{sequence} * p.max_pages, p.heads, h,
                                  p.contexts[sequence]};
  // Keys that the last query of this block, of this warp, and this lane's two queries may see.
  // Queries beyond the tokens are computed with the others and not written.
  const int before = context.length - tokens;
  const int block_keys = min(context.length, before + (tile + 1) * kPrefillQueries);
  const int warp_keys = token - g < tokens ? min(context.length, before + token - g + 16) : 0;
  const int keys0 = min(context.length, before + token + 1);
  const int keys1 = min(context.length, before + token + 9);

  copy_step<kKind, D>(shared, 0, p, context, 0);
  const int64_t row_elements = int64_t{p.heads} * D;
  const int64_t row = (int64_t{p.first_tokens[sequence]} + token) * row_elements + int64_t{h} * D;
  const uint16_t* queries = static_cast<const uint16_t*>(p.q) + row;
  uint32_t q[D / 16][4];
  load_queries<D>(q, token < tokens ? queries : nullptr,
                  token + 8 < tokens ? queries + 8 * row_elements : nullptr, t);

  PrefillState<D> state;
#pragma unroll
  for (int r = 0; r < 2; ++r) {
    state.m[r] = -INFINITY;
    state.l[r] = state.unit[r] = 0.0f;
  }
#pragma unroll
  for (int n = 0; n < D / 8; ++n) {
#pragma unroll
    for (int i = 0; i < 4; ++i) state.o[n][i] = 0.0f;
  }

  const float scale_log2 = p.scale * 1.4426950408889634f;
  const float* scales = reinterpret_cast<const float*>(shared + Shared::kScalesAt);
  int stage = 0;
  for (int first = 0; first < block_keys; first += kPrefillKeys) {
    wait_copies<0>();
    __syncthreads();  // this step has landed for all, and all are done with the step before
    if constexpr (Shared::kConvert) {
      convert_step<kKind, D>(shared, scale_log2);
      __syncthreads();  // all see the halves, and the stored elements may be overwritten
    }
    if (first + kPrefillKeys < block_keys) {
      copy_step<kKind, D>(shared, stage ^ 1, p, context, first + kPrefillKeys);
    }
    if (first < warp_keys) {  // otherwise every weight is 0
      const uint16_t* k = reinterpret_cast<const uint16_t*>(
          shared + (Shared::kConvert ? 0 : stage * 2 * Shared::kTile));
      float s[kPrefillKeys / 8][4];
      multiply_keys<kKind, D>(s, q, k, lane);
      weigh<Shared::kConvert, D>(state, s, 0, scale_log2, scales, keys0 - first, t);
      weigh<Shared::kConvert, D>(state, s, 1, scale_log2, scales, keys1 - first, t);
      multiply_values<kKind, D>(state.o, s, k + Shared::kTile / 2, lane);
    }
    stage ^= 1;
  }
  write_row<Shared::kConvert, D>(p, row, state, 0, t, token < tokens);
  write_row<Shared::kConvert, D>(p, row + 8 * row_elements, state, 1, t, token + 8 < tokens);
}

}  // namespace tgv::cuda
