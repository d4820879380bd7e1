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
  const int64_t row = int64_t{p.heads} * p.head_dim;
  return total_positions * row * 2 * 2 + int64_t{p.sequences} * row * (2 + 4);
}

std::string paged_attention_why_not(const PagedAttentionParams& p) {
  if (p.head_dim != 64 && p.head_dim != 80) {
    return concat("head_dim is ", p.head_dim, ", expected 64 or 80");
  }
  if (p.sequences < 1 || p.heads < 1 || p.max_pages < 1) {
    return concat("S=", p.sequences, ", H=", p.heads, ", max_pages=", p.max_pages,
                  ", expected all >= 1");
  }
  if (!p.out || !p.partial || !p.q || !p.k_pages || !p.v_pages || !p.block_table || !p.lengths) {
    return "a pointer is null";
  }
  for (const Half* pointer : {p.q, p.k_pages, p.v_pages}) {
    if (reinterpret_cast<uintptr_t>(pointer) % 8)
      return "q, k_pages or v_pages is not 8-byte aligned";
  }
  return "";
}

}  // namespace tgv::cuda
