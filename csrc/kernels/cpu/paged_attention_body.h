// The arithmetic that decode and prefill share, and the choice between them. Written once over
// sixteen lanes (lanes16_*.h, included before this) and compiled once per ISA. Nothing of the
// standard library is called (cmake/isa.cmake says why).
#pragma once

#include "kernels/cpu/paged_attention_isa.h"

namespace tgv::cpu {
namespace {

constexpr float kLog2e = 1.4426950408889634f;
constexpr float kLowest = -3.4028234663852886e38f;  // below every score: infinities stay apart
constexpr float kMinusInfinity = -__builtin_inff();

template <KvKind kKind>
constexpr int64_t kElementBytes = kKind == KvKind::kF32  ? 4
                                  : kKind == KvKind::kI8 ? 1
                                                         : 2;

// Sixteen elements of a row, from element `first` on. Int8 rows are never read as floats: their
// products are integer (paged_attention_few_int8.h, paged_attention_many_int8.h).
template <KvKind kKind>
TGV_INLINE Lanes elements(const uint8_t* row, int64_t first) {
  const uint8_t* p = row + first * kElementBytes<kKind>;
  if constexpr (kKind == KvKind::kF32) return load(reinterpret_cast<const float*>(p));
  if constexpr (kKind == KvKind::kF16) return from_half(p);
  static_assert(kKind != KvKind::kI8);
  if constexpr (kKind == KvKind::kBF16) return from_bfloat16(p);
}

// The first n of sixteen, the others 0; nothing is read beyond.
template <KvKind kKind>
TGV_INLINE Lanes some_elements(const uint8_t* row, int64_t first, int64_t n) {
  alignas(64) uint8_t copy[16 * kElementBytes<kKind>] = {};
  __builtin_memcpy(copy, row + first * kElementBytes<kKind>,
                   static_cast<size_t>(n * kElementBytes<kKind>));
  return elements<kKind>(copy, 0);
}

// Chunk c of a row of D elements. kWhole: D is a multiple of 16.
template <KvKind kKind, bool kWhole>
TGV_INLINE Lanes chunk(const uint8_t* row, int64_t c, int64_t head_dim) {
  if (kWhole || 16 * (c + 1) <= head_dim) return elements<kKind>(row, 16 * c);
  return some_elements<kKind>(row, 16 * c, head_dim - 16 * c);
}

// 2^x for x <= 0: relative error below 2 * 2^-24; 0 below 2^-126; exactly 1 at 0; NaN stays.
TGV_INLINE Lanes exp2(Lanes x) {
  const Lanes magic = splat(12582912.0f);  // 1.5 * 2^23 leaves no bits for a fraction
  const Lanes kept = larger(splat(-127.0f), x);
  const Lanes shifted = add(kept, magic);
  const Lanes f = subtract(kept, subtract(shifted, magic));
  Lanes p = splat(0x1.41fbbcp-13f);
  p = fma(p, f, splat(0x1.5f3e52p-10f));
  p = fma(p, f, splat(0x1.3b2d4cp-7f));
  p = fma(p, f, splat(0x1.c6aee8p-5f));
  p = fma(p, f, splat(0x1.ebfbdcp-3f));
  p = fma(p, f, splat(0x1.62e430p-1f));
  p = fma(p, f, splat(1.0f));
  return zero_below(x, -126.0f, multiply(p, power_of_two(shifted)));
}

// What a cut, or all cuts so far, leave of a row besides o.
struct Softmax {
  float m, l;
};

// scores [count rounded up to 16] of a cut become weights p, 0 from `count` on. count >= 1.
TGV_INLINE Softmax weigh(float* scores, int64_t count) {
  const int64_t whole = count / 16 * 16, rest = count - whole;
  if (rest) store(scores + whole, keep_first(load(scores + whole), rest, kMinusInfinity));
  Lanes most = splat(kLowest);
  for (int64_t i = 0; i < count; i += 16) most = larger(load(scores + i), most);
  const float m = largest(most);
  const Lanes shift = splat(m);
  Lanes l = splat(0.0f);
  for (int64_t i = 0; i < count; i += 16) {
    const Lanes p = exp2(subtract(load(scores + i), shift));
    l = add(l, p);
    store(scores + i, p);
  }
  return {m, sum(l)};
}

// What joins a cut to all cuts before it: o = o a + cut_o b, l likewise.
struct Factors {
  float a, b;
};

// The next cuts of up to 16 rows join all before them.
TGV_INLINE void join(Softmax* all, const Softmax* cut, Factors* by, int64_t rows) {
  alignas(64) float m[16] = {}, cut_m[16] = {}, l[16] = {}, cut_l[16] = {};
  for (int64_t i = 0; i < rows; ++i) {
    m[i] = all[i].m, l[i] = all[i].l, cut_m[i] = cut[i].m, cut_l[i] = cut[i].l;
  }
  const Lanes top = larger(load(cut_m), load(m));
  const Lanes a = exp2(subtract(load(m), top)), b = exp2(subtract(load(cut_m), top));
  store(l, fma(load(l), a, multiply(load(cut_l), b)));
  store(m, top);
  store(cut_m, a);
  store(cut_l, b);
  for (int64_t i = 0; i < rows; ++i) {
    all[i] = {m[i], l[i]};
    by[i] = {cut_m[i], cut_l[i]};
  }
}

TGV_INLINE void join_outputs(float* o, const float* cut_o, const Factors& by, int64_t width) {
  const Lanes a = splat(by.a), b = splat(by.b);
  for (int64_t d = 0; d < width; d += 16) {
    store(o + d, fma(load(o + d), a, multiply(load(cut_o + d), b)));
  }
}

// y = o / l.
TGV_INLINE void finish(float* y, const float* o, float l, int64_t head_dim) {
  const Lanes divisor = splat(l);
  for (int64_t d = 0; d < head_dim; d += 16) {
    const int64_t n = head_dim - d;
    if (n >= 16) {
      store(y + d, divide(load(o + d), divisor));
    } else {
      store_some(y + d, divide(load_some(o + d, n), divisor), n);
    }
  }
}

// A row of q, padded with zeros to whole vectors.
TGV_INLINE void pad_row(float* to, const float* from, int64_t head_dim) {
  for (int64_t d = 0; d < head_dim; d += 16) {
    const int64_t n = head_dim - d;
    store(to + d, n >= 16 ? load(from + d) : load_some(from + d, n));
  }
}

TGV_INLINE int64_t at_most(int64_t a, int64_t b) { return a < b ? a : b; }

// Where a page's rows of one head begin.
template <KvKind kKind>
struct Pages {
  const PagedAttentionParams& p;

