// Vectors for linear_rounded_body.h and linear_float_body.h without any instruction set: sixteen
// rows as 16-byte vectors of the compiler, which exist on every x86-64 and ARM. Sixteen bits hold
// what a dot product needs between two widenings.
#pragma once

#include "kernels/cpu/linear_finish.h"

namespace tgv::cpu {
namespace {

constexpr int kLanes = 16, kVectors = 1, kBlockTile = 1, kTokenTile = 1, kAloneTokens = 0;
constexpr int kFloatTokens = 1, kFloatBlocks = 1;
constexpr bool kUnsignedBytes = false;
constexpr LinearFinish* kFinish = linear_finish_portable;
using Words = int16_t __attribute__((vector_size(16)));
using Quads = int32_t __attribute__((vector_size(16)));
using Reals = float __attribute__((vector_size(16)));

struct Ints {
  Quads part[4];
};
struct Floats {
  Reals part[4];
};
// A 16-bit lane is two k of a row, of which step s takes one: k = 4 i + s / 2 + 2 (lane & 1), and
// 16 more for odd s. For int8 the steps are the even and the odd bytes of the eight chunks.
struct Levels {
  Words step[16][4];
};

TGV_INLINE Words words_at(const void* p) {
  Words out;
  __builtin_memcpy(&out, p, sizeof(out));
  return out;
}
// a, b, a, b, ...
TGV_INLINE Words pattern(int8_t a, int8_t b) { return Words{a, b, a, b, a, b, a, b}; }
// Each pair of lanes, added.
TGV_INLINE Quads pairs(Words x) {
  Quads both;
  __builtin_memcpy(&both, &x, sizeof(both));
  return (both >> 16) + (both << 16 >> 16);
}

TGV_INLINE Levels unpack4(const uint8_t* tile) {
  Levels out;
  for (int i = 0; i < 4; ++i) {
    for (int v = 0; v < 4; ++v) {
      const Words bytes = words_at(tile + 64 * i + 16 * v);
      for (int s = 0; s < 4; ++s) out.step[4 * i + s][v] = (bytes >> (4 * s)) & 15;
    }
  }
  return out;
}

// Sixteen products of at most 15 * 127 in a lane come to 30,480.
template <int kCount, int kTokens>
TGV_INLINE void dots4(const Levels (&levels)[kCount], const RoundedTile* x,
                      Ints (&sums)[kTokens][kCount]) {
  Words part[4] = {};
  for (int i = 0; i < 4; ++i) {
    for (int s = 0; s < 4; ++s) {
      const int8_t* k = x->q + 4 * i + s / 2 + 16 * (s % 2);
      const Words both = pattern(k[0], k[2]);
      for (int v = 0; v < 4; ++v) part[v] += levels[0].step[4 * i + s][v] * both;
    }
  }
  for (int v = 0; v < 4; ++v) sums[0][0].part[v] += pairs(part[v]);
}

TGV_INLINE Levels unpack8(const uint8_t* tile) {
  Levels out;
  const Words flip = words_at("\x80\x80\x80\x80\x80\x80\x80\x80\x80\x80\x80\x80\x80\x80\x80\x80");
  for (int c = 0; c < 8; ++c) {
    for (int v = 0; v < 4; ++v) {
      const Words bytes = words_at(tile + 64 * c + 16 * v) ^ flip;
      out.step[2 * c][v] = bytes << 8 >> 8;
      out.step[2 * c + 1][v] = bytes >> 8;
    }
  }
  return out;
}

// Two products of at most 128 * 127 in a lane come to 32,512.
template <int kCount, int kTokens>
TGV_INLINE void dots8(const Levels (&levels)[kCount], const RoundedTile* x,
                      Ints (&sums)[kTokens][kCount]) {
  for (int c = 0; c < 8; ++c) {
    const int8_t* k = x->q + 4 * c;
    const Words even = pattern(k[0], k[2]), odd = pattern(k[1], k[3]);
    for (int v = 0; v < 4; ++v) {
      const Words part = levels[0].step[2 * c][v] * even + levels[0].step[2 * c + 1][v] * odd;
      sums[0][0].part[v] += pairs(part);
    }
  }
}

TGV_INLINE float from_half(uint16_t half) {
  const uint32_t sign = static_cast<uint32_t>(half & 0x8000) << 16;
  const uint32_t exponent = (half >> 10) & 31, fraction = half & 1023;
  if (exponent == 0) {  // zero and denormals: fraction * 2^-24, exact
    const float magnitude = static_cast<float>(fraction) * 5.9604644775390625e-8f;
    return sign ? -magnitude : magnitude;
  }
  const uint32_t bits =
      exponent == 31 ? 0x7f800000u | fraction << 13 : (exponent + 112) << 23 | fraction << 13;
  return __builtin_bit_cast(float, sign | bits);
}

TGV_INLINE Floats scales(const uint8_t* p) {
  Floats out;
  for (int r = 0; r < kLanes; ++r) {
    uint16_t half;
    __builtin_memcpy(&half, p + 2 * r, 2);
    out.part[r / 4][r % 4] = from_half(half);
  }
  return out;
}
TGV_INLINE Ints zeros(const uint8_t* p) {
  Ints out;
  for (int r = 0; r < kLanes; ++r) out.part[r / 4][r % 4] = p[r];
  return out;
}
TGV_INLINE Ints splat(int32_t x) {
  const Quads four = {x, x, x, x};
  return {{four, four, four, four}};
}
TGV_INLINE Floats splat(float x) {
  const Reals four = {x, x, x, x};
  return {{four, four, four, four}};
}
TGV_INLINE Ints multiply(Ints a, const Ints& b) {
  for (int v = 0; v < 4; ++v) a.part[v] *= b.part[v];
  return a;
}
TGV_INLINE Floats multiply(Floats a, const Floats& b) {
  for (int v = 0; v < 4; ++v) a.part[v] *= b.part[v];
  return a;
}
TGV_INLINE Ints add(Ints a, const Ints& b) {
  for (int v = 0; v < 4; ++v) a.part[v] += b.part[v];
  return a;
}
TGV_INLINE Floats add(Floats a, const Floats& b) {
  for (int v = 0; v < 4; ++v) a.part[v] += b.part[v];
  return a;
}
TGV_INLINE Floats subtract(Floats a, const Floats& b) {
  for (int v = 0; v < 4; ++v) a.part[v] -= b.part[v];
  return a;
}
TGV_INLINE Floats as_floats(const Ints& x) {
  Floats out;
  __builtin_memcpy(out.part, x.part, sizeof(out.part));
  return out;
}

// a b + c rounded once. Where that is no instruction the C library has it, one call a lane.
// Instead: the product of two floats is exact in double, and a sum of doubles rounded to odd (its
// last bit set if anything was lost) rounds to the right float, because double has more than two
// bits extra.
TGV_INLINE Floats fma(const Floats& a, const Floats& b, const Floats& c) {
  Floats result = {};
#if defined(__FP_FAST_FMAF)
  for (int r = 0; r < kLanes; ++r) {
    const int v = r / 4, i = r % 4;
    result.part[v][i] = __builtin_fmaf(a.part[v][i], b.part[v][i], c.part[v][i]);
  }
#else
  using Pair = float __attribute__((vector_size(8)));
  using Wide = double __attribute__((vector_size(16)));
  using Bits = int64_t __attribute__((vector_size(16)));
  for (int v = 0; v < 4; ++v) {
    for (int i = 0; i < 4; i += 2) {
      const Pair a2 = {a.part[v][i], a.part[v][i + 1]}, b2 = {b.part[v][i], b.part[v][i + 1]},
                 c2 = {c.part[v][i], c.part[v][i + 1]};
      const Wide product = __builtin_convertvector(a2, Wide) * __builtin_convertvector(b2, Wide);
      const Wide addend = __builtin_convertvector(c2, Wide);
      const Wide sum = product + addend;
      const Wide shown = sum - product;
      const Wide lost = (product - (sum - shown)) + (addend - shown);
      Bits bits, lost_bits;
      __builtin_memcpy(&bits, &sum, sizeof(bits));
      __builtin_memcpy(&lost_bits, &lost, sizeof(bits));
      const Bits inexact = (lost < 0.0) | (lost > 0.0);  // not where it is NaN
      const Bits even = (bits & 1) - 1;
      const Bits away = 1 + 2 * ((bits ^ lost_bits) >> 63);  // +1: what was lost has the same sign
      bits += away & even & inexact;
      Wide odd;
      __builtin_memcpy(&odd, &bits, sizeof(odd));
      const Pair out = __builtin_convertvector(odd, Pair);
      result.part[v][i] = out[0];
      result.part[v][i + 1] = out[1];
    }
  }
#endif
  return result;
}

TGV_INLINE Floats load(const float* p) {
  Floats out;
  __builtin_memcpy(out.part, p, sizeof(out.part));
  return out;
}
TGV_INLINE void store(float* p, const Floats& x) { __builtin_memcpy(p, x.part, sizeof(x.part)); }
TGV_INLINE Floats load_floats(const uint8_t* p) { return load(reinterpret_cast<const float*>(p)); }
// kLanes pairs of bf16: the low and the high halves of 32-bit lanes.
TGV_INLINE void load_pairs(const uint8_t* p, Floats (&out)[2]) {
  for (int v = 0; v < 4; ++v) {
    Quads both;
    __builtin_memcpy(&both, p + 16 * v, sizeof(both));
    const Quads low = both << 16, high = both & static_cast<int32_t>(0xffff0000);
    __builtin_memcpy(&out[0].part[v], &low, sizeof(low));
    __builtin_memcpy(&out[1].part[v], &high, sizeof(high));
  }
}

}  // namespace
}  // namespace tgv::cpu
