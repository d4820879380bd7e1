#include "kernels/cpu/embedding.h"

#include <cstring>

#include "base/errors.h"

namespace tgv::cpu {

namespace {

// Loops that every compiler vectorises: a row is some microseconds of memory, whatever the ISA.
void widen_bf16(float* y, const uint16_t* row, int64_t width) {
  for (int64_t i = 0; i < width; ++i) {
    const uint32_t bits = static_cast<uint32_t>(row[i]) << 16;
    std::memcpy(y + i, &bits, sizeof(bits));
  }
}

void scale_int8(float* y, const int8_t* row, float scale, int64_t width) {
  for (int64_t i = 0; i < width; ++i) y[i] = static_cast<float>(row[i]) * scale;
}

}  // namespace

std::string embed_why_not(const EmbeddingTable& table, const int32_t* ids, int64_t tokens) {
  if (table.vocab < 1 || table.width < 1 || table.vocab > INT32_MAX || table.width > INT32_MAX) {
    return concat("the table is [V=", table.vocab, ",C=", table.width,
                  "], expected V and C in 1..2^31-1");
  }
  if (!table.rows || (table.scales != nullptr) != (table.kind == EmbeddingKind::kInt8)) {
    return "the table lacks its rows, or has not scales if and only if it is int8";
  }
  if (tokens < 0 || (tokens > 0 && !ids)) {
    return concat("there are T=", tokens, " ids", ids ? "" : " at a null pointer",
                  ", expected T >= 0 and a pointer");
  }
  for (int64_t t = 0; t < tokens; ++t) {
    if (ids[t] < 0 || ids[t] >= table.vocab) {
      return concat("ids[", t, "] is ", ids[t], ", expected 0..", table.vocab - 1);
    }
  }
  return {};
}

void embed(float* y, const EmbeddingTable& table, const int32_t* ids, int64_t tokens) {
  const int64_t width = table.width;
  for (int64_t t = 0; t < tokens; ++t, y += width) {
    const int64_t first = ids[t] * width;
    switch (table.kind) {
      case EmbeddingKind::kF32:
        std::memcpy(y, static_cast<const float*>(table.rows) + first,
                    static_cast<size_t>(width) * sizeof(float));
        break;
      case EmbeddingKind::kBF16:
        widen_bf16(y, static_cast<const uint16_t*>(table.rows) + first, width);
        break;
      case EmbeddingKind::kInt8:
        scale_int8(y, static_cast<const int8_t*>(table.rows) + first, table.scales[ids[t]], width);
        break;
    }
  }
}

}  // namespace tgv::cpu
