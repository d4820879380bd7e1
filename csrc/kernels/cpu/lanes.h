// Sixteen floats at once, the same on every instruction set: one register of AVX-512, two of AVX2,
// four of SSE2 or NEON. For bodies that are written once (norm_body.h, sampling_body.h): include it
// in one .cc file per ISA. There is no FMA and one order of sums, so all ISAs agree bit for bit.
//
// Everything is in an anonymous namespace and inlined, and nothing of the standard library is
// called (cmake/isa.cmake says why). Sources that include this compile with -Wno-psabi.
#pragma once

#include <cstdint>

namespace tgv::cpu {
namespace {

#define TGV_INLINE inline __attribute__((always_inline))

// One register; GCC turns wider vectors into element-wise code.
#if defined(__AVX512F__)
constexpr int kNative = 16;
#elif defined(__AVX__)
constexpr int kNative = 8;
#else
constexpr int kNative = 4;
#endif
constexpr int kLanes = 16, kParts = kLanes / kNative;

typedef float NativeFloats __attribute__((vector_size(4 * kNative)));
typedef int32_t NativeInts __attribute__((vector_size(4 * kNative)));

struct Lanes {
  NativeFloats part[kParts];
};

// f(0), f(1), ... with constants: GCC keeps in registers only what it never indexes by a loop.
#define TGV_EACH [&](int i) __attribute__((always_inline))
template <class F>
TGV_INLINE void each_part(F f) {
  f(0);
  if constexpr (kParts > 1) f(1);
  if constexpr (kParts > 2) f(2), f(3);
}
template <class F>
TGV_INLINE void each_of_four(F f) {
  f(0), f(1), f(2), f(3);
}

TGV_INLINE Lanes splat(float x) {
  Lanes out;
  each_part(TGV_EACH { out.part[i] = x - NativeFloats{}; });  // x - 0 is x, -0 included
  return out;
}
TGV_INLINE Lanes load(const float* p) {
  Lanes out;
  each_part(TGV_EACH { __builtin_memcpy(&out.part[i], p + i * kNative, sizeof(NativeFloats)); });
  return out;
}
TGV_INLINE void store(float* p, const Lanes& x) {
  each_part(TGV_EACH { __builtin_memcpy(p + i * kNative, &x.part[i], sizeof(NativeFloats)); });
}

// The first `count` of p, the rest `fill`; count in 1..16.
TGV_INLINE Lanes load_some(const float* p, int64_t count, float fill) {
  if (count == kLanes) return load(p);
  float padded[kLanes];
  store(padded, splat(fill));
  for (int64_t i = 0; i < count; ++i) padded[i] = p[i];
  return load(padded);
}
TGV_INLINE void store_some(float* p, const Lanes& x, int64_t count) {
  if (count == kLanes) return store(p, x);
  float all[kLanes];
  store(all, x);
  for (int64_t i = 0; i < count; ++i) p[i] = all[i];
}

TGV_INLINE Lanes operator+(Lanes a, const Lanes& b) {
  each_part(TGV_EACH { a.part[i] += b.part[i]; });
  return a;
}
TGV_INLINE Lanes operator-(Lanes a, const Lanes& b) {
  each_part(TGV_EACH { a.part[i] -= b.part[i]; });
  return a;
}
TGV_INLINE Lanes operator*(Lanes a, const Lanes& b) {
  each_part(TGV_EACH { a.part[i] *= b.part[i]; });
  return a;
}

// The larger of each pair; a NaN in b is passed over.
TGV_INLINE Lanes larger(Lanes a, const Lanes& b) {
  each_part(TGV_EACH { a.part[i] = b.part[i] > a.part[i] ? b.part[i] : a.part[i]; });
  return a;
}

// Whether any lane of x is at least `least`.
TGV_INLINE bool any_at_least(const Lanes& x, float least) {
  NativeInts found = {};
  each_part(TGV_EACH { found |= x.part[i] >= least; });
  int32_t all[kNative], any = 0;
  __builtin_memcpy(all, &found, sizeof(all));
  for (int i = 0; i < kNative; ++i) any |= all[i];
  return any != 0;
}

// exp(x) for x <= 0 within 2.5 units of 2^-24, relative; 0 below -87, NaN for NaN. 2^n p(r) with
// x = n ln 2 + r: ln 2 in two parts, the first short, so that r is off by one rounding; p is a
// polynomial of degree 6 with 1 + r exact, its error on |r| <= ln 2 / 2 below 0.2 units.
TGV_INLINE Lanes exp_of_negative(Lanes x) {
  each_part(TGV_EACH {
    NativeFloats& v = x.part[i];
    // Adding 1.5 * 2^23 leaves no bits for a fraction: the nearest integer is in the low bits.
    const NativeFloats shifted = v * 1.4426950408889634f + 12582912.0f;
    const NativeFloats n = shifted - 12582912.0f;
    const NativeFloats r = (v - n * 0.693145751953125f) - n * 1.4286068203094172e-6f;
    NativeFloats p = r * 0.0013926250394433737f + 0.00836323294788599f;
    p = p * r + 0.04166655242443085f;
    p = p * r + 0.16666576266288757f;
    p = p * r + 0.5f;
    p = p * r + 1.0f;
    p = p * r + 1.0f;
    // A product, not an addition to the exponent: NaN must stay NaN.
    const NativeFloats power = (NativeFloats)(((NativeInts)shifted - (0x4b400000 - 127)) << 23);
    v = v < -87.0f ? NativeFloats{} : p * power;
  });
  return x;
}

// The sum of all lanes: halves are added until one is left.
TGV_INLINE float sum(const Lanes& x) {
  float all[kLanes];
  store(all, x);
  for (int width = kLanes / 2; width > 0; width /= 2) {
    for (int i = 0; i < width; ++i) all[i] += all[i + width];
  }
  return all[0];
}

// Four independent sums, so that one addition need not wait for the one before. Vector i of a row
// goes to sum i mod 4.
struct FourSums {
  Lanes of[4] = {splat(0.0f), splat(0.0f), splat(0.0f), splat(0.0f)};
  TGV_INLINE float total() const { return sum((of[0] + of[2]) + (of[1] + of[3])); }
};
constexpr int64_t kFourLanes = 4 * kLanes;

}  // namespace
}  // namespace tgv::cpu
