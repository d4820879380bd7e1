// What      One query per sequence and head against its cached keys and values: attention of a
//           decode step.
//
// Math      Flash decoding. Each cut of 64 positions keeps m = max score, l = sum exp(score - m)
//           and o = sum exp(score - m) v; cuts are merged in ascending order: exp2 throughout, with
//           log2(e) folded into the scale. The scales of 8-bit pages go to where one number stands
//           for a position: that of K into its score, that of V into its weight (of o, not of l).
//
// Tensors   PagedAttentionParams (paged_attention.h). A page of a head is 16 x D elements,
//           contiguous. partial: [S, H, cuts, D + 2]: m, l, o[D].
//
// Threads   One warp per (sequence, head, cut). A page is one A operand of the tensor core (16
//           positions x D), the query the B operand, the same in all eight columns, so every lane
//           of a quad receives the two scores of positions g and g + 8 without a reduction. k is
//           permuted (KvRows::column) so that K and V are read 8 bytes a lane (16 of f32) with
//           every byte of a sector used; of a row of bytes with an odd number of steps the last is
//           read 4 bytes a lane. V is multiplied on the same mapping by plain FMA; one shuffle
//           reduction over g at the end. f32 pages have no tensor core that keeps their bits: their
//           scores are FMA chains of a lane's own columns, added over the quad.
//
// Traffic   K and V once, past L1, plus (D + 2) floats per cut written and read back: 3 % of f16
//           at D = 80, 6 % of the 8-bit kinds.
//
// Limits    paged_attention_why_not: D 64 or 80.
//
// Numerics  fp32 scores, sums and output (rounded once where it is f16); 8-bit elements become
// halves exactly, bf16 is multiplied
//           as bf16, f32 as f32. A result depends on its own sequence alone. Positions beyond the
//           length are never used, whatever their bits and scales are (NaN included): scores become
//           -inf and values 0.
//
// Oracle    Double precision over the gathered positions, csrc/tests/paged_attention_test.cc.
#pragma once

#include "kernels/cuda/device/bits.cuh"
#include "kernels/cuda/device/dependent.cuh"
#include "kernels/cuda/device/elements.cuh"
#include "kernels/cuda/device/load.cuh"
#include "kernels/cuda/kv_pages.cuh"
#include "kernels/cuda/paged_attention.h"

namespace tgv::cuda {

inline constexpr int kAttentionWarps = 4;

// What a warp carries from page to page. o[4j + e]: element KvRows::column(j, t) + e, of this
// lane's positions alone.
template <int D>
struct AttentionState {
  float m, l, o[D / 4];
};

// A lane's share of rows g and g + 8 of a page: four neighbours of each of the D / 16 steps.
template <KvKind kKind, int D>
struct KvRows {
  static constexpr int kSteps = D / 16;
  static constexpr int kWords = kKvElementBytes<kKind>;  // of four elements
  // Bytes are read eight at a time, and eight neighbours are two steps.
  static constexpr int kPairedSteps = kKvHasScales<kKind> ? kSteps / 2 * 2 : 0;

  uint32_t low[kSteps * kWords], high[kSteps * kWords];

