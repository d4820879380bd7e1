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

// A row of D numbers, padded with zeros to whole vectors.
struct Row {
  alignas(64) float x[256];
};

TGV_INLINE void read_row(Row& row, const float* from, int64_t head_dim) {
  for (int64_t d = 0; d < head_dim; d += 16) {
    const int64_t n = head_dim - d;
    store(row.x + d, n >= 16 ? load(from + d) : load_some(from + d, n));
  }
}

TGV_INLINE void write_row(float* to, const Row& row, int64_t head_dim) {
  for (int64_t d = 0; d < head_dim; d += 16) {
    const int64_t n = head_dim - d;
    n >= 16 ? store(to + d, load(row.x + d)) : store_some(to + d, load(row.x + d), n);
  }
}

TGV_INLINE Lanes load_row(const float* p, int64_t d, int64_t head_dim) {
  return head_dim - d >= 16 ? load(p + d) : load_some(p + d, head_dim - d);
}

TGV_INLINE void normalise(Row& row, const float* weight, const float* bias, float eps,
                          int64_t head_dim) {
  const float count = static_cast<float>(head_dim);
  Lanes total = splat(0.0f);
  for (int64_t d = 0; d < head_dim; d += 16) total = add(total, load(row.x + d));
  const Lanes mean = splat(sum(total) / count);
  Lanes squares = splat(0.0f);
  for (int64_t d = 0; d < head_dim; d += 16) {
    Lanes x = subtract(load(row.x + d), mean);
    if (head_dim - d < 16) x = keep_first(x, head_dim - d, 0.0f);
    squares = fma(x, x, squares);
    store(row.x + d, x);
  }
  const Lanes inverse = splat(1.0f / __builtin_sqrtf(sum(squares) / count + eps));
  for (int64_t d = 0; d < head_dim; d += 16) {
    const Lanes x = multiply(load(row.x + d), inverse), w = load_row(weight, d, head_dim);
    store(row.x + d, bias ? fma(x, w, load_row(bias, d, head_dim)) : multiply(x, w));
  }
}

TGV_INLINE void rotate(Row& row, const float* cos, const float* sin, int64_t rotary_dims) {
  const int64_t half = rotary_dims / 2;
  for (int64_t i = 0; i < half; i += 16) {
    const int64_t n = half - i < 16 ? half - i : 16;
    float *const low = row.x + i, *const high = row.x + half + i;
    const Lanes a = load_some(low, n), b = load_some(high, n);
    const Lanes c = load_some(cos + i, n), s = load_some(sin + i, n);
    store_some(low, subtract(multiply(a, c), multiply(b, s)), n);
    store_some(high, add(multiply(b, c), multiply(a, s)), n);
  }
}

// --- rounding ---------------------------------------------------------------------------------
// Levels in `row`, the scale of kv/rows.h returned.
TGV_INLINE uint16_t quantise(Row& row, int64_t head_dim) {
  const Lanes zero = splat(0.0f);
  Lanes most = zero, bad = zero;
  for (int64_t d = 0; d < head_dim; d += 16) {
    const Lanes x = load(row.x + d);
    most = larger(larger(x, subtract(zero, x)), most);
    bad = fma(x, zero, bad);  // NaN from NaN and infinity
  }
  uint16_t scale = float_to_half(largest(most) / 127.0f + sum(bad));
  if (scale >= kHalfInfinity) scale = kHalfNan;
  const bool none = scale == 0 || scale == kHalfNan;
  const Lanes inverse = splat(none ? 0.0f : 1.0f / half_to_float(scale));
  for (int64_t d = 0; d < head_dim; d += 16) {
    const Lanes shifted = add(multiply(load(row.x + d), inverse), splat(kMagic));
    const Lanes level = larger(subtract(shifted, splat(kMagic)), splat(-127.0f));
    store(row.x + d, none ? zero : smaller(level, splat(127.0f)));
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
template <KvKind kKind>
TGV_INLINE void write_rounded(void* to, uint16_t* scale, Row& row, int64_t head_dim) {
  constexpr int64_t kBytes = kKind == KvKind::kF32 ? 4 : kKind == KvKind::kI8 ? 1 : 2;
  if constexpr (kKind == KvKind::kI8) *scale = quantise(row, head_dim);
  auto* const bytes = static_cast<uint8_t*>(to);
  for (int64_t d = 0; d < head_dim; d += 16) {
    const int64_t n = head_dim - d;
    if (n >= 16) {
      write_elements<kKind>(bytes + d * kBytes, load(row.x + d));
    } else {
      alignas(64) uint8_t some[16 * kBytes];
      write_elements<kKind>(some, load(row.x + d));
      __builtin_memcpy(bytes + d * kBytes, some, static_cast<size_t>(n * kBytes));
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

template <KvKind kKind>
void append_kind(const QkvAppendParams& p, int64_t head_begin, int64_t head_end) {
  const int64_t D = p.head_dim;
  Row row;
  for (int64_t t = 0; t < p.tokens; ++t) {
    const int64_t position = p.first_position + t;
    const float* const cos = p.cos + position * (p.rotary_dims / 2);
    const float* const sin = p.sin + position * (p.rotary_dims / 2);
    for (int64_t head = head_begin; head < head_end; ++head) {
      const float* const from = p.qkv + (t * p.heads + head) * 3 * D;
      read_row(row, from, D);
      if (p.q_weight) normalise(row, p.q_weight, p.q_bias, p.eps, D);
      if (p.rotary_dims) rotate(row, cos, sin, p.rotary_dims);
      write_row(p.q + (t * p.heads + head) * D, row, D);

      const Place to = place_of<kKind>(p, head, position);
      read_row(row, from + D, D);
      if (p.k_weight) normalise(row, p.k_weight, p.k_bias, p.eps, D);
      if (p.rotary_dims) rotate(row, cos, sin, p.rotary_dims);
      write_rounded<kKind>(to.k, to.k_scale, row, D);
      read_row(row, from + 2 * D, D);
      write_rounded<kKind>(to.v, to.v_scale, row, D);
    }
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
