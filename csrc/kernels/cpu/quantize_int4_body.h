// The search itself, compiled once per ISA: include it in one .cc per ISA, after defining nothing.
// Everything here is in an anonymous namespace, and nothing of the standard library is called (see
// cmake/isa.cmake). GCC and Clang vector types: 16 lanes are one AVX-512 register, two of AVX2,
// four of SSE2, with the same result in each.
#pragma once

#include "kernels/cpu/quantize_int4.h"

namespace tgv::cpu {
namespace {

// One register of the ISA this file is compiled for. Compilers split wider vectors badly: GCC
// turned 16 lanes without AVX-512 into element-wise code that ran 10 to 50 times slower.
#if defined(__AVX512F__)
constexpr int kLanes = 16;
#elif defined(__AVX__)
constexpr int kLanes = 8;
#else
constexpr int kLanes = 4;
#endif
constexpr int kMaxGroup = 128;
constexpr float kScaleMax = 65504.0f;
constexpr int kRefinements = 2;

typedef float Floats __attribute__((vector_size(4 * kLanes)));
typedef int32_t Ints __attribute__((vector_size(4 * kLanes)));
typedef uint32_t Bits __attribute__((vector_size(4 * kLanes)));

#define TGV_INLINE inline __attribute__((always_inline))

TGV_INLINE Floats splat(float x) { return x - Floats{}; }

// A constant the compiler does not see through. With a bound it knows, GCC writes a clamp as
// compare and blend, two instructions in place of one.
TGV_INLINE Floats bound(float x) {
  Floats v = splat(x);
#if defined(__x86_64__)
  __asm__("" : "+x"(v));
#endif
  return v;
}

TGV_INLINE Floats smaller(Floats a, Floats b) { return a < b ? a : b; }
TGV_INLINE Floats larger(Floats a, Floats b) { return a > b ? a : b; }
TGV_INLINE Floats magnitude(Floats x) { return (Floats)((Bits)x & 0x7fffffffu); }

// Nearest integer, ties to even, for |x| < 2^22: adding 1.5 * 2^23 leaves no bits for a fraction.
TGV_INLINE Floats nearest(Floats x) { return (x + 12582912.0f) - 12582912.0f; }

TGV_INLINE Floats floor_of(Floats x) {
  const Floats r = nearest(x);
  return r > x ? r - 1.0f : r;
}

TGV_INLINE Floats inverse(Floats s) { return s == 0.0f ? Floats{} : 1.0f / s; }

// x rounded to float16 (ties to even, denormals kept), saturating at +-65504; stays float32.
TGV_INLINE Floats to_half(Floats x) {
  const Bits sign = (Bits)x & 0x80000000u;
  const Floats a = smaller(magnitude(x), splat(kScaleMax));
  const Bits bits = (Bits)a;
  const Floats normal = (Floats)((bits + 0xfffu + ((bits >> 13) & 1u)) & 0xffffe000u);
  const Floats denormal = (a + 0.5f) - 0.5f;  // 0.5's last place is 2^-24, float16's denormal step
  const Floats rounded = a < 0x1p-14f ? denormal : normal;
  return (Floats)((Bits)rounded | sign);
}

// float16 bits of a float that is a float16 number.
uint16_t half_bits(float x) {
  uint32_t u;
  __builtin_memcpy(&u, &x, 4);
  const uint32_t sign = (u >> 16) & 0x8000u, a = u & 0x7fffffffu;
  if (a >= 0x38800000u) return static_cast<uint16_t>(sign | ((a - 0x38000000u) >> 13));
  const float units = (x < 0 ? -x : x) * 16777216.0f;
  return static_cast<uint16_t>(sign | static_cast<uint32_t>(units));
}

// kLanes groups side by side: w[k] holds element k of each.
struct Block {
  Floats w[kMaxGroup];
  int size;  // G
};

struct Fit {
  Floats scale, zero, error, norm;

