#include "kernels/cuda/prefill_attention.h"

#include "base/errors.h"

namespace tgv::cuda {

int64_t prefill_attention_bytes(const PrefillAttentionParams& p, int64_t total_tokens,
                                int64_t total_positions) {
  return total_positions * p.heads * kv_row_bytes(p.kind, p.head_dim) * 2 +
         total_tokens * p.heads * p.head_dim * (kv_query_bytes(p.kind) + (p.out_is_half ? 2 : 4));
}

std::string prefill_attention_why_not(const PrefillAttentionParams& p) {
  if (p.head_dim != 64 && p.head_dim != 80) {
    return concat("head_dim is ", p.head_dim, ", expected 64 or 80");
  }
  if (static_cast<int>(p.kind) >= kKvKinds) {
    return concat("kind is ", static_cast<int>(p.kind), ", expected one of KvKind");
  }
  if (p.kind == KvKind::kF32) {
    return "the tensor core does not keep the bits of f32 pages; paged_attention takes them, a "
           "token as a sequence";
  }
  if (p.sequences < 1 || p.heads < 1 || p.max_pages < 1 || p.max_tokens < 1) {
    return concat("S=", p.sequences, ", H=", p.heads, ", max_pages=", p.max_pages,
                  ", max_tokens=", p.max_tokens, ", expected all >= 1");
  }
  if (int64_t{p.max_tokens} > int64_t{p.max_pages} * kPagePositions) {
    return concat("max_tokens is ", p.max_tokens, ", but ", p.max_pages, " pages hold ",
                  int64_t{p.max_pages} * kPagePositions, " positions");
  }
  if (!p.out || !p.q || !p.k_pages || !p.v_pages || !p.block_table || !p.first_tokens ||
      !p.tokens || !p.contexts) {
    return "a pointer is null";
  }
  if (kv_has_scales(p.kind) != (p.k_scales && p.v_scales) || !p.k_scales != !p.v_scales) {
    return "k_scales and v_scales belong to int8 and e4m3 pages, and to no others";
  }
  for (const void* pointer :
       {static_cast<const void*>(p.out), p.q, p.k_pages, p.v_pages,
        static_cast<const void*>(p.k_scales), static_cast<const void*>(p.v_scales)}) {
    if (reinterpret_cast<uintptr_t>(pointer) % 16)
      return "out, q, pages or scales are not 16-byte aligned";
  }
  return "";
}

}  // namespace tgv::cuda
