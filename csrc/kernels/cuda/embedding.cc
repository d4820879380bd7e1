#include "kernels/cuda/embedding.h"

#include "base/errors.h"

namespace tgv::cuda {

namespace {

int64_t element_bytes(EmbeddingKind kind) {
  return kind == EmbeddingKind::kF32 ? 4 : kind == EmbeddingKind::kI8 ? 1 : 2;
}

}  // namespace

int64_t embedding_bytes(const EmbeddingParams& p) {
  const int64_t scale = p.kind == EmbeddingKind::kI8 ? 4 : 0;
  return p.tokens * (p.width * (element_bytes(p.kind) + 4) + scale + 4);
}

std::string embedding_why_not(const EmbeddingParams& p) {
  if (p.vocab < 1 || p.vocab > INT32_MAX || p.width < 4 || p.width > INT32_MAX || p.width % 4) {
    return concat("the table is [V=", p.vocab, ",C=", p.width,
                  "], expected V in 1..2^31-1 and C a multiple of 4 from 4");
  }
  if (p.tokens < 1 || p.tokens > INT32_MAX / embedding_row_blocks(p)) {
    return concat("T is ", p.tokens, ", expected 1..", INT32_MAX / embedding_row_blocks(p));
  }
  if (p.given_rows < 0 || (p.given_rows > 0) != (p.given != nullptr)) {
    return concat("G is ", p.given_rows, " and given is ", p.given ? "there" : "null");
  }
  if (!p.y || !p.rows || !p.ids) return "y, rows or ids is null";
  if ((p.scales != nullptr) != (p.kind == EmbeddingKind::kI8)) {
    return "an int8 table needs scales, other tables have none";
  }
  if (reinterpret_cast<uintptr_t>(p.y) % 16 || reinterpret_cast<uintptr_t>(p.given) % 16) {
    return "y or given is not 16-byte aligned";
  }
  const int64_t vector_bytes = 4 * element_bytes(p.kind);
  if (reinterpret_cast<uintptr_t>(p.rows) % static_cast<uintptr_t>(vector_bytes)) {
    return concat("rows is not ", vector_bytes, "-byte aligned");
  }
  return "";
}

}  // namespace tgv::cuda
