#include "kernels/cpu/paged_attention.h"

#include <algorithm>

#include "base/errors.h"
#include "kernels/cpu/overlap.h"
#include "kernels/cpu/paged_attention_isa.h"
#include "kernels/cpu/pairs16_portable.h"
// after the vectors it is written over
#include "kernels/cpu/paged_attention_body.h"

namespace tgv::cpu {

namespace {

constexpr int64_t kMaxSize = int64_t{1} << 31;  // keeps every product of sizes inside 64 bits
constexpr int64_t kFewestHeads = 4;    // of a piece for one token: keeps its runs of memory long
constexpr int64_t kFewestTokens = 64;  // of a piece of a prompt: what pays for a conversion
constexpr int64_t kShares = 4;         // pieces per worker, so that all end together

PagedAttentionBody* body_of(Isa isa, KvKind kind) {
#if defined(__x86_64__)
  switch (isa) {
    case Isa::kAvx512Vnni:
      return kind == KvKind::kI8 ? paged_attention_avx512vnni : paged_attention_avx512;
    case Isa::kAvx512:
      return paged_attention_avx512;
    case Isa::kAvxVnni:
    case Isa::kAvx2:
      return paged_attention_avx2;
    case Isa::kPortable:
      break;
  }
#endif
  (void)isa;
  (void)kind;
  return paged_attention_portable;
}

int64_t pieces_of(int64_t size, int64_t piece) { return (size + piece - 1) / piece; }

int64_t kind_bytes(KvKind kind) { return kind == KvKind::kF32 ? 4 : kind == KvKind::kI8 ? 1 : 2; }

// What the pool is given: two references in a lambda are stored without allocating.
struct Work {
  const PagedAttentionParams& params;
  const PagedAttentionPieces pieces;
  void* const scratch;
  const Isa isa;

  void run(ThreadPool& pool, int worker) const {
    const size_t bytes = paged_attention_scratch_bytes(params.head_dim);
    uint8_t* const mine = static_cast<uint8_t*>(scratch) + static_cast<size_t>(worker) * bytes;
    for (int64_t i; (i = pool.claim(1)) < pieces.count();) {
      paged_attention(params, pieces, i, mine, isa);
    }
  }
};

}  // namespace

const char* paged_attention_why_not(const PagedAttentionParams& p) {
  if (p.heads < 1 || p.heads > kMaxSize) return "H is 1..2^31";
  if (p.head_dim < 4 || p.head_dim > kMaxPadded || p.head_dim % 4) {
    return "D is a multiple of 4 in 4..256";
  }
  if (p.tokens < 0 || p.tokens > kMaxSize) return "T is 0..2^31";
  if (p.first_position < 0 || p.first_position > kMaxSize) return "first_position is 0..2^31";
  if (p.tokens == 0) return nullptr;
  if (!p.y || !p.q || !p.pages.k || !p.pages.v || !p.block_table) return "no pointer may be null";
  if (p.pages.kind == KvKind::kI8 && (!p.pages.k_scales || !p.pages.v_scales)) {
    return "int8 pages need scales";
  }
  const int64_t bytes = p.tokens * p.heads * p.head_dim * 4;
  if (overlap(p.y, bytes, p.q, bytes)) return "y must not overlap q";
  return nullptr;
}

int64_t paged_attention_bytes(const PagedAttentionParams& p) {
  const int64_t row = p.head_dim * kind_bytes(p.pages.kind) + (p.pages.kind == KvKind::kI8 ? 2 : 0);
  const int64_t context = p.first_position + p.tokens;
  return p.heads * (2 * context * row + 2 * p.tokens * p.head_dim * 4);
}

size_t paged_attention_scratch_bytes(int64_t head_dim) {
  const int64_t padded = (head_dim + 15) / 16 * 16;
  const int64_t few = kFewRows * (3 * padded + kCutTokens);
  const int64_t many = 2 * kCutTokens * (padded + 1) + 2 * kManyTokens * padded +
                       kBlockTokens * (padded + kCutTokens);
  return static_cast<size_t>(std::max(few, many)) * sizeof(float);
}

PagedAttentionPieces paged_attention_pieces(const PagedAttentionParams& p, int workers) {
  PagedAttentionPieces out;
  const int64_t wanted = workers == 1 ? 1 : kShares * workers;
  if (p.tokens <= kFewTokens) {
    out.tokens = std::max<int64_t>(p.tokens, 1);
    const int64_t share = pieces_of(p.heads, wanted);
    out.heads = std::clamp(share, std::min(p.heads, kFewestHeads), kFewHeads);
  } else {
    const int64_t token_pieces = pieces_of(wanted, p.heads);
    out.tokens = std::clamp(pieces_of(p.tokens, token_pieces), kFewestTokens, kManyTokens);
  }
  out.head_pieces = pieces_of(p.heads, out.heads);
  out.token_pieces = pieces_of(p.tokens, out.tokens);
  return out;
}

void paged_attention(const PagedAttentionParams& params, int64_t head_begin, int64_t head_end,
                     int64_t token_begin, int64_t token_end, void* scratch, Isa isa) {
  body_of(isa, params.pages.kind)(params, {head_begin, head_end, token_begin, token_end}, scratch);
}

void paged_attention(const PagedAttentionParams& params, const PagedAttentionPieces& pieces,
                     int64_t index, void* scratch, Isa isa) {
  const int64_t head = index / pieces.token_pieces * pieces.heads;
  // Later tokens see more: they begin first.
  const int64_t token = (pieces.token_pieces - 1 - index % pieces.token_pieces) * pieces.tokens;
  paged_attention(params, head, std::min(head + pieces.heads, params.heads), token,
                  std::min(token + pieces.tokens, params.tokens), scratch, isa);
}

void paged_attention(const PagedAttentionParams& params, ThreadPool& pool, void* scratch, Isa isa) {
  if (const char* why = paged_attention_why_not(params)) {
    throw InvalidArgument(concat("paged_attention of [T=", params.tokens, ",H=", params.heads,
                                 ",D=", params.head_dim, "] cannot run: ", why));
  }
  const Work work{params, paged_attention_pieces(params, pool.threads()), scratch, isa};
  if (work.pieces.count() == 0) return;
  pool.run([&](int worker) { work.run(pool, worker); });
}

void paged_attention_portable(const PagedAttentionParams& params, const PagedAttentionRange& range,
                              void* scratch) {
  attend(params, range, scratch);
}

}  // namespace tgv::cpu
