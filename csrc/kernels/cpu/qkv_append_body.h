// The work of qkv_append.h, written once over sixteen lanes (lanes16_*.h, included before this) and
// compiled once per ISA. Of the rest of the project only the scalar half conversions are called,
// of the standard library nothing (cmake/isa.cmake says why).
#pragma once

#include "base/float16.h"
#include "kernels/cpu/qkv_append_isa.h"

namespace tgv::cpu {
namespace {

constexpr float kMagic = 12582912.0f;  // 1.5 * 2^23: adding it rounds to nearest, ties to even
constexpr uint16_t kHalfInfinity = 0x7c00, kHalfNan = 0x7e00;

// A row of D numbers as vectors, the last padded with zeros. kChunks: how many, known at compile
// time so that they stay in registers; 0: any D.
template <int kChunks>
struct Row {
  static constexpr int kMost = kChunks ? kChunks : 16;
  const int64_t head_dim;
  Lanes x[kMost];

  TGV_INLINE int64_t chunks() const { return kChunks ? kChunks : (head_dim + 15) / 16; }
  TGV_INLINE bool whole(int64_t c) const { return kChunks || 16 * (c + 1) <= head_dim; }
  TGV_INLINE int64_t rest(int64_t c) const { return head_dim - 16 * c; }

  TGV_INLINE Lanes part_of(const float* p, int64_t c) const {
    return whole(c) ? load(p + 16 * c) : load_some(p + 16 * c, rest(c));
  }
  TGV_INLINE void read(const float* from) {
    for (int64_t c = 0; c < chunks(); ++c) x[c] = part_of(from, c);
  }
  TGV_INLINE void write(float* to) const {
    for (int64_t c = 0; c < chunks(); ++c) {
      whole(c) ? store(to + 16 * c, x[c]) : store_some(to + 16 * c, x[c], rest(c));
    }
  }
};

template <int kChunks>
TGV_INLINE void normalise(Row<kChunks>& row, const float* weight, const float* bias, float eps) {
  const float count = static_cast<float>(row.head_dim);
  const int64_t chunks = row.chunks();
  Lanes total = row.x[0];
  for (int64_t c = 1; c < chunks; ++c) total = add(total, row.x[c]);
  const Lanes mean = splat(sum(total) / count);
  Lanes squares = splat(0.0f);
  for (int64_t c = 0; c < chunks; ++c) {
    row.x[c] = subtract(row.x[c], mean);
    if (!row.whole(c)) row.x[c] = keep_first(row.x[c], row.rest(c), 0.0f);
    squares = fma(row.x[c], row.x[c], squares);
  }
  const Lanes inverse = splat(1.0f / __builtin_sqrtf(sum(squares) / count + eps));
  for (int64_t c = 0; c < chunks; ++c) {
    const Lanes x = multiply(row.x[c], inverse), w = row.part_of(weight, c);
    row.x[c] = bias ? fma(x, w, row.part_of(bias, c)) : multiply(x, w);
  }
}

// a, b = a cos - b sin, b cos + a sin
TGV_INLINE void turn(Lanes& a, Lanes& b, Lanes cos, Lanes sin) {
  const Lanes low = a;
  a = subtract(multiply(a, cos), multiply(b, sin));
  b = add(multiply(b, cos), multiply(low, sin));
}

template <int kChunks>
TGV_INLINE void rotate(Row<kChunks>& row, const float* cos, const float* sin, int64_t half) {
  if (kChunks > 1 && half == 16) return turn(row.x[0], row.x[1], load(cos), load(sin));
  alignas(64) float all[256];
  for (int64_t c = 0; c < row.chunks(); ++c) store(all + 16 * c, row.x[c]);
  for (int64_t i = 0; i < half; i += 16) {
    const int64_t n = half - i < 16 ? half - i : 16;
    Lanes a = load_some(all + i, n), b = load_some(all + half + i, n);
    turn(a, b, load_some(cos + i, n), load_some(sin + i, n));
    store_some(all + i, a, n);
    store_some(all + half + i, b, n);
  }
  for (int64_t c = 0; c < row.chunks(); ++c) row.x[c] = load(all + 16 * c);
}

// --- rounding ---------------------------------------------------------------------------------
// Levels in `row`, the scale of kv/rows.h returned.
template <int kChunks>
TGV_INLINE uint16_t quantise(Row<kChunks>& row) {
  const Lanes zero = splat(0.0f);
  Lanes most = zero, bad = zero;
  for (int64_t c = 0; c < row.chunks(); ++c) {
    most = larger(larger(row.x[c], subtract(zero, row.x[c])), most);
    bad = fma(row.x[c], zero, bad);  // NaN from NaN and infinity
  }
  uint16_t scale = float_to_half(largest(most) / 127.0f + sum(bad));
  if ((scale & 0x7fff) >= kHalfInfinity) scale = kHalfNan;
  const bool none = scale == 0 || scale == kHalfNan;
  const Lanes inverse = splat(none ? 0.0f : 1.0f / half_to_float(scale));
  for (int64_t c = 0; c < row.chunks(); ++c) {
    const Lanes shifted = add(multiply(row.x[c], inverse), splat(kMagic));
    const Lanes level = larger(subtract(shifted, splat(kMagic)), splat(-127.0f));
    row.x[c] = none ? zero : smaller(level, splat(127.0f));
  }
  return scale;
}

template <KvKind kKind>
TGV_INLINE void write_elements(uint8_t* to, Lanes x) {
  if constexpr (kKind == KvKind::kF32) store(reinterpret_cast<float*>(to), x);
  if constexpr (kKind == KvKind::kF16) to_half(to, x);
  if constexpr (kKind == KvKind::kBF16) to_bfloat16(to, x);
  if constexpr (kKind == KvKind::kI8) to_int8(to, x);
}

// `row` is changed by the int8 kind.
template <KvKind kKind, int kChunks>
TGV_INLINE void write_rounded(uint8_t* to, uint16_t* scale, Row<kChunks>& row) {
  constexpr int64_t kBytes = kKind == KvKind::kF32 ? 4 : kKind == KvKind::kI8 ? 1 : 2;
  if constexpr (kKind == KvKind::kI8) *scale = quantise(row);
  for (int64_t c = 0; c < row.chunks(); ++c) {
    if (row.whole(c)) {
      write_elements<kKind>(to + 16 * c * kBytes, row.x[c]);
    } else {
      alignas(64) uint8_t some[16 * kBytes];
      write_elements<kKind>(some, row.x[c]);
      __builtin_memcpy(to + 16 * c * kBytes, some, static_cast<size_t>(row.rest(c) * kBytes));
    }
  }
}

// Where a token's row of a head lies.
struct Place {
  uint8_t *k, *v;
  uint16_t *k_scale, *v_scale;
};

template <KvKind kKind>
TGV_INLINE Place place_of(const QkvAppendParams& p, int64_t head, int64_t position) {
  constexpr int64_t kBytes = kKind == KvKind::kF32 ? 4 : kKind == KvKind::kI8 ? 1 : 2;
  const int64_t page = p.block_table[position / kPageTokens];
  const int64_t row = head * kPageTokens + position % kPageTokens;
  const int64_t offset = page * p.pages.page_stride + row * p.head_dim * kBytes;
  Place out{static_cast<uint8_t*>(p.pages.k) + offset, static_cast<uint8_t*>(p.pages.v) + offset,
            nullptr, nullptr};
  if constexpr (kKind == KvKind::kI8) {
    const int64_t elements = page * (p.pages.scale_stride / 2) + row;
    out.k_scale = p.pages.k_scales + elements;
    out.v_scale = p.pages.v_scales + elements;
  }
  return out;
}

template <KvKind kKind, int kChunks>
void append_rows(const QkvAppendParams& p, int64_t head_begin, int64_t head_end) {
  const int64_t D = p.head_dim, half = p.rotary_dims / 2;
  Row<kChunks> row{D, {}};
  for (int64_t t = 0; t < p.tokens; ++t) {
    const int64_t position = p.first_position + t;
    const float* const cos = p.cos + position * half;
    const float* const sin = p.sin + position * half;
    for (int64_t head = head_begin; head < head_end; ++head) {
      const float* const from = p.qkv + (t * p.heads + head) * 3 * D;
      row.read(from);
      if (p.q_weight) normalise(row, p.q_weight, p.q_bias, p.eps);
      if (half) rotate(row, cos, sin, half);
      row.write(p.q + (t * p.heads + head) * D);

      const Place to = place_of<kKind>(p, head, position);
      row.read(from + D);
      if (p.k_weight) normalise(row, p.k_weight, p.k_bias, p.eps);
      if (half) rotate(row, cos, sin, half);
      write_rounded<kKind>(to.k, to.k_scale, row);
      row.read(from + 2 * D);
      write_rounded<kKind>(to.v, to.v_scale, row);
    }
  }
}

template <KvKind kKind>
void append_kind(const QkvAppendParams& p, int64_t head_begin, int64_t head_end) {
  if (p.head_dim == 80) {
    append_rows<kKind, 5>(p, head_begin, head_end);
  } else {
    append_rows<kKind, 0>(p, head_begin, head_end);
  }
}

TGV_INLINE void append(const QkvAppendParams& p, int64_t head_begin, int64_t head_end) {
  switch (p.pages.kind) {
    case KvKind::kF32:
      return append_kind<KvKind::kF32>(p, head_begin, head_end);
    case KvKind::kF16:
      return append_kind<KvKind::kF16>(p, head_begin, head_end);
    case KvKind::kBF16:
      return append_kind<KvKind::kBF16>(p, head_begin, head_end);
    case KvKind::kI8:
      return append_kind<KvKind::kI8>(p, head_begin, head_end);
  }
}

}  // namespace
}  // namespace tgv::cpu
