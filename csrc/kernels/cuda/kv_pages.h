// K and V of one layer as the CUDA kernels see them: the layout of kernels/cpu/kv_pages.h, in
// device memory.
//
// Pages [NP, H, PS, D] in the kind's elements; the 8-bit kinds have one f16 scale per head and
// position, [NP, H, PS], and value = element * scale. Position i of a sequence is slot i % PS of
// page block_table[i / PS].
#pragma once

#include <cstdint>

namespace tgv::cuda {

inline constexpr int kPagePositions = 16;  // PS

enum class KvKind : uint8_t { kF32, kF16, kBF16, kI8, kE4M3 };
inline constexpr int kKvKinds = 5;

constexpr bool kv_has_scales(KvKind kind) { return kind == KvKind::kI8 || kind == KvKind::kE4M3; }

constexpr int kv_element_bytes(KvKind kind) {
  return kind == KvKind::kF32 ? 4 : kv_has_scales(kind) ? 1 : 2;
}

// Queries have the type that the products are made in: f16, but bf16 for bf16 pages and f32 for
// f32.
constexpr int kv_query_bytes(KvKind kind) { return kind == KvKind::kF32 ? 4 : 2; }

// Bytes of one position's K or V of one head, its scale included.
constexpr int kv_row_bytes(KvKind kind, int head_dim) {
  return head_dim * kv_element_bytes(kind) + (kv_has_scales(kind) ? 2 : 0);
}

// The same of a kind that a kernel was made for: device code calls no host function, constexpr or
// not.
template <KvKind kKind>
inline constexpr bool kKvHasScales = kv_has_scales(kKind);
template <KvKind kKind>
inline constexpr int kKvElementBytes = kv_element_bytes(kKind);
template <KvKind kKind>
inline constexpr int kKvQueryBytes = kv_query_bytes(kKind);

}  // namespace tgv::cuda
