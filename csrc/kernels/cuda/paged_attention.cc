#include "kernels/cuda/paged_attention.h"

#include "base/errors.h"

namespace tgv::cuda {

int paged_attention_max_cuts(const PagedAttentionParams& p) {
  constexpr int kPagesPerCut = kCutPositions / kPagePositions;
  return (p.max_pages + kPagesPerCut - 1) / kPagesPerCut;
}

int64_t paged_attention_partial_elems(const PagedAttentionParams& p) {
  return int64_t{p.sequences} * p.heads * paged_attention_max_cuts(p) * (p.head_dim + 2);
}

int64_t paged_attention_bytes(const PagedAttentionParams& p, int64_t total_positions) {
  const int64_t rows = int64_t{p.sequences} * p.heads;
  return total_positions * p.heads * kv_row_bytes(p.kind, p.head_dim) * 2 +
         rows * p.head_dim * (kv_query_bytes(p.kind) + (p.out_is_half ? 2 : 4));
}

std::string paged_attention_why_not(const PagedAttentionParams& p) {
  if (p.head_dim != 64 && p.head_dim != 80) {
    return concat("head_dim is ", p.head_dim, ", expected 64 or 80");
  }
  if (static_cast<int>(p.kind) >= kKvKinds) {
    return concat("kind is ", static_cast<int>(p.kind), ", expected one of KvKind");
  }
  if (p.sequences < 1 || p.heads < 1 || p.max_pages < 1) {
    return concat("S=", p.sequences, ", H=", p.heads, ", max_pages=", p.max_pages,
                  ", expected all >= 1");
  }
  if (!p.out || !p.partial || !p.q || !p.k_pages || !p.v_pages || !p.block_table || !p.lengths) {
    return "a pointer is null";
  }
  if (kv_has_scales(p.kind) != (p.k_scales && p.v_scales) || !p.k_scales != !p.v_scales) {
    return "k_scales and v_scales belong to int8 and e4m3 pages, and to no others";
  }
  for (const void* pointer : {p.q, p.k_pages, p.v_pages}) {
    if (reinterpret_cast<uintptr_t>(pointer) % 16)
      return "q, k_pages or v_pages is not 16-byte aligned";
  }
  return "";
}

}  // namespace tgv::cuda
