// K and V of one layer as the attention kernels see them: pages of 16 tokens, somewhere in memory.
//
// Page p of K is [H, PS, D] in the kind's elements at k + p * page_stride; V likewise. The int8
// kind has one float16 scale per token and head, [H, PS] at k_scales + p * scale_stride bytes;
// value = level * scale. Which pages belong to a sequence, and in which order, says its block
// table: position i is slot i % PS of page block_table[i / PS].
#pragma once

#include <cstdint>

namespace tgv::cpu {

inline constexpr int64_t kPageTokens = 16;  // PS

enum class KvKind : uint8_t { kF32, kF16, kBF16, kI8 };

struct KvPages {
  KvKind kind = KvKind::kI8;
  void* k = nullptr;             // [H, PS, D] kind, page 0
  void* v = nullptr;             // [H, PS, D] kind, page 0
  uint16_t* k_scales = nullptr;  // [H, PS] f16, page 0; null unless kind is kI8
  uint16_t* v_scales = nullptr;  // [H, PS] f16, page 0; null unless kind is kI8
  int64_t page_stride = 0;       // bytes from a page's K (or V) to the next page's
  int64_t scale_stride = 0;      // bytes from a page's scales to the next page's
};

}  // namespace tgv::cpu