  __device__ static __forceinline__ int column(int step, int t) {
    return step < kPairedSteps ? step / 2 * 32 + t * 8 + step % 2 * 4 : step * 16 + t * 4;
  }
};

template <KvKind kKind, int D>
__device__ __forceinline__ void load_row(uint32_t* words, const uint8_t* row, int t) {
  using Rows = KvRows<kKind, D>;
#pragma unroll
  for (int j = 0; j < Rows::kSteps; ++j) {
    const uint8_t* from = row + Rows::column(j, t) * kKvElementBytes<kKind>;
    uint32_t* to = words + j * Rows::kWords;
    if constexpr (kKind == KvKind::kF32) {
      const uint4 v = load_once_16(from);
      to[0] = v.x, to[1] = v.y, to[2] = v.z, to[3] = v.w;
    } else if (Rows::kWords == 2 || (j < Rows::kPairedSteps && j % 2 == 0)) {
      const uint2 v = load_once_8(from);
      to[0] = v.x, to[1] = v.y;
    } else if (j >= Rows::kPairedSteps) {
      to[0] = load_once_4(from);
    }
  }
}

template <KvKind kKind, int D>
__device__ __forceinline__ KvRows<kKind, D> load_page(const void* pages, int64_t first_row, int g,
                                                      int t) {
  constexpr int kRowBytes = D * kKvElementBytes<kKind>;
  const uint8_t* page = static_cast<const uint8_t*>(pages) + first_row * kRowBytes;
  KvRows<kKind, D> rows;
  load_row<kKind, D>(rows.low, page + g * kRowBytes, t);
  load_row<kKind, D>(rows.high, page + (g + 8) * kRowBytes, t);
  return rows;
}

// The query in the same columns: kKvQueryBytes words of four elements per step.
template <KvKind kKind, int D>
__device__ __forceinline__ void load_query(uint32_t (&q)[D / 16 * kKvQueryBytes<kKind>],
                                           const void* queries, int64_t row, int t) {
  constexpr int kBytes = kKvQueryBytes<kKind>;
  const uint8_t* from = static_cast<const uint8_t*>(queries) + row * D * kBytes;
#pragma unroll
  for (int j = 0; j < D / 16; ++j) {
    const uint32_t* four =
        reinterpret_cast<const uint32_t*>(from + KvRows<kKind, D>::column(j, t) * kBytes);
#pragma unroll
    for (int i = 0; i < kBytes; ++i) q[j * kBytes + i] = four[i];
  }
}

__device__ __forceinline__ float dot_four(float4 a, float4 b, float sum) {
  return fmaf(a.w, b.w, fmaf(a.z, b.z, fmaf(a.y, b.y, fmaf(a.x, b.x, sum))));
}

// q . k of positions g and g + 8, without the scales of K, in every lane of their quad.
template <KvKind kKind, int D>
__device__ __forceinline__ float2 page_scores(const uint32_t (&q)[D / 16 * kKvQueryBytes<kKind>],
                                              const KvRows<kKind, D>& k) {
  constexpr int kWords = KvRows<kKind, D>::kWords;
  if constexpr (kKind == KvKind::kF32) {
    float2 s = make_float2(0.0f, 0.0f);
#pragma unroll
    for (int j = 0; j < D / 16; ++j) {
      const float4 x = to_floats<kKind>(q + j * kWords);
      s.x = dot_four(to_floats<kKind>(k.low + j * kWords), x, s.x);
      s.y = dot_four(to_floats<kKind>(k.high + j * kWords), x, s.y);
    }
#pragma unroll
    for (int d = 1; d < 4; d *= 2) {
      s.x += __shfl_xor_sync(0xffffffffu, s.x, d);
      s.y += __shfl_xor_sync(0xffffffffu, s.y, d);
    }
    return s;
  } else {
    float s[4] = {0.0f, 0.0f, 0.0f, 0.0f};
#pragma unroll
    for (int j = 0; j < D / 16; ++j) {
      const uint2 low = product_words<kKind>(k.low + j * kWords);
      const uint2 high = product_words<kKind>(k.high + j * kWords);
      const uint32_t a[4] = {low.x, high.x, low.y, high.y};
      add_product<kKind>(s, a, q[2 * j], q[2 * j + 1]);
    }
    return make_float2(s[0], s[2]);
  }
}

// o = o * shrink + e0 * v0 + e1 * v1 for four elements.
__device__ __forceinline__ void add_values(float* o, float shrink, float e0, float4 v0, float e1,
                                           float4 v1) {
  o[0] = fmaf(o[0], shrink, fmaf(e0, v0.x, e1 * v1.x));
  o[1] = fmaf(o[1], shrink, fmaf(e0, v0.y, e1 * v1.y));
  o[2] = fmaf(o[2], shrink, fmaf(e0, v0.z, e1 * v1.z));
  o[3] = fmaf(o[3], shrink, fmaf(e0, v0.w, e1 * v1.w));
}

// One page, whose rows of this head begin at row `first_row` of the pages: valid0 and valid1 say
// whether positions g and g + 8 belong to the sequence. At least one position of the page must, so
// that the maximum is finite.
template <KvKind kKind, int D>
__device__ __forceinline__ void attend_page(AttentionState<D>& state,
                                            const uint32_t (&q)[D / 16 * kKvQueryBytes<kKind>],
                                            const PagedAttentionParams& p, int64_t first_row,
                                            float scale_log2, bool valid0, bool valid1, int g,
                                            int t) {
  constexpr int kWords = KvRows<kKind, D>::kWords;
  const KvRows<kKind, D> k = load_page<kKind, D>(p.k_pages, first_row, g, t);
  KvRows<kKind, D> v = load_page<kKind, D>(p.v_pages, first_row, g, t);
  float2 k_scale = make_float2(scale_log2, scale_log2), v_scale = make_float2(1.0f, 1.0f);
  if constexpr (kKvHasScales<kKind>) {
    k_scale.x *= half_to_float(p.k_scales[first_row + g]);
    k_scale.y *= half_to_float(p.k_scales[first_row + g + 8]);
    v_scale.x = half_to_float(p.v_scales[first_row + g]);
    v_scale.y = half_to_float(p.v_scales[first_row + g + 8]);
  }
  // 0 * NaN is NaN: what must not be read must not be multiplied either.
  if (!valid0) {
    v_scale.x = 0.0f;
#pragma unroll
    for (uint32_t& word : v.low) word = 0;
  }
  if (!valid1) {
    v_scale.y = 0.0f;
#pragma unroll
    for (uint32_t& word : v.high) word = 0;
  }
  const float2 s = page_scores<kKind, D>(q, k);
  const float x0 = valid0 ? s.x * k_scale.x : -INFINITY;
  const float x1 = valid1 ? s.y * k_scale.y : -INFINITY;
  float page_max = fmaxf(x0, x1);
#pragma unroll
  for (int d = 4; d < 32; d *= 2)
    page_max = fmaxf(page_max, __shfl_xor_sync(0xffffffffu, page_max, d));
  const float m = fmaxf(state.m, page_max);
  const float shrink = exp2_fast(state.m - m), e0 = exp2_fast(x0 - m), e1 = exp2_fast(x1 - m);
  state.m = m;
  state.l = fmaf(state.l, shrink, e0 + e1);
#pragma unroll
  for (int j = 0; j < D / 16; ++j) {
    add_values(state.o + 4 * j, shrink, e0 * v_scale.x, to_floats<kKind>(v.low + j * kWords),
               e1 * v_scale.y, to_floats<kKind>(v.high + j * kWords));
  }
}

template <KvKind kKind, int D>
__global__ void __launch_bounds__(kAttentionWarps * 32)
    paged_attention_cuts(const PagedAttentionParams p, int max_cuts) {
  wait_for_previous();
  const int lane = threadIdx.x & 31, g = lane >> 2, t = lane & 3;
  const int64_t item = int64_t{blockIdx.x} * kAttentionWarps + (threadIdx.x >> 5);
  const int cut = static_cast<int>(item % max_cuts),
            h = static_cast<int>(item / max_cuts % p.heads);
  const int64_t sequence = item / max_cuts / p.heads;
  if (sequence >= p.sequences) return;  // whole warps leave together
  const int length = p.lengths[sequence], begin = cut * kCutPositions;
  if (begin >= length) return;
  const int end = min(length, begin + kCutPositions);

  uint32_t q[D / 16 * kKvQueryBytes<kKind>];
  load_query<kKind, D>(q, p.q, sequence * p.heads + h, t);

  AttentionState<D> state;
  state.m = -INFINITY;
  state.l = 0.0f;
#pragma unroll
  for (int i = 0; i < D / 4; ++i) state.o[i] = 0.0f;

  const float scale_log2 = p.scale * 1.4426950408889634f;
  const int32_t* table = p.block_table + sequence * p.max_pages;
  for (int first = begin; first < end; first += kPagePositions) {
    const int64_t row = (int64_t{table[first / kPagePositions]} * p.heads + h) * kPagePositions;
    attend_page<kKind, D>(state, q, p, row, scale_log2, first + g < end, first + g + 8 < end, g, t);
  }

#pragma unroll
  for (int d = 4; d < 32; d *= 2) {
    state.l += __shfl_xor_sync(0xffffffffu, state.l, d);
#pragma unroll
    for (int i = 0; i < D / 4; ++i) state.o[i] += __shfl_xor_sync(0xffffffffu, state.o[i], d);
  }
  float* out = p.partial + item * (D + 2);
  if (lane == 0) {
    out[0] = state.m;
    out[1] = state.l;
  }
  if (g == 0) {
#pragma unroll
    for (int j = 0; j < D / 16; ++j) {
      const int column = KvRows<kKind, D>::column(j, t);
#pragma unroll
      for (int e = 0; e < 4; ++e) out[2 + column + e] = state.o[4 * j + e];
    }
  }
}

// One warp per (sequence, head): merges its cuts in ascending order.
template <int D>
__global__ void __launch_bounds__(kAttentionWarps * 32)
    paged_attention_merge(const PagedAttentionParams p, int max_cuts) {
  wait_for_previous();
  const int lane = threadIdx.x & 31;
  const int64_t item = int64_t{blockIdx.x} * kAttentionWarps + (threadIdx.x >> 5);
  if (item >= int64_t{p.sequences} * p.heads) return;
  const int length = p.lengths[item / p.heads];
  const int cuts = (length + kCutPositions - 1) / kCutPositions;
  const float* partial = p.partial + item * max_cuts * (D + 2);
  float m = -INFINITY;
  for (int cut = 0; cut < cuts; ++cut) m = fmaxf(m, partial[cut * (D + 2)]);
  for (int d = lane; d < D; d += 32) {
    float l = 0.0f, o = 0.0f;
    for (int cut = 0; cut < cuts; ++cut) {
      const float* c = partial + cut * (D + 2);
      const float weight = exp2_fast(c[0] - m);
      l = fmaf(weight, c[1], l);
      o = fmaf(weight, c[2 + d], o);
    }
    const float value = cuts ? o / l : 0.0f;
    if (p.out_is_half) {
      HalfElement::store(p.out, item * D + d, value);
    } else {
      static_cast<float*>(p.out)[item * D + d] = value;
    }
  }
}

}  // namespace tgv::cuda
