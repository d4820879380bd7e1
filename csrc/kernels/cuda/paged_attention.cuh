// What      One query per sequence and head against its cached keys and values: attention of a
// decode step.
//
// Math      Flash decoding. Each cut of 64 positions keeps m = max score, l = sum exp(score - m), o
// = sum exp(...) v;
//           cuts are merged in ascending order: exp2 throughout, with log2(e) folded into the
//           scale.
//
// Tensors   PagedAttentionParams (paged_attention.h). A page of a head is 16 x D halves,
// contiguous.
//           partial: [S, H, cuts, D + 2]: m, l, o[D].
//
// Threads   One warp per (sequence, head, cut). A page is one A operand of the tensor core (16
// positions x D), the query
//           the B operand, the same in all eight columns, so every lane of a quad receives the two
//           scores of positions g and g + 8 without a reduction. k is permuted (lane t owns
//           elements 16j + 4t ... of step j) so that K and V are read 8 bytes a lane with every
//           32-byte sector used once. V is multiplied on the same mapping by plain FMA; one shuffle
//           reduction over g at the end.
//
// Traffic   K and V once, past L1, plus (D + 2) floats per cut written and read back: 2.5 % at D
// = 80.
//
// Limits    paged_attention_why_not: D 64 or 80, f16.
//
// Numerics  fp32 scores, sums and output. A result depends on its own sequence alone. Positions
// beyond the length are
//           never used, whatever their bits are (NaN included): scores become -inf and values 0.
//
// Oracle    Double precision over the gathered positions, csrc/tests/paged_attention_test.cc.
#pragma once

#include "kernels/cuda/device/bits.cuh"
#include "kernels/cuda/device/convert.cuh"
#include "kernels/cuda/device/load.cuh"
#include "kernels/cuda/device/mma.cuh"
#include "kernels/cuda/paged_attention.h"

namespace tgv::cuda {

inline constexpr int kAttentionWarps = 4;

// What a warp carries from page to page. o[4j + e]: element 16j + 4t + e, of this lane's positions
// alone.
template <int D>
struct AttentionState {
  float m, l, o[D / 4];
};

// A page's fragments: rows g and g + 8, four elements of each of the D / 16 steps.
template <int D>
struct PageRows {
  uint2 low[D / 16], high[D / 16];
};

template <int D>
__device__ __forceinline__ PageRows<D> load_page(const Half* page, int g, int t) {
  PageRows<D> rows;
#pragma unroll
  for (int j = 0; j < D / 16; ++j) {
    rows.low[j] = load_once_8(page + g * D + j * 16 + t * 4);
    rows.high[j] = load_once_8(page + (g + 8) * D + j * 16 + t * 4);
  }
  return rows;
}

// o = o * shrink + e0 * v0 + e1 * v1 for four elements.
__device__ __forceinline__ void add_values(float* o, float shrink, float e0, uint2 v0, float e1,
                                           uint2 v1) {
  const float2 a0 = half2_to_float2(v0.x), a1 = half2_to_float2(v0.y);
  const float2 b0 = half2_to_float2(v1.x), b1 = half2_to_float2(v1.y);
  o[0] = fmaf(o[0], shrink, fmaf(e0, a0.x, e1 * b0.x));
  o[1] = fmaf(o[1], shrink, fmaf(e0, a0.y, e1 * b0.y));
  o[2] = fmaf(o[2], shrink, fmaf(e0, a1.x, e1 * b1.x));
  o[3] = fmaf(o[3], shrink, fmaf(e0, a1.y, e1 * b1.y));
}

// One page: valid0 and valid1 say whether positions g and g + 8 belong to the sequence. At least
// one position of the page must, so that the maximum is finite.
template <int D>
__device__ __forceinline__ void attend_page(AttentionState<D>& state, const uint2 (&q)[D / 16],
                                            const Half* k_page, const Half* v_page,
                                            float scale_log2, bool valid0, bool valid1, int g,
                                            int t) {
  const PageRows<D> k = load_page<D>(k_page, g, t);
  PageRows<D> v = load_page<D>(v_page, g, t);
  float s[4] = {0.0f, 0.0f, 0.0f, 0.0f};
#pragma unroll
  for (int j = 0; j < D / 16; ++j) {
    const uint32_t a[4] = {k.low[j].x, k.high[j].x, k.low[j].y, k.high[j].y};
    mma_f16(s, a, q[j].x, q[j].y, s);
    if (!valid0)
      v.low[j] =
          uint2{0, 0};  // 0 * NaN is NaN: what must not be read must not be multiplied either
    if (!valid1) v.high[j] = uint2{0, 0};
  }
  const float x0 = valid0 ? s[0] * scale_log2 : -INFINITY;
  const float x1 = valid1 ? s[2] * scale_log2 : -INFINITY;
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
    add_values(state.o + 4 * j, shrink, e0, v.low[j], e1, v.high[j]);
  }
}

template <int D>
__global__ void __launch_bounds__(kAttentionWarps * 32)
    paged_attention_cuts(const PagedAttentionParams p, int max_cuts) {
  const int lane = threadIdx.x & 31, g = lane >> 2, t = lane & 3;
  const int64_t item = int64_t{blockIdx.x} * kAttentionWarps + (threadIdx.x >> 5);
  const int cut = static_cast<int>(item % max_cuts),
            h = static_cast<int>(item / max_cuts % p.heads);
  const int64_t sequence = item / max_cuts / p.heads;
  if (sequence >= p.sequences) return;  // whole warps leave together
  const int length = p.lengths[sequence], begin = cut * kCutPositions;
  if (begin >= length) return;
  const int end = min(length, begin + kCutPositions);

  uint2 q[D / 16];
  const Half* q_row = p.q + (sequence * p.heads + h) * D;
#pragma unroll
  for (int j = 0; j < D / 16; ++j) q[j] = *reinterpret_cast<const uint2*>(q_row + j * 16 + t * 4);

  AttentionState<D> state;
  state.m = -INFINITY;
  state.l = 0.0f;
#pragma unroll
  for (int i = 0; i < D / 4; ++i) state.o[i] = 0.0f;

  const float scale_log2 = p.scale * 1.4426950408889634f;
  const int32_t* table = p.block_table + sequence * p.max_pages;
  for (int first = begin; first < end; first += kPagePositions) {
    const int64_t page =
        (int64_t{table[first / kPagePositions]} * p.heads + h) * kPagePositions * D;
    attend_page<D>(state, q, p.k_pages + page, p.v_pages + page, scale_log2, first + g < end,
                   first + g + 8 < end, g, t);
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
#pragma unroll
      for (int e = 0; e < 4; ++e) out[2 + j * 16 + t * 4 + e] = state.o[4 * j + e];
    }
  }
}

// One warp per (sequence, head): merges its cuts in ascending order.
template <int D>
__global__ void __launch_bounds__(kAttentionWarps * 32)
    paged_attention_merge(const PagedAttentionParams p, int max_cuts) {
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
    p.out[item * D + d] = cuts ? o / l : 0.0f;
  }
}

}  // namespace tgv::cuda
