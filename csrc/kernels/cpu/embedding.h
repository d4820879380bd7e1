// Token embeddings: row ids[t] of a table, as float32.
//
// What     y[t,:] = rows[ids[t],:], times scales[ids[t]] for an int8 table.
// Tensors  rows [V, C] f32, bf16 or i8; scales [V] f32 for i8, else null; ids [T] i32; y [T, C]
//          f32, apart from all of these.
// Threads  None.
// Traffic  One row of the table and one of y per token.
// Numerics bf16 is exact; int8 is one product, rounded once: the same on every CPU.
// Limits   C >= 1, T >= 0; ids in 0..V-1, which the caller sees to (embed_why_not).
// Oracle   tinygptv_fast.reference.embedding (torch).
#pragma once

#include <cstdint>
#include <string>

namespace tgv::cpu {

enum class EmbeddingKind { kF32, kBF16, kInt8 };

struct EmbeddingTable {
  EmbeddingKind kind = EmbeddingKind::kF32;
  const void* rows = nullptr;     // [V, C] float32, bfloat16 bits or int8
  const float* scales = nullptr;  // [V]; null unless kInt8
  int64_t vocab = 0;              // V
  int64_t width = 0;              // C
};

// Empty, or the sentence why these ids cannot be looked up: the table, or the first bad id.
std::string embed_why_not(const EmbeddingTable& table, const int32_t* ids, int64_t tokens);

// y: [T, C]. Checks nothing.
void embed(float* y, const EmbeddingTable& table, const int32_t* ids, int64_t tokens);

}  // namespace tgv::cpu