  TGV_INLINE void offer(Floats new_error, Floats new_scale, Floats new_zero) {
    const Ints better = new_error < error;
    error = better ? new_error : error;
    scale = better ? new_scale : scale;
    zero = better ? new_zero : zero;
  }
};

struct Extremes {
  Floats largest, low, high;  // max|w|, min(0, w), max(0, w)
};

Extremes extremes_of(const Block& block) {
  Extremes e{};
  for (int k = 0; k < block.size; ++k) {
    e.low = smaller(e.low, block.w[k]);
    e.high = larger(e.high, block.w[k]);
  }
  e.largest = larger(-e.low, e.high);
  return e;
}

// Levels of both s and -s at once: they differ in which end has the eighth level.
TGV_INLINE void offer_pair(Fit& fit, const Block& block, Floats scale) {
  const Floats inv = inverse(scale);
  const Floats low = bound(-8.0f), high = bound(7.0f), minus_low = bound(-7.0f);
  const Floats minus_high = bound(8.0f);
  Floats plus = {}, minus = {};
  for (int k = 0; k < block.size; ++k) {
    const Floats w = block.w[k];
    const Floats p = nearest(smaller(larger(w * inv, low), minus_high));
    const Floats a = w - smaller(p, high) * scale;
    const Floats b = w - larger(p, minus_low) * scale;
    plus += a * a;
    minus += b * b;
  }
  fit.offer(plus, scale, fit.zero);
  fit.offer(minus, -scale, fit.zero);
}

TGV_INLINE Floats level(Floats w, Floats inv, Floats zero) {
  return nearest(smaller(larger(w * inv, -zero), 15.0f - zero));
}

void refine(Fit& fit, const Block& block) {
  for (int round = 0; round < kRefinements; ++round) {
    const Floats inv = inverse(fit.scale), zero = fit.zero;
    Floats product = {}, square = {};
    for (int k = 0; k < block.size; ++k) {
      const Floats p = level(block.w[k], inv, zero);
      product += block.w[k] * p;
      square += p * p;
    }
    const Floats scale = to_half(product / larger(square, splat(1.0f)));
    const Floats new_inv = inverse(scale);
    Floats error = {};
    for (int k = 0; k < block.size; ++k) {
      const Floats d = block.w[k] - level(block.w[k], new_inv, zero) * scale;
      error += d * d;
    }
    fit.offer(error, scale, zero);
  }
}

void search_symmetric(Fit& fit, const Block& block, Floats largest) {
  fit.norm = Floats{};
  for (int k = 0; k < block.size; ++k) fit.norm += block.w[k] * block.w[k];
  fit.error = fit.norm;  // that of s = 0, the candidate to beat
  fit.scale = Floats{};
  fit.zero = splat(8.0f);
  for (int i = 16; i <= 64; i += i < 38 ? 1 : 2) {
    offer_pair(fit, block, to_half(largest * (static_cast<float>(i) / 256.0f)));
  }
  refine(fit, block);
}

void search_asymmetric(Fit& fit, const Block& block, const Extremes& e) {
  search_symmetric(fit, block, e.largest);
  fit.zero = fit.scale < 0.0f ? splat(7.0f) : splat(8.0f);
  fit.scale = magnitude(fit.scale);
  const Floats span = e.high - e.low, middle = (e.high + e.low) * 0.5f;
  for (int i = 16; i < 36; ++i) {
    const Floats scale = to_half(span * static_cast<float>(i / 480.0));
    const Floats inv = inverse(scale);
    const Floats first = floor_of(7.5f - middle * inv);
    const Floats za = smaller(larger(first, splat(0.0f)), splat(15.0f));
    const Floats zb = smaller(larger(first + 1.0f, splat(0.0f)), splat(15.0f));
    const Floats low_a = -za, high_a = 15.0f - za, low_b = -zb, high_b = 15.0f - zb;
    Floats error_a = {}, error_b = {};
    for (int k = 0; k < block.size; ++k) {
      const Floats w = block.w[k];
      const Floats p = nearest(w * inv);
      const Floats a = w - smaller(larger(p, low_a), high_a) * scale;
      const Floats b = w - smaller(larger(p, low_b), high_b) * scale;
      error_a += a * a;
      error_b += b * b;
    }
    fit.offer(error_a, scale, za);
    fit.offer(error_b, scale, zb);
  }
  refine(fit, block);
}

// Elements of a group that exist (the last group of a row may be short).
TGV_INLINE int length_of(const QuantizeInt4Params& p, int64_t group) {
  const int64_t rest = p.columns - group * p.group_size;
  return static_cast<int>(rest < p.group_size ? rest : p.group_size);
}

void load(Block& block, const QuantizeInt4Params& p, int64_t first, int count) {
  block.size = static_cast<int>(p.group_size);
  float* to = reinterpret_cast<float*>(block.w);
  for (int lane = 0; lane < kLanes; ++lane) {
    int length = 0;
    if (lane < count) {
      const int64_t row = (first + lane) / p.groups(), group = (first + lane) % p.groups();
      const float* from = p.weight + row * p.columns + group * p.group_size;
      length = length_of(p, group);
      for (int k = 0; k < length; ++k) to[k * kLanes + lane] = from[k];
    }
    for (int k = length; k < block.size; ++k) to[k * kLanes + lane] = 0.0f;
  }
}

// Lanes of `bad` become zero, so that no NaN or infinity reaches a conversion to an integer.
void clear_lanes(Block& block, Ints bad) {
  for (int k = 0; k < block.size; ++k) block.w[k] = bad ? Floats{} : block.w[k];
}

TGV_INLINE bool any(Ints mask) {
  int32_t all = 0;
  for (int lane = 0; lane < kLanes; ++lane) all |= mask[lane];
  return all != 0;
}

void note_first(int64_t& place, Ints bad, int64_t first) {
  for (int lane = 0; lane < kLanes; ++lane) {
    if (bad[lane] && (place < 0 || first + lane < place)) place = first + lane;
  }
}

// The extremes of the block, after what cannot be quantised was noted and cleared.
Extremes checked_extremes(Block& block, bool symmetric, int64_t first,
                          QuantizeInt4Verdict& verdict) {
  Ints bad = {};
  for (int k = 0; k < block.size; ++k) bad |= ~(magnitude(block.w[k]) <= 0x1.fffffep127f);
  if (any(bad)) {
    note_first(verdict.not_finite, bad, first);
    clear_lanes(block, bad);
  }
  Extremes e = extremes_of(block);
  const Floats needed = symmetric ? e.largest / 8.0f : (e.high - e.low) / 15.0f;
  bad = needed > kScaleMax;
  if (any(bad)) {
    note_first(verdict.overflow, bad, first);
    clear_lanes(block, bad);
    e = extremes_of(block);
  }
  return e;
}

void store(const QuantizeInt4Params& p, const Block& block, const Fit& fit, int64_t first,
           int count) {
  alignas(64) int32_t q[kMaxGroup * kLanes];
  const Floats inv = inverse(fit.scale);
  Floats worst = {};
  for (int k = 0; k < block.size; ++k) {
    const Floats level_k = level(block.w[k], inv, fit.zero);
    worst = larger(worst, magnitude(block.w[k] - level_k * fit.scale));
    const Ints whole = __builtin_convertvector(level_k + fit.zero, Ints);
    __builtin_memcpy(q + k * kLanes, &whole, sizeof whole);
  }
  for (int lane = 0; lane < count; ++lane) {
    const int64_t item = first + lane, row = item / p.groups(), group = item % p.groups();
    const int length = length_of(p, group);
    const int zero = static_cast<int>(fit.zero[lane]);
    uint8_t* to = p.qweight + row * ((p.columns + 1) / 2) + group * p.group_size / 2;
    for (int k = 0; k < length; k += 2) {
      const int low = q[k * kLanes + lane];
      const int high = k + 1 < length ? q[(k + 1) * kLanes + lane] : zero;
      to[k / 2] = static_cast<uint8_t>(low | (high << 4));
    }
    p.scales[item] = half_bits(fit.scale[lane]);
    if (p.zeros) p.zeros[item] = static_cast<uint8_t>(zero);
    p.error[item] = fit.error[lane];
    p.norm[item] = fit.norm[lane];
    p.worst[item] = worst[lane];
  }
}

// Groups first .. first + count - 1, count <= kLanes.
void quantize_block(const QuantizeInt4Params& p, int64_t first, int count,
                    QuantizeInt4Verdict& verdict) {
  Block block;
  load(block, p, first, count);
  const Extremes e = checked_extremes(block, p.symmetric, first, verdict);
  Fit fit;
  if (p.symmetric) {
    search_symmetric(fit, block, e.largest);
  } else {
    search_asymmetric(fit, block, e);
  }
  store(p, block, fit, first, count);
}

void quantize_groups(const QuantizeInt4Params& p, int64_t begin, int64_t end,
                     QuantizeInt4Verdict& verdict) {
  for (int64_t first = begin; first < end; first += kLanes) {
    const int64_t rest = end - first;
    quantize_block(p, first, static_cast<int>(rest < kLanes ? rest : kLanes), verdict);
  }
}

}  // namespace
}  // namespace tgv::cpu