  TGV_INLINE int64_t head_bytes() const { return 16 * p.head_dim * kElementBytes<kKind>; }
  TGV_INLINE const uint8_t* rows(const void* plane, int64_t page, int64_t head) const {
    return static_cast<const uint8_t*>(plane) + p.block_table[page] * p.pages.page_stride +
           head * head_bytes();
  }
  TGV_INLINE const uint8_t* k(int64_t page, int64_t head) const {
    return rows(p.pages.k, page, head);
  }
  TGV_INLINE const uint8_t* v(int64_t page, int64_t head) const {
    return rows(p.pages.v, page, head);
  }
  TGV_INLINE const uint8_t* scale_row(const uint16_t* scales, int64_t page, int64_t head) const {
    return reinterpret_cast<const uint8_t*>(scales) + p.block_table[page] * p.pages.scale_stride +
           head * 32;
  }
  TGV_INLINE void prefetch(int64_t page, int64_t head) const {
    const uint8_t *keys = k(page, head), *values = v(page, head);
    for (int64_t i = 0; i < head_bytes(); i += 64) {
      __builtin_prefetch(keys + i);
      __builtin_prefetch(values + i);
    }
  }
  // What 16 dot products with K are multiplied by.
  TGV_INLINE Lanes k_factors(int64_t page, int64_t head) const {
    const Lanes c = splat(p.scale * kLog2e);
    if constexpr (kKind != KvKind::kI8) return c;
    return multiply(from_half(scale_row(p.pages.k_scales, page, head)), c);
  }
};

}  // namespace
}  // namespace tgv::cpu

#include "kernels/cpu/paged_attention_few.h"
#include "kernels/cpu/paged_attention_few_int8.h"
#include "kernels/cpu/paged_attention_many.h"
#include "kernels/cpu/paged_attention_many_int8.h"

namespace tgv::cpu {
namespace {

template <class Rows, class Cut>
void attend_with(const PagedAttentionParams& p, const PagedAttentionRange& r, void* scratch) {
  float* const memory = static_cast<float*>(scratch);
  const bool few = r.token_end - r.token_begin <= kFewTokens;
  few ? few_tokens<Rows>(p, r, memory) : many_tokens<Cut>(p, r, memory);
}

TGV_INLINE bool empty(const PagedAttentionRange& r) {
  return r.head_begin >= r.head_end || r.token_begin >= r.token_end;
}

template <KvKind kKind>
void attend_floats(const PagedAttentionParams& p, const PagedAttentionRange& r, void* scratch) {
  if (p.head_dim == 80) {
    attend_with<FloatRows<kKind, 5>, FloatCut<kKind, 5>>(p, r, scratch);
  } else {
    attend_with<FloatRows<kKind, 0>, FloatCut<kKind, 0>>(p, r, scratch);
  }
}

TGV_INLINE void attend_int8(const PagedAttentionParams& p, const PagedAttentionRange& r,
                            void* scratch) {
  if (empty(r)) return;
  if (p.head_dim == 80) {
    attend_with<Int8Rows<5>, Int8Cut<5>>(p, r, scratch);
  } else {
    attend_with<Int8Rows<0>, Int8Cut<0>>(p, r, scratch);
  }
}

TGV_INLINE void attend(const PagedAttentionParams& p, const PagedAttentionRange& r, void* scratch) {
  if (empty(r)) return;
  switch (p.pages.kind) {
    case KvKind::kF32:
      return attend_floats<KvKind::kF32>(p, r, scratch);
    case KvKind::kF16:
      return attend_floats<KvKind::kF16>(p, r, scratch);
    case KvKind::kBF16:
      return attend_floats<KvKind::kBF16>(p, r, scratch);
    case KvKind::kI8:
      return attend_int8(p, r, scratch);
  }
}

}  // namespace
}  // namespace tgv::cpu
