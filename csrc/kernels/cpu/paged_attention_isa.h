// Between paged_attention.cc and its bodies, one per ISA (paged_attention_body.h).
#pragma once

#include "kernels/cpu/paged_attention.h"

namespace tgv::cpu {

constexpr int64_t kCutTokens = 256;   // positions of a cut of the context
constexpr int64_t kFewTokens = 8;     // up to here K and V are used as they lie
constexpr int64_t kFewRows = 32;      // (token, head) in work together, few tokens
constexpr int64_t kFewHeads = 16;     // heads of those: one stream of memory
constexpr int64_t kManyTokens = 256;  // for which a cut is converted once
constexpr int64_t kBlockTokens = 24;  // whose scores of a cut lie in L1 together

// Of D, padded to whole vectors.
constexpr int64_t kMaxPadded = 256;

struct PagedAttentionRange {
  int64_t head_begin, head_end, token_begin, token_end;
};

using PagedAttentionBody = void(const PagedAttentionParams& params,
                                const PagedAttentionRange& range, void* scratch);

PagedAttentionBody paged_attention_portable, paged_attention_avx2, paged_attention_avx512,
    paged_attention_avx512vnni;  // the last of int8 pages alone

}  // namespace tgv::cpu
