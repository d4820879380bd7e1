// Matrix product with int4 weights and activations rounded to int8: y = act(x W^T + bias).
//
// What     y[m,n] = act(bias[n] + sum over blocks b of 32 k of d(m,n,b) * (s(n,g) * a(m,b))): s is
//          the float16 scale of the weight group g that holds b, a the scale of the activations.
// Math     a = max|x| / 127 over the block, xq = nearest(x * (127 / max|x|)), ties to even;
//          d = sum (q - z) xq, an exact integer. A block whose max|x| is below 2^-100 counts as
//          zeros; one that holds NaN or infinity makes its whole row of y NaN, and no other.
// Tensors  x [M, K] f32, weights as int4_pack writes them (below), bias [N] f32; y [M, N] f32.
// Packed   Blocks of 16 rows, one after another, N and K padded. A block holds for each group of
//          its rows 16 float16 scales, when asymmetric 16 zeros of one byte, and tiles of 16 rows
//          by 32 k, 256 bytes each: one stream, read in order. Byte 64 i + 4 r + j of a tile is
//          k = 4 i + j of row r in the low nibble and k = 16 + 4 i + j in the high one, so that a
//          32-bit lane of any vector is four k of one row.
// Threads  Split N alone. Activations are rounded first, tokens split between threads.
// Traffic  The weights once per 64 tokens from cache and once per 256 from memory; 40 bytes of
//          rounded activations for 32 k of a token.
// Work     Per 32 k of 16 rows and one token: 8 dot products of 64 bytes (AVX-512 VNNI), one
//          conversion, one multiplication, one FMA. A tile is unpacked once per 64 tokens.
// Numerics One FMA chain in ascending k for every (m, n), whatever M, N, threads or ISA, so that
//          y[m,n] depends on x[m,:] and W[n,:] alone and all ISAs agree bit for bit.
// Limits   M >= 0; N, K >= 1; G in 32, 64, 128, the last group may be short. y overlaps no input.
// Oracle   tinygptv_fast.reference.int4_matmul (torch).
#pragma once

#include <cstddef>
#include <cstdint>

#include "base/isa.h"
#include "base/thread_pool.h"

namespace tgv::cpu {

enum class Int4Activation { kNone, kGeluTanh };

// Sizes of a packed matrix.
struct Int4Shape {
  int64_t rows = 0;     // N
  int64_t columns = 0;  // K
  int64_t group_size = 32;
  bool symmetric = true;

  int64_t groups() const { return (columns + group_size - 1) / group_size; }
  int64_t tiles() const { return (columns + 31) / 32; }       // in k
  int64_t row_blocks() const { return (rows + 15) / 16; }     // of 16 rows
  int64_t head_bytes() const { return symmetric ? 32 : 48; }  // before the tiles of a group
  int64_t group_bytes() const { return head_bytes() + 256 * (group_size / 32); }
  int64_t block_bytes() const {  // so that every block starts a cache line
    return (head_bytes() * groups() + 256 * tiles() + 63) / 64 * 64;
  }
  int64_t packed_bytes() const { return row_blocks() * block_bytes(); }
};

// Null, or the sentence why no matrix of this shape can be packed or multiplied.
const char* int4_shape_why_not(const Int4Shape& shape);

struct Int4PackParams {
  Int4Shape shape;
  uint8_t* packed = nullptr;         // [packed_bytes()]
  const uint8_t* qweight = nullptr;  // [N, ceil(K/2)], low nibble = even k
  const uint16_t* scales = nullptr;  // [N, ceil(K/G)] float16 bits
  const uint8_t* zeros = nullptr;    // [N, ceil(ceil(K/G)/2)] packed likewise; null when symmetric
};

// Throws InvalidArgument.
void int4_pack(const Int4PackParams& params, ThreadPool& pool);

struct Int4MatmulParams {
  Int4Shape shape;
  int64_t tokens = 0;  // M
  Int4Activation activation = Int4Activation::kNone;
  float* y = nullptr;               // [M, N]
  const float* x = nullptr;         // [M, K]
  const uint8_t* packed = nullptr;  // [packed_bytes()]
  const float* bias = nullptr;      // [N]; may be null
  void* scratch = nullptr;          // [int4_matmul_scratch_bytes()], 64-byte aligned; any content
};

// Null, or the sentence why int4_matmul cannot run this.
const char* int4_matmul_why_not(const Int4MatmulParams& params);

// Bounded: at most 256 tokens are in work at once.
size_t int4_matmul_scratch_bytes(const Int4Shape& shape, int64_t tokens);

// Allocates nothing. Throws InvalidArgument with the sentence of int4_matmul_why_not.
void int4_matmul(const Int4MatmulParams& params, ThreadPool& pool, Isa isa);

}  // namespace tgv::cpu
