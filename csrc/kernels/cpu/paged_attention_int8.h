// int8 pages, where both products of attention are integer: queries and weights become int16, which
// K and V are widened to, and a pair of products is one instruction. Part of
// paged_attention_body.h.
#pragma once

#include "kernels/cpu/paged_attention_body.h"

namespace tgv::cpu {
namespace {

// level = x * up to nearest, x ~ level * down: up and down are powers of two, |level| <= 2^15 - 1.
struct Steps {
  float up, down;
};

// Of numbers whose largest magnitude is `most` and whose magnitudes add up to `total` (which shows
// a NaN that `most` does not).
TGV_INLINE Steps steps_of(float most, float total) {
  if (!(total < 0x1p100f)) return {0.0f, __builtin_nanf("")};
  const int32_t exponent = static_cast<int32_t>(__builtin_bit_cast(uint32_t, most) >> 23) - 127;
  if (exponent < -100) return {0.0f, 0.0f};
  const auto power = [](int32_t n) {
    return __builtin_bit_cast(float, static_cast<uint32_t>(n + 127) << 23);
  };
  return {power(14 - exponent), power(exponent - 14)};
}

// A row of q as int16, zeros up to `width` (a multiple of 16); the result is its step.
TGV_INLINE float round_query(uint8_t* to, const float* row, int64_t head_dim, int64_t width) {
  const auto part = [&](int64_t d) {
    const int64_t n = head_dim - d;
    return n >= 16 ? load(row + d) : load_some(row + d, n);
  };
  Lanes most = splat(0.0f), total = splat(0.0f);
  for (int64_t d = 0; d < head_dim; d += 16) {
    const Lanes size = magnitude(part(d));
    most = larger(size, most);
    total = add(total, size);
  }
  const Steps steps = steps_of(largest(most), sum(total));
  const Lanes up = splat(steps.up);
  for (int64_t d = 0; d < head_dim; d += 16) to_int16(to + 2 * d, multiply(part(d), up));
  for (int64_t d = (head_dim + 15) / 16 * 16; d < width; d += 16) to_int16(to + 2 * d, splat(0.0f));
  return steps.down;
}

TGV_INLINE int64_t first_of(int64_t n) { return n < 0 ? 0 : at_most(n, 16); }

// kRows rows of scores of a cut (kCutTokens apart), the first of which sees `count` >= 1 positions,
// each later one more, become weights times the scales of V as int16, in their place; zeros follow
// up to the next 16th of the last row and 16 further (within the cut). Steps are those of the
// weights. Rows go together so that none waits for itself.
template <int kRows>
TGV_INLINE void weigh_rounded(Softmax* out, float* steps, float* scores, const float* v_scales,
                              int64_t count) {
  const int64_t whole = count / 16 * 16;  // that all rows see
  const auto seen = [&](int row) { return at_most(count + row, kCutTokens); };
  const int64_t end = (seen(kRows - 1) + 15) / 16 * 16;
  const auto at = [&](int row, int64_t i) { return scores + row * kCutTokens + i; };
  Lanes most[kRows], l[kRows], size[kRows], total[kRows];
  for (int r = 0; r < kRows; ++r) most[r] = splat(kLowest);
  for (int64_t i = 0; i < whole; i += 16) {
    for (int r = 0; r < kRows; ++r) most[r] = larger(load(at(r, i)), most[r]);
  }
  for (int64_t i = whole; i < end; i += 16) {
    for (int r = 0; r < kRows; ++r) {
      const Lanes x = keep_first(load(at(r, i)), first_of(seen(r) - i), kMinusInfinity);
      store(at(r, i), x);
      most[r] = larger(x, most[r]);
    }
  }
  for (int r = 0; r < kRows; ++r) {
    out[r].m = largest(most[r]);
    most[r] = splat(out[r].m);
    l[r] = size[r] = total[r] = splat(0.0f);
  }
  const auto weigh = [&](int r, int64_t i, Lanes& w) {
    const Lanes p = exp2(subtract(load(at(r, i)), most[r]));
    l[r] = add(l[r], p);
    w = multiply(p, load(v_scales + i));
  };
  const auto keep = [&](int r, int64_t i, Lanes w) {
    store(at(r, i), w);
    const Lanes without_sign = magnitude(w);
    size[r] = larger(without_sign, size[r]);
    total[r] = add(total[r], without_sign);
  };
  Lanes w;
  for (int64_t i = 0; i < whole; i += 16) {
    for (int r = 0; r < kRows; ++r) weigh(r, i, w), keep(r, i, w);
  }
  for (int64_t i = whole; i < end; i += 16) {  // what is not seen may have any scale
    for (int r = 0; r < kRows; ++r) {
      weigh(r, i, w), keep(r, i, keep_first(w, first_of(seen(r) - i), 0.0f));
    }
  }
  Lanes up[kRows];
  for (int r = 0; r < kRows; ++r) {
    out[r].l = sum(l[r]);
    const Steps of_row = steps_of(largest(size[r]), sum(total[r]));
    steps[r] = of_row.down;
    up[r] = splat(of_row.up);
  }
  for (int64_t i = 0; i < end; i += 16) {
    for (int r = 0; r < kRows; ++r) {
      to_int16(reinterpret_cast<uint8_t*>(at(r, 0)) + 2 * i, multiply(load(at(r, i)), up[r]));
    }
  }
  if (end == kCutTokens) return;
  for (int r = 0; r < kRows; ++r) {
    to_int16(reinterpret_cast<uint8_t*>(at(r, 0)) + 2 * end, splat(0.0f));
  }
}

// Sums of levels as floats.
TGV_INLINE Lanes scaled(Counts sums, float step) { return multiply(to_float(sums), splat(step)); }

}  // namespace
}  // namespace tgv::cpu
