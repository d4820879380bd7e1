#include "kernels/cpu/qkv_append.h"

#include <algorithm>

#include "base/errors.h"
#include "kernels/cpu/lanes16_portable.h"
#include "kernels/cpu/overlap.h"
#include "kernels/cpu/qkv_append_isa.h"
// after the vectors it is written over
#include "kernels/cpu/qkv_append_body.h"

namespace tgv::cpu {

namespace {

constexpr int64_t kMaxSize = int64_t{1} << 31;  // keeps every product of sizes inside 64 bits
constexpr int64_t kGrain = 4;                   // heads claimed at once
constexpr int64_t kAloneElements = 1 << 15;     // below which waking a thread costs more

QkvAppendBody* body_of(Isa isa) {
#if defined(__x86_64__)
  switch (isa) {
    case Isa::kAvx512Vnni:
    case Isa::kAvx512:
      return qkv_append_avx512;
    case Isa::kAvxVnni:
    case Isa::kAvx2:
      return qkv_append_avx2;
    case Isa::kPortable:
      break;
  }
#endif
  (void)isa;
  return qkv_append_portable;
}

}  // namespace

const char* qkv_append_why_not(const QkvAppendParams& p) {
  if (p.heads < 1 || p.heads > kMaxSize) return "H is 1..2^31";
  if (p.head_dim < 4 || p.head_dim > 256 || p.head_dim % 4) {
    return "D is a multiple of 4 in 4..256";
  }
  if (p.rotary_dims < 0 || p.rotary_dims > p.head_dim || p.rotary_dims % 2) {
    return "R is even in 0..D";
  }
  if (p.tokens < 0 || p.tokens > kMaxSize) return "T is 0..2^31";
  if (p.first_position < 0 || p.first_position > kMaxSize) return "first_position is 0..2^31";
  if (!(p.eps >= 0)) return "eps is a number that is not negative";
  if (p.tokens == 0) return nullptr;
  if (!p.qkv || !p.q || !p.pages.k || !p.pages.v || !p.block_table) {
    return "only weights and biases may be null";
  }
  if (p.rotary_dims && (!p.cos || !p.sin)) return "R above 0 needs cos and sin";
  if (p.pages.kind == KvKind::kI8 && (!p.pages.k_scales || !p.pages.v_scales)) {
    return "int8 pages need scales";
  }
  const int64_t bytes = p.tokens * p.heads * p.head_dim * 4;
  if (overlap(p.q, bytes, p.qkv, 3 * bytes)) return "q must not overlap qkv";
  if ((p.q_bias && !p.q_weight) || (p.k_bias && !p.k_weight)) return "a bias needs its weight";
  return nullptr;
}

void qkv_append(const QkvAppendParams& params, int64_t head_begin, int64_t head_end, Isa isa) {
  body_of(isa)(params, head_begin, head_end);
}

void qkv_append(const QkvAppendParams& params, ThreadPool& pool, Isa isa) {
  if (const char* why = qkv_append_why_not(params)) {
    throw InvalidArgument(concat("qkv_append of [T=", params.tokens, ",H=", params.heads,
                                 ",3,D=", params.head_dim, "] cannot run: ", why));
  }
  if (params.tokens * params.heads * params.head_dim < kAloneElements) {
    return qkv_append(params, 0, params.heads, isa);
  }
  const auto claim_heads = [&params, body = body_of(isa)](int64_t begin, int64_t end) {
    body(params, begin, end);
  };
  pool.parallel_for(params.heads, kGrain, claim_heads);
}

void qkv_append_portable(const QkvAppendParams& params, int64_t head_begin, int64_t head_end) {
  append(params, head_begin, head_end);
}

}  // namespace tgv::cpu
