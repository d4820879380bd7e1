// One product as an op of its own: linear.h over a thread pool, for callers that have no phases.
//
// What     y = act(x W^T + bias), W packed as int4, int8, bf16 or f32: linear.h has the rest.
// Threads  One wake-up of the pool for the whole product; activations are rounded in one phase,
//          row blocks claimed in the next. Small products run on the calling thread alone.
// Limits   M >= 0. At most 256 tokens are in work at once, which bounds the scratch.
#pragma once

#include <cstddef>

#include "base/isa.h"
#include "base/thread_pool.h"
#include "kernels/cpu/linear.h"

namespace tgv::cpu {

struct MatmulParams {
  Linear linear;
  int64_t tokens = 0;        // M
  float* y = nullptr;        // [M, N]
  const float* x = nullptr;  // [M, K]
  void* scratch = nullptr;   // [matmul_scratch_bytes()], 64-byte aligned; any content
};

// Null, or the sentence why matmul cannot run this.
const char* matmul_why_not(const MatmulParams& params);

size_t matmul_scratch_bytes(const LinearShape& shape, int64_t tokens);

// Allocates nothing. Throws InvalidArgument with the sentence of matmul_why_not.
void matmul(const MatmulParams& params, ThreadPool& pool, Isa isa);

// Whole matrices (linear.h packs parts). Throw InvalidArgument.
void int4_pack(const LinearShape& shape, uint8_t* packed, const Int4Source& source,
               ThreadPool& pool);
void int8_pack(const LinearShape& shape, uint8_t* packed, const int8_t* qweight,
               const float* scales, ThreadPool& pool);
void float_pack(const LinearShape& shape, uint8_t* packed, const float* weights, ThreadPool& pool);

}  // namespace tgv::cpu
