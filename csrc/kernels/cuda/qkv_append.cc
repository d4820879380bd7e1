#include "kernels/cuda/qkv_append.h"

#include "base/errors.h"

namespace tgv::cuda {

namespace {

std::string sizes_why_not(const QkvAppendParams& p) {
  if (p.tokens < 1 || p.heads < 1 || p.sequences < 1 || p.max_pages < 1 || p.pages < 1) {
    return concat("T=", p.tokens, ", H=", p.heads, ", S=", p.sequences, ", max_pages=", p.max_pages,
                  ", NP=", p.pages, ", expected all >= 1");
  }
  if (p.head_dim < 8 || p.head_dim > kQkvAppendMaxHeadDim || p.head_dim % 8) {
    return concat("D is ", p.head_dim, ", expected a multiple of 8 in 8..", kQkvAppendMaxHeadDim);
  }
  if (p.rotary_dims < 0 || p.rotary_dims > p.head_dim || p.rotary_dims % 8) {
    return concat("R is ", p.rotary_dims, ", expected a multiple of 8 in 0..D=", p.head_dim);
  }
  if (p.rotary_dims && p.rotary_positions < 1) {
    return concat("cos and sin have ", p.rotary_positions, " positions, expected >= 1");
  }
  if (!p.sequence_of && p.sequences < p.tokens) {
    return concat("T=", p.tokens, " tokens of S=", p.sequences, " sequences need sequence_of");
  }
  // so that a row's number, and a block's, is an int
  if (int64_t{p.tokens} * p.heads * 3 > INT32_MAX) {
    return concat("T=", p.tokens, " times H=", p.heads, " is more than (2^31-1)/3");
  }
  return "";
}

}  // namespace

int64_t qkv_append_bytes(const QkvAppendParams& p) {
  const int64_t per_head =
      p.head_dim * (3 * 4 + kv_element_bytes(p.q_kind)) + 2 * kv_row_bytes(p.kind, p.head_dim);
  return int64_t{p.tokens} * p.heads * per_head;
}

std::string qkv_append_why_not(const QkvAppendParams& p) {
  const std::string why_not = sizes_why_not(p);
  if (!why_not.empty()) return why_not;
  if (kv_has_scales(p.q_kind)) return "q is f32, f16 or bf16";
  if (!p.q || !p.k_pages || !p.v_pages || !p.qkv || !p.positions || !p.block_table) {
    return "q, k_pages, v_pages, qkv, positions or block_table is null";
  }
  if (kv_has_scales(p.kind) != (p.k_scales && p.v_scales) || !p.k_scales != !p.v_scales) {
    return "8-bit pages need k_scales and v_scales, other pages have none";
  }
  if (p.rotary_dims && (!p.cos || !p.sin)) return "R above 0 needs cos and sin";
  if ((p.q_bias && !p.q_weight) || (p.k_bias && !p.k_weight)) return "a bias needs its weight";
  if ((p.q_weight || p.k_weight) && !(p.eps >= 0)) {
    return concat("eps is ", p.eps, ", expected >= 0");
  }
  for (const void* pointer : {static_cast<const void*>(p.q), static_cast<const void*>(p.k_pages),
                              static_cast<const void*>(p.v_pages)}) {
    if (reinterpret_cast<uintptr_t>(pointer) % 16) {
      return "q, k_pages or v_pages is not 16-byte aligned";
    }
  }
  for (const float* pointer : {p.qkv, p.q_weight, p.q_bias, p.k_weight, p.k_bias, p.cos, p.sin}) {
    if (reinterpret_cast<uintptr_t>(pointer) % 16) {
      return "qkv, a weight, a bias, cos or sin is not 16-byte aligned";
    }
  }
  return "";
}

}  // namespace tgv::cuda
